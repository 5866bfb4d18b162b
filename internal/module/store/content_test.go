package store

import (
	"slices"
	"testing"

	"k8s.io/utils/clock"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestKeepContentRefuses(t *testing.T) {
	limits := module.Limits{ModuleBytes: 100}
	for name, c := range map[string]struct {
		content         []byte
		reason, message string
	}{
		"nothing":         {nil, wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"text":            {[]byte("text"), wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"base64":          {[]byte("AGFzbQEAAAA="), wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"gzip":            {moduletest.Gzip(moduletest.Wasm("packed")), wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"truncated":       {moduletest.Wasm("x")[:20], wasmev1.ReasonInvalidModule, "reading the module's sections"},
		"a component":     {[]byte(moduletest.ComponentPreamble), wasmev1.ReasonInvalidModule, "component"},
		"not for proxies": {moduletest.WithExports(moduletest.Export("_start")), wasmev1.ReasonInvalidModule, "build it for proxy-wasm"},
		"too large":       {make([]byte, 101), wasmev1.ReasonTooLarge, "--max-module-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), 1<<20)
			_, err := s.KeepContent(c.content, limits)
			moduletest.WantError(t, err, c.reason, c.message)
			moduletest.WantFiles(t, s.dir)
		})
	}
}

func TestKeepContentTakesAModuleAsLargeAsMayBe(t *testing.T) {
	wasm := moduletest.Wasm("as large as may be")
	s := openStore(t, t.TempDir(), int64(len(wasm)))
	_, err := s.KeepContent(wasm, module.Limits{ModuleBytes: int64(len(wasm))})
	moduletest.Must(t, err)
	_, err = s.KeepContent(wasm, module.Limits{ModuleBytes: int64(len(wasm)) - 1})
	moduletest.WantError(t, err, wasmev1.ReasonTooLarge, "--max-module-bytes")
}

func TestKeepContentInAFullStore(t *testing.T) {
	wasm := moduletest.Wasm("no room")
	s := openStore(t, t.TempDir(), int64(len(wasm))-1)
	_, err := s.KeepContent(wasm, module.DefaultLimits)
	moduletest.WantError(t, err, wasmev1.ReasonStoreUnavailable, "--module-store is full")
	moduletest.WantFiles(t, s.dir)
}

// A store without room for a second copy shows that none is written.
func TestKeepContentDoesNotWriteWhatIsThere(t *testing.T) {
	wasm := moduletest.Wasm("again")
	s := openStore(t, t.TempDir(), int64(len(wasm)))
	first, err := s.KeepContent(wasm, module.DefaultLimits)
	moduletest.Must(t, err)
	s.Retain(holder("a"), first.SHA256)
	again, err := s.KeepContent(wasm, module.DefaultLimits)
	moduletest.Must(t, err)
	if first.SHA256 != again.SHA256 || !slices.Equal(first.ABIVersions, again.ABIVersions) {
		t.Errorf("%+v, then %+v", first, again)
	}
	moduletest.WantFiles(t, s.dir, "modules/"+first.SHA256+".wasm")
}

func FuzzKeepContent(f *testing.F) {
	f.Add(moduletest.Wasm("seed"))
	f.Add([]byte(moduletest.ComponentPreamble))
	s, err := Open(f.TempDir(), 1<<20, clock.RealClock{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := s.KeepContent(data, module.Limits{ModuleBytes: 4 << 10})
		if err != nil {
			if module.AsError(err) == nil {
				t.Errorf("not classified: %v", err)
			}
			return
		}
		if m.SHA256 != moduletest.SHA256(data) || content(t, s, m.SHA256) != string(data) {
			t.Errorf("%+v is not what was given", m)
		}
	})
}
