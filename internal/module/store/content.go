package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// KeepContent checks a module whose bytes are at hand, within limits, and writes
// it to disk unless the store has it. The error is a *module.Error.
func (s *Store) KeepContent(content []byte, limits module.Limits) (module.Module, error) {
	size := int64(len(content))
	if bound := limits.Module(); size > bound.Bytes {
		return module.Module{}, bound.Exceeded()
	}
	versions, err := module.Inspect(bytes.NewReader(content), size)
	if err != nil {
		return module.Module{}, err
	}
	digest := sha256.Sum256(content)
	sum := hex.EncodeToString(digest[:])
	if !s.touch(sum) {
		err = s.write(content)
	}
	return module.Module{SHA256: sum, SizeBytes: size, ABIVersions: versions}, err
}

func (s *Store) write(content []byte) error {
	file, err := s.Create()
	if err != nil {
		return err
	}
	defer file.Discard()
	if _, err := file.Write(content); err != nil {
		return err
	}
	_, err = file.commit()
	return err
}
