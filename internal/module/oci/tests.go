package oci

import (
	"bytes"
	"io"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// TestFiles are the names of a file with tests for the module, at the root of a compat
// image, or as the title of a layer of an artifact.
var TestFiles = []string{"preflight-tests.textpb", "preflight-tests.yaml"}

// maxTestBytes is the largest file with tests.
const maxTestBytes = 256 << 10

// titleAnnotation names the file that a layer is (OCI image specification, annotations).
const titleAnnotation = "org.opencontainers.image.title"

// testLayer returns the layer of an artifact that is a file with tests, and the file's
// name; nil for none.
func (m *Manifest) testLayer() (*v1.Descriptor, string) {
	for i, layer := range m.Layers {
		if title := layer.Annotations[titleAnnotation]; slices.Contains(TestFiles, title) {
			return &m.Layers[i], title
		}
	}
	return nil, ""
}

// testFile returns the name of a file with tests at the root of an archive; empty when
// the entry is none.
func testFile(entry string) string {
	folder, name := path.Split(path.Clean("/" + entry))
	if folder == "/" && slices.Contains(TestFiles, name) {
		return name
	}
	return ""
}

// readTests reads a file with tests.
func (u *unpacking) readTests(name string, r io.Reader) error {
	var data bytes.Buffer
	if err := copyWithin(&data, r, module.Bound{Bytes: maxTestBytes, What: "the image's " + name}); err != nil {
		return err
	}
	u.tests = &module.Tests{Name: name, Content: data.Bytes()}
	return nil
}
