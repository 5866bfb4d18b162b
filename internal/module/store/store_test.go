package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	clocktesting "k8s.io/utils/clock/testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func holder(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "bookinfo", Name: name}
}

func TestStoreKeepsModulesOverARestart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 1<<20)
	sum := put(t, s, "a module")
	m := module.Module{SHA256: sum, ManifestDigest: "sha256:x", ABIVersions: []string{"0.2.1"}, RootIDs: []string{"root"}}
	moduletest.Must(t, s.Remember("ghcr.io/a/b@sha256:x", m))

	s = openStore(t, dir, 1<<20)
	if got := content(t, s, sum); got != "a module" {
		t.Errorf("%q", got)
	}
	known, held := s.Recall("ghcr.io/a/b@sha256:x")
	if !held || known.SHA256 != sum || !slices.Equal(known.RootIDs, m.RootIDs) {
		t.Errorf("%v %v", known, held)
	}
}

func TestStoreServesWhatItHeldForAnHourAfterARestart(t *testing.T) {
	dir, clk := t.TempDir(), clocktesting.NewFakeClock(time.Now())
	sum := put(t, openStore(t, dir, 1<<20), "a module")
	s, err := Open(dir, 1<<20, clk)
	moduletest.Must(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	file, err := s.Await(ended, sum)
	moduletest.Must(t, err)
	moduletest.Must(t, file.Close())
	clk.Step(ServedAfterRelease)
	if _, err := s.Await(ended, sum); err == nil {
		t.Error("a module that nobody retains is served forever")
	}
}

func TestStoreRemovesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 1<<20)
	whole := put(t, s, "whole")
	half, err := s.Create()
	moduletest.Must(t, err)
	_, err = half.Write([]byte("half"))
	moduletest.Must(t, err)
	// The process ends here: nothing is discarded.
	cut := moduletest.SHA256("cut short")
	moduletest.Must(t, os.WriteFile(s.modulePath(cut), []byte("cut sh"), 0o600))
	moduletest.Must(t, os.WriteFile(filepath.Join(s.modulesDir(), "stray"), nil, 0o600))
	moduletest.Must(t, os.Mkdir(filepath.Join(s.modulesDir(), moduletest.SHA256("")+".wasm"), 0o700))
	moduletest.Must(t, os.WriteFile(s.imagePath("image"), []byte("{"), 0o600))
	moduletest.Must(t, os.WriteFile(s.imagePath("gone"), []byte(`{"image":"gone","module":{"sha256":"`+cut+`"}}`), 0o600))

	s = openStore(t, dir, 1<<20)
	if !s.Has(whole) || s.Has(cut) || s.bytes != int64(len("whole")) {
		t.Errorf("whole %v, cut %v, %d bytes", s.Has(whole), s.Has(cut), s.bytes)
	}
	if _, known := s.Recall("gone"); known {
		t.Error("an image is known whose module was removed")
	}
	moduletest.WantFiles(t, dir, "modules/"+whole+".wasm")
}

func TestStoreReadsWhatItFindsOnlyWhenItIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 1<<20)
	asked, verified := put(t, s, "asked for"), put(t, s, "verified")
	broken := moduletest.SHA256("broken")
	moduletest.Must(t, os.WriteFile(s.modulePath(broken), []byte("it rots"), 0o600))

	s = openStore(t, dir, 1<<20)
	if len(s.modules) > 0 || len(s.unverified) != 3 || s.bytes != int64(len("asked for")+len("verified")+len("it rots")) {
		t.Errorf("%d modules, %d unverified, %d bytes", len(s.modules), len(s.unverified), s.bytes)
	}
	if !s.Has(asked) || len(s.modules) != 1 {
		t.Errorf("%d modules after one was asked for", len(s.modules))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.Verify(ended)
	if len(s.unverified) != 2 {
		t.Error("it went on after its context had ended")
	}
	s.Verify(t.Context())
	if !s.Has(verified) || s.Has(broken) || len(s.unverified) > 0 || s.bytes != int64(len("asked for")+len("verified")) {
		t.Errorf("verified %t, broken %t, %d unverified, %d bytes", s.Has(verified), s.Has(broken), len(s.unverified), s.bytes)
	}
	moduletest.WantFiles(t, dir, "modules/"+asked+".wasm", "modules/"+verified+".wasm")
}

