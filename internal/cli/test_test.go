package cli_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// greeting returns a filter that adds the response header hello, with its configuration.
func greeting(t *testing.T) string {
	t.Helper()
	path := write(t, "filter.wasm", hello)
	moduletest.Must(t, os.WriteFile(filepath.Join(filepath.Dir(path), "runtime-config.json"), moduletest.RuntimeConfig("add_header_root_id"), 0o600))
	return path
}

// hello is the filter hello.
var hello []byte

// TestMain builds the filter while the user still has the home with Go's caches.
func TestMain(m *testing.M) {
	var err error
	if hello, err = filters.Build(context.Background(), "hello"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestAFilterIsTested(t *testing.T) {
	atHome(t)
	filter := greeting(t)
	good := write(t, "tests.yaml", []byte(`test:
- name: says hello
  response_headers:
    input: {header: [{key: ":status", value: "200"}]}
    result: {has_header: [{key: hello, value: me}]}
`))
	bad := write(t, "tests.yaml", []byte(strings.ReplaceAll(goodTests, "leaves", "never leaves")))
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"alone":          {[]string{filter}, 0, []string{"preflight: Preflighted: "}},
		"its tests pass": {[]string{filter, "--config", "me", "--tests", good}, 0, []string{"ok   says hello"}},
		"its tests fail": {[]string{filter, "--config", "me", "--tests", bad}, 3, []string{"FAIL never leaves the response alone", "response_headers: expected"}},
		"a request": {
			[]string{filter, "--config", "me", "--request", "GET /headers", "-H", "x-user: me"}, 0,
			[]string{"GET /headers: 200", "+ hello: me", "  x-user: me"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := wasme(t, append([]string{"test"}, c.args...)...)
			if got.code != c.code {
				t.Errorf("%d\n%s%s", got.code, got.out, got.err)
			}
			for _, text := range c.says {
				if !strings.Contains(got.out, text) {
					t.Errorf("it does not say %q:\n%s", text, got.out)
				}
			}
		})
	}
}

func TestAModuleThatIsRefusedFailsItsTest(t *testing.T) {
	atHome(t)
	refuses := write(t, "filter.wasm", moduletest.Assembly{Functions: []moduletest.Function{moduletest.Answering(moduletest.OnConfigure, 0)}}.Assemble())
	traps := write(t, "filter.wasm", moduletest.Assembly{Functions: []moduletest.Function{moduletest.Handling(moduletest.OnRequestHeaders, moduletest.Unreachable)}}.Assemble())
	for file, says := range map[string]string{refuses: "ConfigurationRefused", traps: "crashed in proxy_on_request_headers"} {
		got := wasme(t, "test", file)
		if got.code != 3 || !strings.Contains(got.out, says) || !strings.Contains(got.err, "the operator's preflight refuses the module") {
			t.Errorf("%d\n%s%s", got.code, got.out, got.err)
		}
	}
}

func TestResultsForPrograms(t *testing.T) {
	atHome(t)
	filter := greeting(t)
	tests := write(t, "tests.yaml", []byte(goodTests))
	args := []string{"test", filter, "--config", "me", "--tests", tests, "--request", "POST /x", "-d", "body"}
	var report struct {
		Preflight struct {
			Reason string
			Cost   struct {
				StreamMicroseconds *int64
				Capabilities       []string
			}
		}
		Tests []struct {
			Name   string
			Passed bool
		}
		Requests []struct {
			Upstream, Client struct {
				Headers []string
				Body    string
			}
		}
	}
	got := wasme(t, append(args, "-o", "json")...)
	moduletest.Must(t, json.Unmarshal([]byte(got.out), &report))
	if got.code != 3 || report.Preflight.Reason != "Preflighted" || report.Preflight.Cost.StreamMicroseconds == nil || len(report.Tests) != 1 || report.Tests[0].Passed {
		t.Errorf("%d, %+v", got.code, report)
	}
	if r := report.Requests[0]; r.Upstream.Body != "body" || !slices.Contains(r.Client.Headers, "hello: me") {
		t.Errorf("%+v", r)
	}
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
	}
	moduletest.Must(t, xml.Unmarshal([]byte(wasme(t, append(args, "-o", "junit")...).out), &suites))
	if suites.Tests != 3 || suites.Failures != 1 {
		t.Errorf("%+v", suites)
	}
}

