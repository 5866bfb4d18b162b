package module

import (
	"encoding/hex"
	"fmt"
	"io"
)

// Import keeps a module that was checked before, by the replica that it comes
// from. The error says so when the content has not the digest sha256 (64 hex),
// or is an *Error when it cannot be kept.
func (s *Store) Import(content io.Reader, sha256 string) error {
	file, err := s.create()
	if err != nil {
		return err
	}
	defer file.discard()
	if _, err := io.Copy(file, content); err != nil {
		return fmt.Errorf("copying module %s: %w", sha256, err)
	}
	if sum := hex.EncodeToString(file.sum.Sum(nil)); sum != sha256 {
		return fmt.Errorf("copying module %s: what came has the digest %s", sha256, sum)
	}
	_, err = file.commit()
	return err
}
