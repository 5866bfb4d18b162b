package cli_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/wasme-io/wasme-operator/internal/module/oci"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// layout is an OCI image layout with one image.
type layout struct {
	files    map[string][]byte
	manifest []byte
}

// memoryBlob is a blob in memory.
type memoryBlob struct{ *bytes.Reader }

func (memoryBlob) Discard() {}

func (l layout) blob(d v1.Descriptor) (oci.Blob, error) {
	content, found := l.files["blobs/sha256/"+d.Digest.Hex]
	if !found {
		return nil, fmt.Errorf("no blob %s", d.Digest)
	}
	return memoryBlob{bytes.NewReader(content)}, nil
}

func unpackLayout(t *testing.T, archive string) layout {
	t.Helper()
	content, err := os.ReadFile(archive)
	moduletest.Must(t, err)
	l := layout{files: map[string][]byte{}}
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		moduletest.Must(t, err)
		l.files[header.Name], err = io.ReadAll(r)
		moduletest.Must(t, err)
	}
	var index v1.IndexManifest
	moduletest.Must(t, json.Unmarshal(l.files["index.json"], &index))
	l.manifest = l.files["blobs/sha256/"+index.Manifests[0].Digest.Hex]
	return l
}
