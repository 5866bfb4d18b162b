package store

import (
	"fmt"
	"io"
)

// Import keeps a module that the replica from which it comes has checked. It
// reads at most one byte more than size. The error says when the content does
// not have that size or the digest sha256 (64 hex), or is a *module.Error when
// the disk does not take it.
func (s *Store) Import(content io.Reader, sha256 string, size int64) error {
	file, err := s.Create()
	if err != nil {
		return err
	}
	defer file.Discard()
	if _, err := io.Copy(file, io.LimitReader(content, size+1)); err != nil {
		return fmt.Errorf("copying module %s: %w", sha256, err)
	}
	if file.size != size {
		return fmt.Errorf("copying module %s: what came has not its %d bytes", sha256, size)
	}
	if sum := file.Digest(); sum != sha256 {
		return fmt.Errorf("copying module %s: what came has the digest %s", sha256, sum)
	}
	_, err = file.commit()
	return err
}
