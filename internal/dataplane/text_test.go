package dataplane

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorded is what a real Envoy or pilot-agent of Istio 1.31 has answered.
// envoy-untagged is of an Envoy without Istio's rules for the names of metrics.
func recorded(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func TestPluginsOfRealEnvoys(t *testing.T) {
	for name, want := range map[string]map[string]reloads{
		"envoy-empty":   {},
		"envoy-loaded":  {"wasm_filter.bookinfo/details-v1/greeting@14643ae8": {}},
		"envoy-changed": {"wasm_filter.bookinfo/details-v1/greeting@febce647": {}},
		"envoy-two": {
			"wasm_filter.bookinfo/details-v1/crashing@5fdb6d06": {},
			"wasm_filter.bookinfo/details-v1/greeting@febce647": {},
		},
		"envoy-crashed": {
			"wasm_filter.bookinfo/details-v1/crashing@5fdb6d06": {success: 4},
			"wasm_filter.bookinfo/details-v1/greeting@febce647": {},
		},
		"envoy-crashed-more": {
			"wasm_filter.bookinfo/details-v1/crashing@5fdb6d06": {success: 5, backoff: 18},
			"wasm_filter.bookinfo/details-v1/greeting@febce647": {},
		},
		"envoy-plugins": {
			"wasm_filter.bookinfo/details-v1/crashing@5fdb6d06": {success: 5, backoff: 18},
			"wasm_filter.bookinfo/details-v1/greeting@febce647": {},
			"bookinfo_te": {},
			"bookinfo_wp_with_dots_istio_translated_wasmplugin": {},
		},
		"envoy-untagged": {"wasm_filter_bookinfo_details_v1_greeting_14643ae8": {}},
		"envoy-refusing": {"wasm_filter.bookinfo/details-v1/refused@a0719d45": {}}, // the first answer after that
		"envoy-refused":  {},                                                       // the one after that
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parsePage(strings.NewReader(recorded(t, name)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.plugins, cmp.AllowUnexported(reloads{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPluginsOfOtherTexts(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want map[string]reloads
		err  error
	}{
		"no plugin's metrics":      {"envoy_wasm_envoy_wasm_runtime_v8_created{} 22\nup 1\n", map[string]reloads{}, nil},
		"no name":                  {"envoy_wasm_vm_reload{} 0\n", map[string]reloads{}, nil},
		"another metric's end":     {"envoy_wasm_xvm_reload{} 0\n", map[string]reloads{}, nil},
		"no newline at the end":    {"envoy_wasm_x_vm_reload 0", map[string]reloads{"x": {}}, nil},
		"empty lines":              {"\nup 1\n\n", map[string]reloads{}, nil},
		"another prefix":           {"x_vm_reload 0\nvm_reload 0\n", map[string]reloads{}, nil},
		"another suffix":           {"envoy_wasm_x_vm_reloads 0\nenvoy_wasm_x_ 0\n", map[string]reloads{}, nil},
		"the largest count":        {"envoy_wasm_x_vm_reload_success 9007199254740992\n", map[string]reloads{"x": {success: 1 << 53}}, nil},
		"a larger count":           {"envoy_wasm_x_vm_reload_success 9007199254740994\n", nil, errMalformed},
		"spaces only":              {"  \n", nil, errMalformed},
		"the longest line":         {"# " + strings.Repeat("x", maxLine-4) + "\n", map[string]reloads{}, nil},
		"a timestamp":              {"envoy_wasm_x_vm_reload_failure 3 1700000000000\n", map[string]reloads{"x": {failure: 3}}, nil},
		"other labels":             {`envoy_wasm_vm_reload{pod="p",wasm_filter="a@1"} 0` + "\n", map[string]reloads{"wasm_filter.a@1": {}}, nil},
		"quotes in a label":        {`envoy_wasm_vm_reload{wasm_filter="a\"b\\c"} 0` + "\n", map[string]reloads{`wasm_filter.a"b\c`: {}}, nil},
		"a name that goes on":      {`envoy_wasm_b_vm_reload{wasm_filter="a"} 0` + "\n", map[string]reloads{"wasm_filter.a.b": {}}, nil},
		"a name like a counter's":  {"envoy_wasm_vm_reload_vm_reload_success 1\n", map[string]reloads{"vm_reload": {success: 1}}, nil},
		"HTML":                     {"<html><body>hello</body></html>\n", nil, errMalformed},
		"JSON":                     {`{"app": "details"}` + "\n", nil, errMalformed},
		"prose":                    {"Hello world\n", nil, errMalformed},
		"zeros":                    {strings.Repeat("\x00", 100), nil, errMalformed},
		"an open label":            {`envoy_wasm_vm_reload{wasm_filter="a` + "\n", nil, errMalformed},
		"no value":                 {"envoy_wasm_x_vm_reload\n", nil, errMalformed},
		"a negative count":         {"envoy_wasm_x_vm_reload_success -1\n", nil, errMalformed},
		"a fraction":               {"envoy_wasm_x_vm_reload_success 0.5\n", nil, errMalformed},
		"not a number":             {"envoy_wasm_x_vm_reload_success NaN\n", nil, errMalformed},
		"infinity":                 {"envoy_wasm_x_vm_reload_success +Inf\n", nil, errMalformed},
		"an inexact count":         {"envoy_wasm_x_vm_reload_success 1e300\n", nil, errMalformed},
		"a long line":              {strings.Repeat("x", maxLine+1), nil, errMalformed},
		"a long comment":           {"# " + strings.Repeat("x", maxLine) + "\n", nil, errMalformed},
		"many lines":               {strings.Repeat("up 1\n", maxLines+1), nil, errTooLarge},
		"as many lines as allowed": {strings.Repeat("up 1\n", maxLines), map[string]reloads{}, nil},
		"many bytes":               {strings.Repeat("# "+strings.Repeat("x", maxLine-3)+"\n", maxPage/maxLine+1), nil, errTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parsePage(strings.NewReader(c.text))
			if !errors.Is(err, c.err) {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got.plugins, cmp.AllowUnexported(reloads{})); err == nil && diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAgentsAnswers(t *testing.T) {
	// What an app may have pilot-agent add to its own page.
	appEnds := "app_requests{path=\"" + strings.Repeat("x", maxLine) + "\"} 1\n# EOF\n" + strings.Repeat("app 1\n", 1e6)
	for name, c := range map[string]struct {
		text string
		want uint64
		err  error
	}{
		"no fetch yet":                {recorded(t, "agent-empty"), 0, nil},
		"a fetch":                     {recorded(t, "agent-loaded"), 0, nil},
		"a fetch that failed":         {recorded(t, "agent-failed"), 1, nil},
		"an app's metrics after that": {recorded(t, "agent-failed") + appEnds, 1, nil},
		"an app's metrics only":       {"app_requests 1\n", 0, errMalformed},
		"an endless line":             {strings.Repeat("x", 2*maxPage), 0, errMalformed},
		"nothing":                     {"", 0, errMalformed},
		"another result":              {"istio_agent_wasm_config_conversion_count{result=\"success\"} 3\n", 0, nil},
		"a long line of its own":      {"istio_agent_x{y=\"" + strings.Repeat("x", maxLine-100) + "\"} 1\n", 0, nil},
		"no count":                    {"istio_agent_wasm_config_conversion_count{result=\"fetch_failure\"} x\n", 0, errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseAgent(strings.NewReader(c.text))
			if !errors.Is(err, c.err) {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if err == nil && got.failedFetches != c.want {
				t.Errorf("%d failed fetches, not %d", got.failedFetches, c.want)
			}
		})
	}
}

func TestACrashIsARiseOfACounter(t *testing.T) {
	for name, c := range map[string]struct {
		before, after reloads
		want          bool
	}{
		"nothing yet":                  {reloads{}, reloads{}, false},
		"no change":                    {reloads{4, 1, 18}, reloads{4, 1, 18}, false},
		"reloaded":                     {reloads{4, 1, 18}, reloads{5, 1, 18}, true},
		"failed to reload":             {reloads{4, 1, 18}, reloads{4, 2, 18}, true},
		"put off":                      {reloads{4, 1, 18}, reloads{4, 1, 19}, true},
		"started again":                {reloads{4, 1, 18}, reloads{}, false},
		"started again and crashed":    {reloads{4, 1, 18}, reloads{1, 0, 0}, true},
		"started again, crashed worse": {reloads{4, 1, 18}, reloads{9, 0, 0}, true},
		"started again, one lower":     {reloads{1, 0, 0}, reloads{}, false},
		"started again, no failure":    {reloads{0, 1, 0}, reloads{}, false},
		"started again, none put off":  {reloads{0, 0, 1}, reloads{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.after.roseFrom(c.before); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestAnEnvoyShowsItsUpdatesOfListeners(t *testing.T) {
	for text, want := range map[string]listenerCounts{
		recorded(t, "envoy-loaded"):              {},
		"up 1\n":                                 {},
		listenerRows(2, 1):                       {shown: true, accepted: 2, refused: 1},
		"up 1\n" + listenerRows(3, 0) + "up 1\n": {shown: true, accepted: 3},
	} {
		got, err := parsePage(strings.NewReader(text))
		if err != nil || got.listeners != want {
			t.Errorf("%.100q: got %+v, %v", text, got.listeners, err)
		}
	}
}

func TestAnAgentMayAnswerForItsEnvoy(t *testing.T) {
	agents, envoys := recorded(t, "agent-failed"), recorded(t, "envoy-loaded")+listenerRows(1, 0)
	app := "# EOF\nrequests{} 1e-3 # {trace=\"x\"} 0.1\n" + strings.Repeat("x", 2*maxLine) + "\n"
	for name, c := range map[string]struct {
		text    string
		envoy   bool
		plugins int
	}{
		"it does":                      {agents + envoys, true, 1},
		"it does, before the app":      {agents + envoys + app, true, 1},
		"it does, before a large app":  {agents + envoys + strings.Repeat("requests{} 1\n", maxLines), true, 1},
		"it cannot ask it":             {agents + app, false, 0},
		"its Envoy has no plugin":      {agents + listenerRows(1, 0), true, 0},
		"the app is another proxy":     {agents + "envoy_cluster_upstream_cx_total{} 1\n", false, 0},
		"what it says of it is broken": {agents + recorded(t, "envoy-loaded"), false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseAgent(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if got.listeners.shown != c.envoy || len(got.page.plugins) != c.plugins {
				t.Errorf("Envoy's page: %v, with %d plugins", got.listeners.shown, len(got.page.plugins))
			}
			if want := (agentCounts{failedFetches: 1, plugins: 15}); got.agentCounts != want {
				t.Errorf("pilot-agent's: %+v", got.agentCounts)
			}
		})
	}
}

// broken is a body whose connection ends.
type broken struct{ text io.Reader }

func (b broken) Read(into []byte) (int, error) {
	if n, err := b.text.Read(into); err == nil {
		return n, nil
	}
	return 0, io.ErrUnexpectedEOF
}

func TestAnAnswerThatBreaksOffIsNoAnswer(t *testing.T) {
	if _, err := parsePage(broken{strings.NewReader("up 1\n")}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Envoy's: %v", err)
	}
	if _, err := parseAgent(broken{strings.NewReader("up 1\n")}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("pilot-agent's, before its own metrics: %v", err)
	}
	got, err := parseAgent(broken{strings.NewReader("istio_agent_up 1\n")})
	if err != nil || got == nil {
		t.Errorf("pilot-agent's, after its own metrics: %v, %v", got, err)
	}
}

func FuzzPlugins(f *testing.F) {
	for _, name := range []string{"envoy-loaded", "envoy-crashed-more", "envoy-plugins", "envoy-untagged", "agent-failed"} {
		f.Add(recorded(f, name))
	}
	f.Add(`envoy_wasm_vm_reload{wasm_filter="a\"b"} 1e3` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		found, err := parsePage(strings.NewReader(text))
		if err != nil {
			if failure := failureOf(err); failure != FailureMalformed && failure != FailureTooLarge {
				t.Errorf("%s: %v", failure, err)
			}
			return
		}
		if len(found.plugins) > maxLines {
			t.Errorf("%d plugins", len(found.plugins))
		}
		for name, counts := range found.plugins {
			if name == "" || len(name) > maxLine || max(counts.success, counts.failure, counts.backoff) > 1<<53 {
				t.Errorf("%q %+v", name, counts)
			}
			if relate(name, name) != same {
				t.Errorf("%q is not itself", name)
			}
			if rows := rowsOf(name, found.plugins); len(rows) > maxRows || !shows(name, rows) {
				t.Errorf("%q: %d rows", name, len(rows))
			}
		}
	})
}

func FuzzAgent(f *testing.F) {
	for _, name := range []string{"agent-empty", "agent-loaded", "agent-failed", "envoy-loaded"} {
		f.Add(recorded(f, name))
	}
	f.Fuzz(func(t *testing.T, text string) {
		counts, err := parseAgent(strings.NewReader(text))
		if (counts == nil) != (err != nil) {
			t.Fatalf("%v, %v", counts, err)
		}
		if err == nil && counts.failedFetches > 1<<53 || counts != nil && counts.failedFetches == math.MaxUint64 {
			t.Errorf("%d failed fetches", counts.failedFetches)
		}
	})
}
