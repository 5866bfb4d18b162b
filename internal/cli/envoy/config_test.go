package envoy

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var plugin = Plugin{RootID: "add_header_root_id", Configuration: "world"}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(file, got, 0o600))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got), see -update:\n%s", name, diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBootstrap(t *testing.T) {
	for name, proxy := range map[string]Proxy{
		"bootstrap-alone.out.yaml":         {Port: 8080},
		"bootstrap-with-upstream.out.yaml": {UpstreamPort: 3000},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Bootstrap(proxy, FromFile(plugin, "/modules/filter.wasm"))
			must(t, err)
			golden(t, name, got)
		})
	}
}

func TestPatch(t *testing.T) {
	for name, filter := range map[string]Filter{
		"two-listeners": FromFile(Plugin{Configuration: "\xff"}, "/modules/filter.wasm"),
		"json":          Discovered("/run/filter.json"),
	} {
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(filepath.Join("testdata", name+".in.yaml"))
			must(t, err)
			got, err := Patch(content, filter)
			must(t, err)
			golden(t, name+".out.yaml", got)
		})
	}
}

func TestResource(t *testing.T) {
	got, err := Resource(plugin, "/modules/filter.wasm", "7")
	must(t, err)
	golden(t, "resource.out.json", got)
}

func TestPatchSaysWhatABootstrapLacks(t *testing.T) {
	const manager = `{static_resources: {listeners: [{name: web, filter_chains: [{filters: [{typed_config: {
		"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, http_filters: [{name: mine}]}}]}]}]}}`
	for bootstrap, want := range map[string]string{
		"a: [":                    "reading the bootstrap",
		"- a list":                "is not an object",
		"":                        "is not an object",
		"{}":                      "no HTTP connection manager",
		"{static_resources: []}":  "no HTTP connection manager",
		"{dynamic_resources: {}}": "no HTTP connection manager",
		manager:                   "the listener web of the bootstrap: its HTTP connection manager has no router",
		"{static_resources: {listeners: [1, {filter_chains: x}]}}": "no HTTP connection manager",
	} {
		if _, err := Patch([]byte(bootstrap), Discovered("/x")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Patch(%q) = %v, want %q", bootstrap, err, want)
		}
	}
}

func FuzzPatch(f *testing.F) {
	for _, name := range []string{"two-listeners", "json"} {
		content, err := os.ReadFile(filepath.Join("testdata", name+".in.yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(_ *testing.T, bootstrap []byte) {
		_, _ = Patch(bootstrap, Discovered("/x")) // it must not panic
	})
}

func TestUsersArgumentsReplaceOwnOnes(t *testing.T) {
	setup := &Setup{LogLevel: "debug", Arguments: []string{"-l", "info", "--concurrency=4", "--service-zone", "here"}}
	got := strings.Join(arguments(setup, places{bootstrap: "b.yaml", admin: "a"}), " ")
	for _, part := range []string{"--config-path b.yaml", "--admin-address-path a", "wasm:debug", "-l info --concurrency=4 --service-zone here"} {
		if !strings.Contains(got, part) {
			t.Errorf("the arguments lack %q: %s", part, got)
		}
	}
	for _, part := range []string{"--log-level", "--concurrency 2"} {
		if strings.Contains(got, part) {
			t.Errorf("the arguments repeat %q: %s", part, got)
		}
	}
}
