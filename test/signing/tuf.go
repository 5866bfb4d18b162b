package signing

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Repository is a TUF repository with the trusted root of an instance.
type Repository struct {
	// Anchor is its root.json.
	Anchor []byte
	files  map[string][]byte
}

// NewRepository returns one that is valid for a time.
func (i *Instance) NewRepository(valid time.Duration) (*Repository, error) {
	trusted, err := i.TrustedRoot(false)
	if err != nil {
		return nil, err
	}
	key, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(valid).UTC()
	sum := fmt.Sprintf("%x", sha256.Sum256(trusted))
	repository := &Repository{files: map[string][]byte{"/targets/" + sum + ".trusted_root.json": trusted}}

	targets := metadata.Targets(until)
	file, err := metadata.TargetFile().FromBytes("trusted_root.json", trusted, "sha256")
	if err != nil {
		return nil, err
	}
	targets.Signed.Targets["trusted_root.json"] = file
	snapshot, timestamp, root := metadata.Snapshot(until), metadata.Timestamp(until), metadata.Root(until)
	public, err := metadata.KeyFromPublicKey(key)
	if err != nil {
		return nil, err
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := root.Signed.AddKey(public, role); err != nil {
			return nil, err
		}
	}
	for path, role := range map[string]interface {
		Sign(signature.Signer) (*metadata.Signature, error)
		ToBytes(bool) ([]byte, error)
	}{"/1.targets.json": targets, "/1.snapshot.json": snapshot, "/timestamp.json": timestamp, "/1.root.json": root} {
		if _, err := role.Sign(signer); err != nil {
			return nil, err
		}
		if repository.files[path], err = role.ToBytes(false); err != nil {
			return nil, err
		}
	}
	repository.Anchor = repository.files["/1.root.json"]
	return repository, nil
}

// ServeHTTP implements http.Handler.
func (r *Repository) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	content, found := r.files[request.URL.Path]
	if !found {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(content)
}
