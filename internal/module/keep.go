package module

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"k8s.io/apimachinery/pkg/types"
)

// Keep is Resolve for a module whose bytes the caller has: it is checked and
// kept before Keep returns, which takes a write to disk when the store does not
// hold it yet. Reference says where it comes from. The request that owner had is
// forgotten. A failure is not tried again; that is the caller's to do.
func (r *Resolver) Keep(owner types.NamespacedName, reference string, content []byte) Result {
	r.Forget(owner)
	m, err := r.store.keep(content, r.puller.options.Limits)
	if err != nil {
		return Result{Err: ensureError(err)}
	}
	m.Reference = reference
	return Result{Module: &m}
}

func (s *Store) keep(content []byte, limits Limits) (Module, error) {
	size := int64(len(content))
	if bound := limits.module(); size > bound.bytes {
		return Module{}, bound.exceeded()
	}
	versions, err := inspect(bytes.NewReader(content), size)
	if err != nil {
		return Module{}, err
	}
	digest := sha256.Sum256(content)
	sum := hex.EncodeToString(digest[:])
	if !s.touch(sum) {
		err = s.write(content)
	}
	return Module{SHA256: sum, SizeBytes: size, ABIVersions: versions}, err
}

func (s *Store) write(content []byte) error {
	file, err := s.create()
	if err != nil {
		return err
	}
	defer file.discard()
	if _, err := file.Write(content); err != nil {
		return err
	}
	_, err = file.commit()
	return err
}
