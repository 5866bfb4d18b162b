package module

import (
	"fmt"
	"io"
)

// Import keeps a module that was checked before, by the replica that it comes
// from. It reads no more than one byte beyond size. The error says so when the
// content has not that size or not the digest sha256 (64 hex), or is an *Error
// when it cannot be kept.
func (s *Store) Import(content io.Reader, sha256 string, size int64) error {
	file, err := s.create()
	if err != nil {
		return err
	}
	defer file.discard()
	if _, err := io.Copy(file, io.LimitReader(content, size+1)); err != nil {
		return fmt.Errorf("copying module %s: %w", sha256, err)
	}
	if file.size != size {
		return fmt.Errorf("copying module %s: what came has not its %d bytes", sha256, size)
	}
	if sum := file.digest(); sum != sha256 {
		return fmt.Errorf("copying module %s: what came has the digest %s", sha256, sum)
	}
	_, err = file.commit()
	return err
}