func TestTestFilesMayReferenceFilesBesideThemOnly(t *testing.T) {
	atHome(t)
	dir := project(t, quiet)
	tests := filepath.Join(dir, "more.yaml")
	moduletest.Must(t, os.WriteFile(filepath.Join(dir, "request"), []byte("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), 0o600))
	for file, code := range map[string]int{"request": 0, "../outside": 1, "/etc/passwd": 1} {
		moduletest.Must(t, os.WriteFile(tests, []byte("test:\n- name: x\n  request_headers:\n    input: {file: \""+file+"\"}\n"), 0o600))
		if got := wasme(t, "test", filepath.Join(dir, "filter.wasm"), "--tests", tests); got.code != code {
			t.Errorf("%s: %d\n%s%s", file, got.code, got.out, got.err)
		}
	}
}

func TestTwoModulesAreMeasuredBesideEachOther(t *testing.T) {
	atHome(t)
	table := done(t, "bench", write(t, "filter.wasm", quiet), "--against", greeting(t))
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if len(rows) != 4 || !strings.HasPrefix(rows[0], "NAME") || !strings.HasPrefix(rows[3], "ratio") {
		t.Error(table)
	}
	loops := write(t, "filter.wasm", moduletest.Assembly{Functions: []moduletest.Function{moduletest.Answering(moduletest.OnConfigure, 0)}}.Assemble())
	if got := wasme(t, "bench", loops); got.code != 3 || !strings.Contains(got.err, "ConfigurationRefused") {
		t.Errorf("%+v", got)
	}
}

func TestBadTestsNameTheFix(t *testing.T) {
	atHome(t)
	wasm := write(t, "filter.wasm", quiet)
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a request without a path": {[]string{"--request", "GET"}, 2, `write it as "METHOD PATH"`},
		"a header without a value": {[]string{"--request", "GET /", "-H", "x"}, 2, `write it as "NAME: VALUE"`},
		"no such body":             {[]string{"--request", "GET /", "-d", "@/none"}, 1, "/none"},
		"no such tests":            {[]string{"--tests", "/none"}, 1, "/none"},
		"broken tests":             {[]string{"--tests", write(t, "tests.yaml", []byte("test: x"))}, 1, "cannot be read"},
		"two configurations":       {[]string{"--config", "x", "--config-file", "y"}, 2, "leave one out"},
		"traffic alone":            {[]string{"--traffic", "x"}, 2, "--traffic and --against go together"},
		"traffic and a request":    {[]string{"--traffic", "x", "--against", wasm, "--request", "GET /"}, 2, "leave --tests and --request out"},
		"traffic and tests":        {[]string{"--traffic", "x", "--against", wasm, "--tests", "y"}, 2, "leave --tests and --request out"},
		"traffic and a header":     {[]string{"--traffic", "x", "--against", wasm, "-H", "a: b"}, 2, "are for a request"},
		"traffic for junit":        {[]string{"--traffic", "x", "--against", wasm, "-o", "junit"}, 2, "use json or yaml"},
		"a header of no request":   {[]string{"-H", "a: b"}, 2, "add --request"},
		"a body of no request":     {[]string{"-d", "body"}, 2, "add --request"},
		"a status of no request":   {[]string{"--response", "500"}, 2, "add --request"},
		"an unknown output":        {[]string{"-o", "xml"}, 2, "use one of json, yaml, junit"},
	} {
		t.Run(name, func(t *testing.T) {
			got := wasme(t, append([]string{"test", wasm}, c.args...)...)
			if got.code != c.code || !strings.Contains(got.err, c.says) {
				t.Errorf("%d\n%s%s", got.code, got.out, got.err)
			}
		})
	}
	if got := wasme(t, "test", "registry.example"); got.code != 2 || !strings.Contains(got.err, "there is no file registry.example") {
		t.Errorf("%+v", got)
	}
}

func TestAConfigurationComesFromAFileAsItIs(t *testing.T) {
	atHome(t)
	got := wasme(t, "test", greeting(t), "--config-file", write(t, "config", []byte("me")), "--request", "GET /")
	if got.code != 0 || !strings.Contains(got.out, "+ hello: me") {
		t.Errorf("%d\n%s%s", got.code, got.out, got.err)
	}
	if got := wasme(t, "test", greeting(t), "--config-file", "/none"); got.code != 1 || !strings.Contains(got.err, "reading the configuration: open /none") {
		t.Errorf("%+v", got)
	}
}
