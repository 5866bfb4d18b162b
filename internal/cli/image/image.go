// Package image writes Wasm modules into images.
//
// Write makes an image in one of three forms (forms.go), each of which the operator reads.
// It is reproducible: the same module gives the same digest.
package image

import (
	"bytes"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// Module is a Wasm module with what an image says about it.
type Module struct {
	// Wasm is the content of the .wasm file.
	Wasm []byte
	// RuntimeConfig is wasme's runtime-config.json; nil for none.
	RuntimeConfig []byte
	// RootIDs are those that the runtime configuration lists.
	RootIDs []string
	// Tests is a file with tests for the module; nil for none.
	Tests *module.Tests
}

// SHA256 returns the digest of the module's bytes, 64 hexadecimal digits.
func (m *Module) SHA256() string { return digestOf(m.Wasm).Hex }

// ABIVersions returns the versions of the proxy-wasm ABI that the module exports,
// ascending. The error says why the module is none for proxies.
func (m *Module) ABIVersions() ([]string, error) {
	return module.Inspect(bytes.NewReader(m.Wasm), int64(len(m.Wasm)))
}

// Digest returns the digest of an image's manifest.
func Digest(of partial.WithRawManifest) (v1.Hash, error) {
	manifest, err := of.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	return digestOf(manifest), nil
}

// Size returns the bytes of an image's layers and configuration.
func Size(of *v1.Manifest) int64 {
	size := of.Config.Size
	for _, layer := range of.Layers {
		size += layer.Size
	}
	return size
}

// FormOf returns the form of an image by its manifest.
func FormOf(manifest *v1.Manifest) Form {
	switch manifest.Config.MediaType {
	case WasmeConfig:
		return Wasme
	case CNCFConfig:
		return CNCF
	}
	return Compat
}