func TestACopyThatArrivesReplacesWhatWasFound(t *testing.T) {
	dir := t.TempDir()
	sum := put(t, openStore(t, dir, 1<<20), "a module")
	s := openStore(t, dir, 1<<20)
	moduletest.Must(t, os.WriteFile(s.modulePath(sum), []byte("it rots"), 0o600))
	if put(t, s, "a module") != sum || !s.Has(sum) || s.bytes != int64(len("a module")) {
		t.Errorf("has it: %t, %d bytes", s.Has(sum), s.bytes)
	}
}

func TestStoreEvictsTheLeastRecentlyUsedThatNobodyRetains(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Now())
	s, err := Open(t.TempDir(), 30, clk)
	moduletest.Must(t, err)
	var sums []string
	for _, text := range []string{"0123456789", "123456789a", "23456789ab"} {
		clk.SetTime(clk.Now().Add(time.Second))
		sums = append(sums, put(t, s, text))
	}
	s.Retain(holder("a"), sums[0])
	clk.SetTime(clk.Now().Add(time.Second))
	content(t, s, sums[1])
	put(t, s, "abcdefghij")
	if !s.Has(sums[0]) || !s.Has(sums[1]) || s.Has(sums[2]) {
		t.Errorf("held: %v %v %v", s.Has(sums[0]), s.Has(sums[1]), s.Has(sums[2]))
	}
}

func TestStoreFullOfModulesInUse(t *testing.T) {
	s := openStore(t, t.TempDir(), 12)
	sum := put(t, s, "0123456789")
	s.Retain(holder("a"), sum)
	file, err := s.Create()
	moduletest.Must(t, err)
	_, err = file.Write([]byte("abc"))
	moduletest.WantError(t, err, wasmev1.ReasonStoreUnavailable, "--module-store is full: its 12 bytes")
	file.Discard()
	if s.bytes != 10 {
		t.Errorf("%d bytes counted", s.bytes)
	}
}

func TestStoreEvictsWhatWasReleasedLongestAgoWhenAllIsRetained(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Now())
	s, err := Open(t.TempDir(), 30, clk)
	moduletest.Must(t, err)
	s.Retain(holder("keeps"), put(t, s, "0123456789"))
	// One holder goes from module to module.
	for _, text := range []string{"123456789a", "23456789ab", "3456789abc"} {
		clk.SetTime(clk.Now().Add(time.Second))
		s.Retain(holder("moves"), put(t, s, text))
	}
	held := func(text string) bool { return s.Has(moduletest.SHA256(text)) }
	if !held("0123456789") || held("123456789a") || !held("23456789ab") || !held("3456789abc") {
		t.Errorf("held: %v", s.modules)
	}
	clk.SetTime(clk.Now().Add(time.Second))
	s.Release(holder("keeps"))
	put(t, s, "nobody's 1")
	put(t, s, "nobody's 2")
	if held("23456789ab") || !held("0123456789") || held("nobody's 1") {
		t.Errorf("held: %v", s.modules)
	}
}

