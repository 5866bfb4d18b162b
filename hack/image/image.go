package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is nobody's: config/manager runs the pods as the same one.
const user = "65532:65532"

// rootsFile is where crypto/x509 looks for the roots that registries' certificates are checked against.
const rootsFile = "etc/ssl/certs/ca-certificates.crt"

// platformImage is the image for one platform.
type platformImage struct {
	image       v1.Image
	platform    v1.Platform
	annotations map[string]string
}

// indexOf returns the image for the platforms of all binaries.
func indexOf(binaries []string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var annotations map[string]string
	for _, binary := range binaries {
		built, err := imageOf(binary)
		if err != nil {
			return nil, err
		}
		annotations = built.annotations
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: built.image, Descriptor: v1.Descriptor{Platform: &built.platform}})
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex), nil
}

// imageOf returns the image of a binary of the manager. What it says of itself, its
// time included, is what the Go command wrote into the binary.
func imageOf(binary string) (platformImage, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return platformImage{}, err
	}
	build, err := about(info)
	if err != nil {
		return platformImage{}, fmt.Errorf("looking at %s: %w", binary, err)
	}
	manager, err := os.ReadFile(binary)
	if err != nil {
		return platformImage{}, err
	}
	image, err := mutate.ConfigFile(emptyImage(), &v1.ConfigFile{
		OS: build.platform.OS, Architecture: build.platform.Architecture,
		Created: v1.Time{Time: build.commit},
		Config:  v1.Config{User: user, Entrypoint: []string{"/manager"}, Labels: build.annotations},
		RootFS:  v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return platformImage{}, err
	}
	for _, file := range []file{{rootsFile, 0o644, roots()}, {"manager", 0o755, manager}} {
		layer, err := file.layer(build.commit)
		if err != nil {
			return platformImage{}, err
		}
		history := v1.History{Created: v1.Time{Time: build.commit}, CreatedBy: "/" + file.path}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: history}); err != nil {
			return platformImage{}, err
		}
	}
	return platformImage{image: image, platform: build.platform, annotations: build.annotations}, nil
}

func emptyImage() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// build is what a binary says of itself.
type build struct {
	platform    v1.Platform
	commit      time.Time
	annotations map[string]string
}

// about returns what the Go command wrote into a binary.
func about(binary *buildinfo.BuildInfo) (build, error) {
	settings := map[string]string{}
	for _, setting := range binary.Settings {
		settings[setting.Key] = setting.Value
	}
	if settings["CGO_ENABLED"] != "0" || settings["GOOS"] != "linux" {
		return build{}, errors.New("it does not run in an image without other files: build it with CGO_ENABLED=0 GOOS=linux")
	}
	commit := time.Unix(0, 0).UTC() // of a build outside a clone
	if written := settings["vcs.time"]; written != "" {
		var err error
		if commit, err = time.Parse(time.RFC3339, written); err != nil {
			return build{}, fmt.Errorf("reading the time of its commit: %w", err)
		}
	}
	return build{
		platform: v1.Platform{OS: settings["GOOS"], Architecture: settings["GOARCH"]},
		commit:   commit,
		annotations: map[string]string{
			"org.opencontainers.image.title":    "wasme-operator",
			"org.opencontainers.image.source":   "https://github.com/wasme-io/wasme-operator",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  binary.Main.Version,
			"org.opencontainers.image.revision": settings["vcs.revision"],
			"org.opencontainers.image.created":  commit.Format(time.RFC3339),
		},
	}, nil
}

// file is a file of an image, in a layer of its own.
type file struct {
	path    string
	mode    int64
	content []byte
}

// layer returns the layer with the file and its folders.
func (f file) layer(modified time.Time) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for at, letter := range f.path {
		if letter != '/' {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: f.path[:at+1], Mode: 0o755, ModTime: modified}); err != nil {
			return nil, err
		}
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, ModTime: modified, Size: int64(len(f.content))}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(f.content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// roots returns Mozilla's roots as PEM. It leaves those out that Mozilla trusts for
// older certificates only: a file cannot say so.
func roots() []byte {
	var file bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			file.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return file.Bytes()
}
