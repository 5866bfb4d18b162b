package suite

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/wasme-io/wasme-operator/internal/preflight/suite/schema"
)

// Parse returns the tests of a file, ready to run. The name decides on the form:
// .textpb, .textproto and .pbtxt are textproto, .yaml and .yml are YAML. An error says
// where the file is wrong and what to change.
func Parse(name string, content []byte, read FileReader) (*Suite, error) {
	suite, err := parse(name, content, read)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return suite, nil
}

func parse(name string, content []byte, read FileReader) (*Suite, error) {
	if len(content) > MaxFileBytes {
		return nil, fmt.Errorf("the file has %d bytes, more than %d: split it", len(content), MaxFileBytes)
	}
	message, err := decode(name, content)
	if err != nil {
		return nil, err
	}
	return build(message, read)
}

func decode(name string, content []byte) (*schema.TestSuite, error) {
	switch strings.ToLower(path.Ext(name)) {
	case ".textpb", ".textproto", ".pbtxt":
		return decodeText(content)
	case ".yaml", ".yml":
		return decodeYAML(content)
	}
	return nil, errors.New("the form of the file is unknown: end its name with .textpb for textproto, or with .yaml")
}

// decodeText decodes textproto. Errors begin with the line and the column.
func decodeText(content []byte) (*schema.TestSuite, error) {
	message := &schema.TestSuite{}
	if err := prototext.Unmarshal(content, message); err != nil {
		// The library varies the space after its prefix from build to build.
		problem := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
		return nil, fmt.Errorf("%s: write a TestSuite as textproto", problem)
	}
	return message, nil
}