func TestStoreEvictsWhatIsNotNeededLast(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Now())
	s, err := Open(t.TempDir(), 30, clk)
	moduletest.Must(t, err)
	s.Retain(holder("needs"), put(t, s, "0123456789"))
	s.RetainSpare(holder("spare"), put(t, s, "123456789a"))
	clk.SetTime(clk.Now().Add(time.Second))
	s.Retain(holder("goes"), put(t, s, "23456789ab"))
	s.Release(holder("goes"))
	if s.HasRoom(1) {
		t.Error("it is full")
	}
	held := func(text string) bool { return s.Has(moduletest.SHA256(text)) }
	put(t, s, "nobody's 1")
	if !held("0123456789") || !held("123456789a") || held("23456789ab") {
		t.Errorf("held: %v", s.modules)
	}
	file, err := s.OpenRetained(moduletest.SHA256("123456789a"))
	moduletest.Must(t, err)
	moduletest.Must(t, file.Close())
	s.Retain(holder("comes"), moduletest.SHA256("nobody's 1"))
	put(t, s, "nobody's 2")
	if !held("0123456789") || held("123456789a") || !held("nobody's 1") {
		t.Errorf("held: %v", s.modules)
	}
}

func TestANamespaceHasAShareOfTheStore(t *testing.T) {
	s := openStore(t, t.TempDir(), 30)
	inNamespace := func(namespace, name string) types.NamespacedName {
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	held := put(t, s, "0123456789")
	s.Retain(inNamespace("a", "1"), held)
	s.Retain(inNamespace("a", "2"), held) // the same module counts once
	s.RetainSpare(inNamespace("a", "3"), put(t, s, "123456789a"))
	other := moduletest.SHA256("another module")
	moduletest.Must(t, s.CheckShare("a", other, 5))
	moduletest.Must(t, s.CheckShare("a", held, 10))
	moduletest.Must(t, s.CheckShare("b", other, 15))
	moduletest.WantError(t, s.CheckShare("a", other, 6), wasmev1.ReasonStoreUnavailable, "the modules in use in namespace a take 10 bytes, and with this one's 6 they would take more than the 15 that one namespace may have")
	s.Release(inNamespace("a", "1"))
	moduletest.WantError(t, s.CheckShare("a", other, 6), wasmev1.ReasonStoreUnavailable, "take 10 bytes")
	s.Release(inNamespace("a", "2"))
	moduletest.Must(t, s.CheckShare("a", other, 15))
}

func TestWhatTheStoreFindsCanBeEvictedWhenItsHoldersAreKnown(t *testing.T) {
	for name, c := range map[string]struct {
		retain bool
		after  time.Duration
		fits   bool
	}{
		"no holder is known":            {false, settleTime - time.Second, false},
		"no holder came":                {false, settleTime, true},
		"the first holder is known":     {true, firstPass - time.Second, false},
		"the others had time to follow": {true, firstPass, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, clk := t.TempDir(), clocktesting.NewFakePassiveClock(time.Now())
			before := openStore(t, dir, 20)
			kept := put(t, before, "0123456789")
			put(t, before, "123456789a")
			s, err := Open(dir, 20, clk)
			moduletest.Must(t, err)
			if c.retain {
				s.Retain(holder("a"), kept)
			}
			clk.SetTime(clk.Now().Add(c.after))
			if err := s.Import(strings.NewReader("new module"), moduletest.SHA256("new module"), 10); (err == nil) != c.fits {
				t.Errorf("%v", err)
			}
			if c.retain && !s.Has(kept) {
				t.Error("a module with a holder was evicted")
			}
		})
	}
}

func TestImportReadsNoMoreThanTheModule(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		size    int64
		message string
	}{
		"the module":      {"a module", 8, ""},
		"longer":          {"a module" + strings.Repeat("x", 1<<20), 8, "not its 8 bytes"},
		"shorter":         {"a modu", 8, "not its 8 bytes"},
		"another content": {"b module", 8, "has the digest"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), 64<<10)
			other := put(t, s, "can be evicted")
			err := s.Import(strings.NewReader(c.content), moduletest.SHA256("a module"), c.size)
			if c.message == "" && err != nil || c.message != "" && (err == nil || !strings.Contains(err.Error(), c.message)) {
				t.Errorf("%v", err)
			}
			if s.Has(moduletest.SHA256("a module")) != (c.message == "") || !s.Has(other) {
				t.Errorf("held: %v", s.modules)
			}
		})
	}
}

