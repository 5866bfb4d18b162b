package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/utils/lru"

	"github.com/wasme-io/wasme-operator/internal/module"
)

const (
	moduleSuffix = ".wasm"
	// imageSuffix has a number, as files of the form before do not say whether
	// pilot-agent takes the image.
	imageSuffix = ".2.json"
)

func (s *Store) tmpDir() string     { return filepath.Join(s.dir, "tmp") }
func (s *Store) modulesDir() string { return filepath.Join(s.dir, "modules") }
func (s *Store) imagesDir() string  { return filepath.Join(s.dir, "images") }

func (s *Store) modulePath(sum string) string {
	return filepath.Join(s.modulesDir(), sum+moduleSuffix)
}

func (s *Store) imagePath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.imagesDir(), hex.EncodeToString(sum[:])+imageSuffix)
}

// scan makes the directories, empties tmp and reads what is there.
func (s *Store) scan() error {
	if err := os.RemoveAll(s.tmpDir()); err != nil {
		return err
	}
	for _, dir := range []string{s.tmpDir(), s.modulesDir(), s.imagesDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := eachFile(s.modulesDir(), s.scanModule); err != nil {
		return err
	}
	return eachFile(s.imagesDir(), s.scanImage)
}

// eachFile calls keep for the files of dir and removes those for which it
// returns false.
func eachFile(dir string, keep func(path string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if keep(path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// scanModule takes in a file that is named like a module. It counts as just released:
// it may have been retained when the last process ended, and is served before the API
// server says whether it still is.
func (s *Store) scanModule(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	sum := strings.TrimSuffix(filepath.Base(path), moduleSuffix)
	if !module.IsSHA256(sum) || path != s.modulePath(sum) {
		return false
	}
	s.unverified[sum] = &storedModule{size: info.Size(), modTime: info.ModTime(), lastUsed: info.ModTime(), found: true}
	s.bytes += info.Size()
	s.retention.linger(sum, s.clock.Now())
	return true
}

// Verify hashes what was there when the store opened, until the context ends.
func (s *Store) Verify(ctx context.Context) {
	s.mu.Lock()
	sums := slices.Collect(maps.Keys(s.unverified))
	s.mu.Unlock()
	for _, sum := range sums {
		if ctx.Err() != nil {
			return
		}
		s.verify(sum)
	}
}

// verify makes a file a module if it has the digest in its name, removes it otherwise,
// and reports whether the store holds the module now.
func (s *Store) verify(sum string) bool {
	s.verifying.Lock()
	defer s.verifying.Unlock()
	s.mu.Lock()
	held, file := s.modules[sum] != nil, s.unverified[sum]
	s.mu.Unlock()
	if held || file == nil {
		return held
	}
	found, err := hashFile(s.modulePath(sum))
	s.mu.Lock()
	defer s.mu.Unlock()
	evicted := s.unverified[sum] == nil
	delete(s.unverified, sum)
	switch {
	case evicted:
		return s.modules[sum] != nil
	case s.modules[sum] != nil: // it arrived meanwhile, in this place
		s.bytes -= file.size
	case err == nil && found == sum:
		s.modules[sum] = file
		s.announce()
	default:
		s.bytes -= file.size
		_ = os.Remove(s.modulePath(sum))
		return false
	}
	return true
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// storedImage is the content of a file of images; URLs are kept like them.
type storedImage struct {
	Image  string        `json:"image"`
	Module module.Module `json:"module"`
}

// scanImage takes in an image whose module is held.
func (s *Store) scanImage(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	var image storedImage
	if json.Unmarshal(data, &image) != nil || path != s.imagePath(image.Image) || s.unverified[image.Module.SHA256] == nil {
		return false
	}
	s.images.Add(image.Image, image.Module)
	return true
}

// Remember keeps which module an image holds, across restarts too. Image is the
// key for Recall, which says where the module was seen and under which digest.
func (s *Store) Remember(image string, m module.Module) error {
	s.images.Add(image, m)
	data, err := json.Marshal(storedImage{Image: image, Module: m})
	if err != nil {
		return err
	}
	if err := s.writeFile(s.imagePath(image), data); err != nil {
		return DiskError("remembering the module of the image", err)
	}
	return nil
}

// Recall returns the module of an image, if it is known and in the store.
func (s *Store) Recall(image string) (module.Module, bool) {
	known, found := s.images.Get(image)
	if !found {
		return module.Module{}, false
	}
	m := known.(module.Module)
	if !s.Has(m.SHA256) {
		s.images.Remove(image)
		s.removeImageFile(image)
		return module.Module{}, false
	}
	return m, true
}

func (s *Store) removeImageFile(key lru.Key) {
	_ = os.Remove(s.imagePath(key.(string)))
}

// writeFile writes a small file whole or not at all.
func (s *Store) writeFile(path string, data []byte) error {
	file, err := os.CreateTemp(s.tmpDir(), "")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return moveInto(file.Name(), path)
}

// moveInto renames a file that is synced, and syncs the rename.
func moveInto(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// TempFile is content that is being written: it counts against the store's
// bound from its first byte, and is removed unless Keep makes it a module.
type TempFile struct {
	store *Store
	file  *os.File
	sum   hash.Hash
	size  int64
	gone  bool
}

// Create creates an empty TempFile. The caller discards it in the end, even after
// Keep.
func (s *Store) Create() (*TempFile, error) {
	file, err := os.CreateTemp(s.tmpDir(), "")
	if err != nil {
		return nil, DiskError("writing the module", err)
	}
	return &TempFile{store: s, file: file, sum: sha256.New()}, nil
}

// Write appends to the file.
func (t *TempFile) Write(p []byte) (int, error) {
	if err := t.store.reserve(int64(len(p))); err != nil {
		return 0, err
	}
	t.size += int64(len(p))
	n, err := t.file.Write(p)
	if err != nil {
		return n, DiskError("writing the module", err)
	}
	t.sum.Write(p)
	return n, nil
}

// Size returns the number of bytes that were written.
func (t *TempFile) Size() int64 { return t.size }

// ReadAt reads what was written.
func (t *TempFile) ReadAt(p []byte, offset int64) (int, error) { return t.file.ReadAt(p, offset) }

// Digest returns the SHA-256 of what was written, 64 hex.
func (t *TempFile) Digest() string { return hex.EncodeToString(t.sum.Sum(nil)) }

// Keep checks that the file is a Wasm module and makes it one of the store's. It
// sets the fields of the module that its bytes decide. The error is a
// *module.Error.
func (t *TempFile) Keep() (module.Module, error) {
	versions, err := module.Inspect(t, t.size)
	if err != nil {
		return module.Module{}, DiskError("reading the module", err)
	}
	sum, err := t.commit()
	return module.Module{SHA256: sum, SizeBytes: t.size, ABIVersions: versions}, err
}

// Discard removes the file, unless it has become a module.
func (t *TempFile) Discard() {
	if t.gone {
		return
	}
	t.gone = true
	_ = t.file.Close()
	_ = os.Remove(t.file.Name())
	t.store.unreserve(t.size)
}

// commit makes the file the module of its digest, which it returns.
func (t *TempFile) commit() (string, error) {
	sum := t.Digest()
	if t.store.touch(sum) {
		return sum, nil
	}
	if err := t.file.Sync(); err != nil {
		return "", DiskError("writing the module", err)
	}
	if err := moveInto(t.file.Name(), t.store.modulePath(sum)); err != nil {
		return "", DiskError("writing the module", err)
	}
	t.gone = true
	_ = t.file.Close()
	t.store.add(sum, t.size)
	return sum, nil
}

// add takes in a module that was moved into its place and whose bytes are reserved.
func (s *Store) add(sum string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, held := s.modules[sum]; held {
		s.bytes -= size
	}
	now := s.clock.Now()
	s.modules[sum] = &storedModule{size: size, modTime: now, lastUsed: now}
	s.announce()
}

// touch marks a module as used now; false when the store does not have it.
func (s *Store) touch(sum string) bool {
	if !s.Has(sum) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, held := s.modules[sum]
	if held {
		stored.lastUsed = s.clock.Now()
	}
	return held
}
