package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/test/filters"
)

// moduleOf returns a test filter as an image has it.
func moduleOf(t *testing.T, name string) *image.Module {
	t.Helper()
	wasm, err := filters.Build(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return &image.Module{Wasm: wasm, RootIDs: []string{filters.RootID}}
}

// trafficFile returns a file with one request, which has a header.
func trafficFile(t *testing.T, header string) string {
	t.Helper()
	headers := host.Headers{{Name: ":authority", Value: "a"}, {Name: ":path", Value: "/b"}, {Name: ":method", Value: "GET"}, {Name: header, Value: "1"}}
	path := filepath.Join(t.TempDir(), "recorded.har")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := traffic.Write(file, "test", []traffic.Exchange{{Request: traffic.Message{Headers: headers}}}); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReplayExitsWithWhatItFound(t *testing.T) {
	hello, trap, refuse := moduleOf(t, filters.Hello), moduleOf(t, filters.Trap), moduleOf(t, filters.Refuse)
	empty := filepath.Join(t.TempDir(), "empty.har")
	if err := os.WriteFile(empty, []byte(`{"log": {"entries": []}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file    string
		module  *image.Module
		code    int
		printed string
		err     string
	}{
		"no difference":          {trafficFile(t, "x-any"), trap, exitDone, "treat all 1 requests alike", ""},
		"a difference":           {trafficFile(t, "x-crash"), trap, exitRefused, "GET /b", "1 of 1 requests of"},
		"a module that refuses":  {trafficFile(t, "x-any"), refuse, exitRefused, "", "starting the module under test: proxy_on_configure: returned false"},
		"no file":                {"missing.har", trap, exitFailed, "", "reading --traffic: open missing.har"},
		"a file of another kind": {os.Args[0], trap, exitFailed, "", "this is not an HTTP Archive (HAR) that can be replayed"},
		"no requests":            {empty, trap, exitFailed, "", "it has no requests: record some with wasme record"},
	} {
		t.Run(name, func(t *testing.T) {
			streams, _, stdout, _ := genericiooptions.NewTestIOStreams()
			err := (&app{IOStreams: streams}).replay(t.Context(), c.file, c.module, hello, &filterFlags{}, &output{})
			if code := codeOf(t.Context(), err); code != c.code {
				t.Errorf("it exits with %d: %v", code, err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v, not %s", err, c.err)
			}
			if !strings.Contains(stdout.String(), c.printed) {
				t.Error(stdout.String())
			}
		})
	}
}

func TestAReplayIsPrintedForPrograms(t *testing.T) {
	streams, _, stdout, _ := genericiooptions.NewTestIOStreams()
	format := &output{format: "json"}
	err := (&app{IOStreams: streams}).replay(t.Context(), trafficFile(t, "x-crash"), moduleOf(t, filters.Trap), moduleOf(t, filters.Hello), &filterFlags{}, format)
	if code := codeOf(t.Context(), err); code != exitRefused {
		t.Errorf("it exits with %d: %v", code, err)
	}
	var report struct {
		Exchanges, Differing int
		Differences          []struct{ Request, Field, Before, After string }
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if report.Exchanges != 1 || report.Differing != 1 || len(report.Differences) == 0 || report.Differences[0].Request != "GET /b" {
		t.Errorf("%+v", report)
	}
}
