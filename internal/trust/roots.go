package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// Roots are Sigstore instances, each of which is trusted by itself: its certificate
// authorities, its logs and its timestamp authorities.
type Roots []root.TrustedMaterial

// ParseRoots reads trusted roots in JSON, one after the other
// (application/vnd.dev.sigstore.trustedroot+json).
func ParseRoots(content []byte) (Roots, error) {
	var roots Roots
	for decoder := json.NewDecoder(bytes.NewReader(content)); ; {
		var one json.RawMessage
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("it is not JSON: %w", err)
		}
		parsed, err := root.NewTrustedRootFromJSON(one)
		if err != nil {
			return nil, fmt.Errorf("it is not a trusted root of Sigstore: %w", err)
		}
		roots = append(roots, parsed)
	}
	if len(roots) == 0 {
		return nil, errors.New("it is empty")
	}
	return roots, nil
}
