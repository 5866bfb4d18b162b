package module

import (
	"slices"
	"testing"

	"k8s.io/utils/clock"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestKeepsAModuleThatIsBrought(t *testing.T) {
	wasm := testModule("brought")
	f := startResolver(t, 1)
	got := f.Keep(holder("a"), "configmap/filters/plugin.wasm", wasm)
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	m := got.Module
	if m.SHA256 != sumOf(string(wasm)) || m.SizeBytes != int64(len(wasm)) || !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
		t.Errorf("%+v", m)
	}
	if m.Reference != "configmap/filters/plugin.wasm" || m.ManifestDigest != "" || m.AgentRefuses != "" {
		t.Errorf("%+v", m)
	}
	if content(t, f.store, m.SHA256) != string(wasm) {
		t.Error("the store holds something else")
	}
}

func TestKeepRefuses(t *testing.T) {
	limits := Limits{ModuleBytes: 100}
	for name, c := range map[string]struct {
		content         []byte
		reason, message string
	}{
		"nothing":         {nil, wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"text":            {[]byte("text"), wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"base64":          {[]byte("AGFzbQEAAAA="), wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"gzip":            {gzipped(testModule("packed")), wasmev1.ReasonInvalidModule, "the content is not a Wasm module"},
		"truncated":       {testModule("x")[:20], wasmev1.ReasonInvalidModule, "reading the module's sections"},
		"a component":     {componentPreamble, wasmev1.ReasonInvalidModule, "component"},
		"not for proxies": {wasmModule(export("_start")), wasmev1.ReasonInvalidModule, "build it for proxy-wasm"},
		"too large":       {make([]byte, 101), wasmev1.ReasonTooLarge, "--max-module-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), 1<<20)
			_, err := s.keep(c.content, limits)
			wantError(t, err, c.reason, c.message)
			wantFiles(t, s.dir)
		})
	}
}

func TestKeepInAStoreThatIsFull(t *testing.T) {
	wasm := testModule("no room")
	s := openStore(t, t.TempDir(), int64(len(wasm))-1)
	_, err := s.keep(wasm, DefaultLimits)
	wantError(t, err, wasmev1.ReasonStoreUnavailable, "--module-store is full")
	wantFiles(t, s.dir)
}

// A store without room for a second copy shows that none is written.
func TestKeepDoesNotWriteWhatIsHeld(t *testing.T) {
	wasm := testModule("again")
	s := openStore(t, t.TempDir(), int64(len(wasm)))
	first, err := s.keep(wasm, DefaultLimits)
	must(t, err)
	s.Retain(holder("a"), first.SHA256)
	again, err := s.keep(wasm, DefaultLimits)
	must(t, err)
	if first.SHA256 != again.SHA256 || !slices.Equal(first.ABIVersions, again.ABIVersions) {
		t.Errorf("%+v, then %+v", first, again)
	}
	wantFiles(t, s.dir, "modules/"+first.SHA256+".wasm")
}

func TestKeepForgetsTheOwnersRequest(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("moved")
	f := startResolver(t, 1)
	f.resolved(holder("a"), Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, wasm)), PlainHTTP: true})
	if got := f.Keep(holder("a"), "configmap/filters/plugin.wasm", wasm); got.Err != nil {
		t.Fatal(got.Err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) != 0 || len(f.requests) != 0 {
		t.Errorf("%d entries, %d owners", len(f.entries), len(f.requests))
	}
}

func FuzzKeep(f *testing.F) {
	f.Add(testModule("seed"))
	f.Add(componentPreamble)
	s, err := OpenStore(f.TempDir(), 1<<20, clock.RealClock{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := s.keep(data, Limits{ModuleBytes: 4 << 10})
		if err != nil {
			if asError(err) == nil {
				t.Errorf("not classified: %v", err)
			}
			return
		}
		if m.SHA256 != sumOf(string(data)) || content(t, s, m.SHA256) != string(data) {
			t.Errorf("%+v is not what was brought", m)
		}
	})
}