func TestStoreRetainsForAnHourAfterTheLastRelease(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Now())
	s, err := Open(t.TempDir(), 1<<20, clk)
	moduletest.Must(t, err)
	sum := put(t, s, "a module")
	s.Retain(holder("a"), sum)
	s.Retain(holder("a"), sum)
	s.Retain(holder("b"), sum)
	s.Release(holder("a"))
	clk.SetTime(clk.Now().Add(2 * time.Hour))
	wantRetained(t, s, sum, true)
	s.Retain(holder("b"), moduletest.SHA256("another"))
	s.Release(holder("nobody"))
	clk.SetTime(clk.Now().Add(59 * time.Minute))
	wantRetained(t, s, sum, true)
	clk.SetTime(clk.Now().Add(time.Minute))
	wantRetained(t, s, sum, false)
	s.Retain(holder("c"), sum)
	wantRetained(t, s, sum, true)
}

func TestAwaitSeesWhatComes(t *testing.T) {
	for name, steps := range map[string][]func(*Store, string){
		"retained, then here": {func(s *Store, sum string) { s.Retain(holder("a"), sum) }, func(s *Store, _ string) { put(t, s, "late") }},
		"here, then retained": {func(s *Store, _ string) { put(t, s, "late") }, func(s *Store, sum string) { s.Retain(holder("a"), sum) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), 1<<20)
			sum := moduletest.SHA256("late")
			steps[0](s, sum)
			got := make(chan error)
			go func() {
				file, err := s.Await(context.Background(), sum)
				if err == nil {
					err = file.Close()
				}
				got <- err
			}()
			steps[1](s, sum)
			moduletest.Must(t, <-got)
		})
	}
}

func TestAModuleWhoseFileIsGoneIsNotHeld(t *testing.T) {
	s := openStore(t, t.TempDir(), 1<<20)
	sum := put(t, s, "a module")
	moduletest.Must(t, os.Remove(s.modulePath(sum)))
	if _, err := s.Open(sum); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if s.Has(sum) || s.bytes != 0 {
		t.Errorf("held %v, %d bytes", s.Has(sum), s.bytes)
	}
	put(t, s, "a module")
	content(t, s, sum)
}

func TestAnOpenModuleOutlivesItsPlaceInTheStore(t *testing.T) {
	s := openStore(t, t.TempDir(), 10)
	sum := put(t, s, "0123456789")
	file, err := s.Open(sum)
	moduletest.Must(t, err)
	defer file.Close()
	put(t, s, "abcdefghij")
	if s.Has(sum) {
		t.Fatal("still held")
	}
	if data, err := io.ReadAll(file); string(data) != "0123456789" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestTheSameModuleTwiceCountsOnce(t *testing.T) {
	s := openStore(t, t.TempDir(), 1<<20)
	put(t, s, "a module")
	put(t, s, "a module")
	if s.bytes != 8 {
		t.Errorf("%d bytes counted", s.bytes)
	}
	moduletest.WantFiles(t, s.dir, "modules/"+moduletest.SHA256("a module")+".wasm")
}

func TestOpenNamesTheFlagWhenItFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	moduletest.Must(t, os.WriteFile(path, nil, 0o600))
	_, err := Open(path, 1<<20, clock.RealClock{})
	if err == nil || !strings.Contains(err.Error(), "--module-store") {
		t.Errorf("%v", err)
	}
}

// smallDisk says to the test's own binary, in a mount namespace of its own,
// where to mount a small disk.
const smallDisk = "WASME_TEST_SMALL_DISK"

