package module

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"

	"k8s.io/utils/lru"
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

// eachFile calls keep for the files of dir and removes those that it refuses.
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

// scanModule takes up a module whose content has the digest in its name. It
// counts as just released: it may have been named when the last process ended,
// and is served before the API server says whether it still is.
func (s *Store) scanModule(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	sum, err := hashFile(path)
	if err != nil || path != s.modulePath(sum) {
		return false
	}
	s.modules[sum] = &storedModule{size: info.Size(), modTime: info.ModTime(), lastUsed: info.ModTime(), found: true}
	s.bytes += info.Size()
	s.names.linger(sum, s.clock.Now())
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
	Image  string `json:"image"`
	Module Module `json:"module"`
}

// scanImage takes up an image whose module is held.
func (s *Store) scanImage(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	var image storedImage
	if json.Unmarshal(data, &image) != nil || path != s.imagePath(image.Image) || s.modules[image.Module.SHA256] == nil {
		return false
	}
	s.images.Add(image.Image, image.Module)
	return true
}

// remember keeps which module an image holds, across restarts too.
func (s *Store) remember(image string, m Module) error {
	s.images.Add(image, m)
	data, err := json.Marshal(storedImage{Image: image, Module: m})
	if err != nil {
		return err
	}
	if err := s.writeFile(s.imagePath(image), data); err != nil {
		return storeError("remembering the module of the image", err)
	}
	return nil
}

// recall returns the module of an image, when it is known and held.
func (s *Store) recall(image string) (Module, bool) {
	known, found := s.images.Get(image)
	if !found {
		return Module{}, false
	}
	m := known.(Module)
	return m, s.Has(m.SHA256)
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

// moveInto renames a file that is synced and makes the rename last.
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

// tempFile is content that is being written: it counts against the store's
// bound from its first byte, and is gone unless it is committed.
type tempFile struct {
	store *Store
	file  *os.File
	sum   hash.Hash
	size  int64
	gone  bool
}

// create begins a temporary file. The caller discards it, after a commit too.
func (s *Store) create() (*tempFile, error) {
	file, err := os.CreateTemp(s.tmpDir(), "")
	if err != nil {
		return nil, storeError("writing the module", err)
	}
	return &tempFile{store: s, file: file, sum: sha256.New()}, nil
}

// Write appends to the file.
func (t *tempFile) Write(p []byte) (int, error) {
	if err := t.store.reserve(int64(len(p))); err != nil {
		return 0, err
	}
	t.size += int64(len(p))
	n, err := t.file.Write(p)
	if err != nil {
		return n, storeError("writing the module", err)
	}
	t.sum.Write(p)
	return n, nil
}

// ReadAt reads what was written.
func (t *tempFile) ReadAt(p []byte, offset int64) (int, error) { return t.file.ReadAt(p, offset) }

// digest is that of what was written, 64 hex.
func (t *tempFile) digest() string { return hex.EncodeToString(t.sum.Sum(nil)) }

// keep checks that the file is a module, and commits it.
func (t *tempFile) keep() (Module, error) {
	versions, err := inspect(t, t.size)
	if err != nil {
		return Module{}, err
	}
	sum, err := t.commit()
	return Module{SHA256: sum, SizeBytes: t.size, ABIVersions: versions}, err
}

// discard removes the file, unless it was committed.
func (t *tempFile) discard() {
	if t.gone {
		return
	}
	t.gone = true
	_ = t.file.Close()
	_ = os.Remove(t.file.Name())
	t.store.unreserve(t.size)
}

// commit makes the file the module of its digest, which it returns.
func (t *tempFile) commit() (string, error) {
	sum := t.digest()
	if t.store.touch(sum) {
		return sum, nil
	}
	if err := t.file.Sync(); err != nil {
		return "", storeError("writing the module", err)
	}
	if err := moveInto(t.file.Name(), t.store.modulePath(sum)); err != nil {
		return "", storeError("writing the module", err)
	}
	t.gone = true
	_ = t.file.Close()
	t.store.add(sum, t.size)
	return sum, nil
}

// add takes up a module that was moved into its place and whose bytes are reserved.
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

// touch marks a module as used now; false when it is not held.
func (s *Store) touch(sum string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, held := s.modules[sum]
	if held {
		stored.lastUsed = s.clock.Now()
	}
	return held
}
