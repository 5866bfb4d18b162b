package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestATempFileBecomesAModule(t *testing.T) {
	wasm := moduletest.Wasm("a module")
	s := openStore(t, t.TempDir(), 1<<20)
	file, err := s.Create()
	moduletest.Must(t, err)
	defer file.Discard()
	for _, part := range [][]byte{wasm[:10], wasm[10:]} {
		_, err = file.Write(part)
		moduletest.Must(t, err)
	}
	if file.Size() != int64(len(wasm)) || file.Digest() != moduletest.SHA256(wasm) {
		t.Errorf("%d bytes, %s", file.Size(), file.Digest())
	}
	m, err := file.Keep()
	moduletest.Must(t, err)
	file.Discard()
	if m.SHA256 != moduletest.SHA256(wasm) || m.SizeBytes != int64(len(wasm)) || !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
		t.Errorf("%+v", m)
	}
	if got := content(t, s, m.SHA256); got != string(wasm) || s.bytes != int64(len(wasm)) {
		t.Errorf("%q, %d bytes counted", got, s.bytes)
	}
}

func TestATempFileThatIsNoModuleIsNotKept(t *testing.T) {
	s := openStore(t, t.TempDir(), 1<<20)
	file, err := s.Create()
	moduletest.Must(t, err)
	_, err = file.Write([]byte("text"))
	moduletest.Must(t, err)
	_, err = file.Keep()
	moduletest.WantError(t, err, wasmev1.ReasonInvalidModule, "the content is not a Wasm module")
	file.Discard()
	file.Discard()
	moduletest.WantFiles(t, s.dir)
	if s.bytes != 0 {
		t.Errorf("%d bytes are still counted", s.bytes)
	}
}

func TestOpenTakesInNoLinksAndNoStrayImages(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	s := openStore(t, dir, 1<<20)
	whole := put(t, s, "whole")
	moduletest.Must(t, s.Remember("an image", module.Module{SHA256: whole}))
	text, err := os.ReadFile(s.imagePath("an image"))
	moduletest.Must(t, err)
	moduletest.Must(t, os.WriteFile(s.imagePath("another image"), text, 0o600))
	moduletest.Must(t, os.WriteFile(outside, []byte("outside"), 0o600))
	linked := moduletest.SHA256("outside")
	moduletest.Must(t, os.Symlink(outside, s.modulePath(linked)))

	s = openStore(t, dir, 1<<20)
	if s.Has(linked) || !s.Has(whole) {
		t.Errorf("linked %v, whole %v", s.Has(linked), s.Has(whole))
	}
	if _, known := s.Recall("another image"); known {
		t.Error("the file of one image is taken for another")
	}
	images, err := filepath.Rel(dir, s.imagePath("an image"))
	moduletest.Must(t, err)
	moduletest.WantFiles(t, dir, "modules/"+whole+".wasm", images)
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("what a link leads to: %v", err)
	}
}

func TestAMoveThatFailsIsReported(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "to")
	if err := moveInto(filepath.Join(dir, "missing"), to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	from := filepath.Join(dir, "from")
	moduletest.Must(t, os.WriteFile(from, []byte("x"), 0o600))
	moduletest.Must(t, moveInto(from, to))
	moduletest.WantFiles(t, dir, "to")
}

func TestDiskError(t *testing.T) {
	own := module.Terminal(wasmev1.ReasonTooLarge, "our own words")
	for name, c := range map[string]struct {
		err             error
		reason, message string
	}{
		"our own":            {fmt.Errorf("wrapped: %w", own), wasmev1.ReasonTooLarge, "our own words"},
		"the disk's":         {&os.PathError{Op: "write", Path: "/secret", Err: syscall.ENOSPC}, wasmev1.ReasonStoreUnavailable, "writing it: no space left on device: check the disk of the operator's --module-store"},
		"one without a name": {errors.New("unknown"), wasmev1.ReasonStoreUnavailable, "writing it: the disk failed: check the disk of the operator's --module-store"},
	} {
		if e := DiskError("writing it", c.err); e.Reason != c.reason || e.Message != c.message {
			t.Errorf("%s: %s: %s", name, e.Reason, e.Message)
		}
	}
}