func TestDiskFull(t *testing.T) {
	if dir := os.Getenv(smallDisk); dir != "" {
		onSmallDisk(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
	cmd.Env = append(os.Environ(), smallDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this machine allows no user namespaces: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// onSmallDisk fills a disk of 1 MiB through a store that may take 1 GiB.
func onSmallDisk(t *testing.T, dir string) {
	t.Helper()
	moduletest.Must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	s := openStore(t, dir, 1<<30)
	small := put(t, s, "a module")
	file, err := s.Create()
	moduletest.Must(t, err)
	for chunk := make([]byte, 64<<10); err == nil; {
		_, err = file.Write(chunk)
	}
	moduletest.WantError(t, err, wasmev1.ReasonStoreUnavailable, "no space left on device: check the disk of the operator's --module-store")
	file.Discard()
	moduletest.WantFiles(t, dir, "modules/"+small+".wasm")
	put(t, s, "fits again")
}

func openStore(t *testing.T, dir string, maxBytes int64) *Store {
	t.Helper()
	s, err := Open(dir, maxBytes, clock.RealClock{})
	moduletest.Must(t, err)
	return s
}

func put(t *testing.T, s *Store, text string) string {
	t.Helper()
	file, err := s.Create()
	moduletest.Must(t, err)
	defer file.Discard()
	_, err = io.WriteString(file, text)
	moduletest.Must(t, err)
	sum, err := file.commit()
	moduletest.Must(t, err)
	if sum != moduletest.SHA256(text) {
		t.Errorf("digest %s, not %s", sum, moduletest.SHA256(text))
	}
	return sum
}

func content(t *testing.T, s *Store, sum string) string {
	t.Helper()
	file, err := s.Open(sum)
	moduletest.Must(t, err)
	defer file.Close()
	data, err := io.ReadAll(file)
	moduletest.Must(t, err)
	return string(data)
}

func wantRetained(t *testing.T, s *Store, sum string, want bool) {
	t.Helper()
	if retained := s.retained(sum); retained != want {
		t.Errorf("retained: %v, not %v", retained, want)
	}
}

func TestTheStoreReportsItsSizeAndBound(t *testing.T) {
	store := openStore(t, t.TempDir(), 1<<20)
	wasm := moduletest.Wasm("kept")
	if _, err := store.KeepContent(wasm, module.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	got := moduletest.Gather(t, store)
	if got["wasme_module_store_bytes"] != float64(len(wasm)) || got["wasme_module_store_max_bytes"] != 1<<20 {
		t.Errorf("%v", got)
	}
	if got["wasme_module_store_evictions_total"] != 0 || got["wasme_module_store_refusals_total"] != 0 {
		t.Errorf("%v", got)
	}
}

func TestTheStoreReportsWhatItCannotEvict(t *testing.T) {
	store := openStore(t, t.TempDir(), 1<<20)
	needed, spare := put(t, store, "needed"), put(t, store, "while there is room")
	put(t, store, "unused")
	store.Retain(holder("a"), needed)
	store.Retain(holder("b"), needed)
	store.RetainSpare(holder("c"), spare)
	store.Retain(holder("d"), moduletest.SHA256("not here"))
	if got := moduletest.Gather(t, store)["wasme_module_store_needed_bytes"]; got != float64(len("needed")) {
		t.Errorf("%v bytes", got)
	}
	store.Release(holder("a"))
	store.Release(holder("b"))
	if got := moduletest.Gather(t, store)["wasme_module_store_needed_bytes"]; got != 0 {
		t.Errorf("%v bytes after the release", got)
	}
}

func TestTheStoreCountsWhatItEvictsAndRefuses(t *testing.T) {
	store := openStore(t, t.TempDir(), 20)
	put(t, store, "0123456789")
	put(t, store, "abcdefghij")
	kept := put(t, store, "ABCDEFGHIJ")
	store.Retain(holder("a"), kept)
	other := put(t, store, "klmnopqrst")
	store.Retain(holder("b"), other)
	if err := store.Import(strings.NewReader("refused"), moduletest.SHA256("refused"), 7); err == nil {
		t.Fatal("there was room")
	}
	got := moduletest.Gather(t, store)
	if got["wasme_module_store_needed_bytes"] != 20 {
		t.Errorf("%v", got)
	}
	if got["wasme_module_store_evictions_total"] != 2 || got["wasme_module_store_refusals_total"] != 1 {
		t.Errorf("%v", got)
	}
}
