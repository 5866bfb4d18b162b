package pull

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestAuthoritiesOfAnImage(t *testing.T) {
	r := moduletest.StartRegistry(t, registry.WithTLS())
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: moduletest.Wasm("behind a private authority"), RootIDs: []string{"r"}})
	moduletest.Must(t, err)
	reference, err := r.Push(t.Context(), "filter:v1", image)
	moduletest.Must(t, err)
	client := NewClient(Options{Limits: module.DefaultLimits})
	digest := func(certificates string) (*Image, error) {
		t.Helper()
		opened, err := client.OpenImage(Request{Image: reference, CACertificates: certificates})
		moduletest.Must(t, err)
		_, err = opened.Digest(t.Context())
		return opened, err
	}
	for range 2 { // the transport is kept
		_, err = digest(certificate)
		moduletest.Must(t, err)
	}
	_, err = digest("")
	moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "its certificate is not trusted")
	_, err = client.OpenImage(Request{Image: reference, CACertificates: "no certificate"})
	moduletest.WantError(t, err, wasmev1.ReasonConfigMapInvalid, "there is no certificate in it")
}

// A process reads the authorities once, so this test runs itself in others.
func TestAuthoritiesInSSLCertDir(t *testing.T) {
	const imageVariable = "PULL_TEST_IMAGE"
	if reference := os.Getenv(imageVariable); reference != "" {
		opened, err := NewClient(Options{Limits: module.DefaultLimits}).OpenImage(Request{Image: reference})
		moduletest.Must(t, err)
		_, err = opened.Digest(t.Context())
		moduletest.Must(t, err)
		return
	}
	r := moduletest.StartRegistry(t, registry.WithTLS())
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: moduletest.Wasm("behind a private authority"), RootIDs: []string{"r"}})
	moduletest.Must(t, err)
	reference, err := r.Push(t.Context(), "filter:v1", image)
	moduletest.Must(t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	folder := t.TempDir()
	moduletest.Must(t, os.WriteFile(filepath.Join(folder, "private.crt"), certificate, 0o600))
	for folder, trusted := range map[string]bool{folder: true, t.TempDir(): false} {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		command.Env = append(os.Environ(), imageVariable+"="+reference, "SSL_CERT_DIR="+folder)
		output, err := command.CombinedOutput()
		if trusted != (err == nil) || !trusted && !strings.Contains(string(output), "its certificate is not trusted") {
			t.Errorf("trusted %t: %v: %s", trusted, err, output)
		}
	}
}

// Whoever chooses the authority may be the registry.
func TestWhatAnAuthorityOfAnImageProvesIsKeptApart(t *testing.T) {
	keys := map[string]bool{}
	r := moduletest.StartRegistry(t, registry.WithTLS())
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
	for _, req := range []Request{{}, {CACertificates: certificate}, {CACertificates: certificate + certificate}, {InsecureSkipVerify: true}, {PlainHTTP: true}} {
		req.Image = "registry.example.com/filter:v1"
		opened, err := NewClient(Options{Limits: module.DefaultLimits}).OpenImage(req)
		moduletest.Must(t, err)
		keys[opened.Key("sha256:"+strings.Repeat("0", 64))] = true
	}
	if len(keys) != 5 {
		t.Errorf("%v", keys)
	}
}
