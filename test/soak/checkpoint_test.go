package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const scraped = `# TYPE controller_runtime_reconcile_total counter
controller_runtime_reconcile_total{controller="a",result="success"} 100
controller_runtime_reconcile_total{controller="b",result="error"} 20
# TYPE controller_runtime_reconcile_panics_total counter
controller_runtime_reconcile_panics_total{controller="a"} 0
# TYPE rest_client_requests_total counter
rest_client_requests_total{code="200",method="GET"} 1000
rest_client_requests_total{code="200",method="PUT"} 10
rest_client_requests_total{code="409",method="PATCH"} 5
# TYPE apiserver_resource_objects gauge
apiserver_resource_objects{resource="pods"} 7
apiserver_resource_objects{resource="events"} 90
apiserver_resource_objects{resource="nodes"} -1
`

func TestMetrics(t *testing.T) {
	m, err := parse([]byte(scraped))
	if err != nil {
		t.Fatal(err)
	}
	notEvents := func(labels map[string]string) bool { return labels["resource"] != "events" }
	for name, got := range map[string][2]float64{
		"a counter with labels": {m.sum("controller_runtime_reconcile_total"), 120},
		"writes":                {m.writes(), 15},
		"some labels only":      {m.sum("apiserver_resource_objects", notEvents), 7},
		"what is not served":    {m.sum("process_open_fds"), 0},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %g, not %g", name, got[0], got[1])
		}
	}
}

func TestRestless(t *testing.T) {
	for name, test := range map[string]struct {
		replace []string // of what is scraped later
		before  []string // partial files
		after   []string
		found   string
	}{
		"nothing":                   {},
		"a file that is gone later": {before: []string{"tmp/1"}, after: []string{"tmp/2"}},
		"a file that stays":         {before: []string{"tmp/1"}, after: []string{"tmp/1"}, found: "a file was left half written: tmp/1"},
		"a panic":                   {replace: []string{`panics_total{controller="a"} 0`, `panics_total{controller="a"} 2`}, found: "2 reconciles panicked"},
		"a few reconciles":          {replace: []string{`"success"} 100`, `"success"} 110`}},
		"a hot loop":                {replace: []string{`"success"} 100`, `"success"} 1100`}, found: "1000 reconciles in 5s at rest"},
		"a loop of writes":          {replace: []string{`method="PUT"} 10`, `method="PUT"} 60`}, found: "50 writes in 5s at rest"},
		"reads":                     {replace: []string{`method="GET"} 1000`, `method="GET"} 2000`}},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := parse([]byte(scraped))
			if err != nil {
				t.Fatal(err)
			}
			after, err := parse([]byte(strings.NewReplacer(test.replace...).Replace(scraped)))
			if err != nil {
				t.Fatal(err)
			}
			got := restless(figures{metrics: before, partial: test.before}, figures{metrics: after, partial: test.after})
			if strings.Join(got, "; ") != test.found {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestStoreFiles(t *testing.T) {
	folder := t.TempDir()
	partial := filepath.Join(folder, "tmp", "half")
	for _, path := range []string{filepath.Join(folder, "sha256", "whole"), partial} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if count, found, err := storeFiles(folder); count != 1 || !slices.Equal(found, []string{partial}) || err != nil {
		t.Errorf("%d, %v, %v", count, found, err)
	}
	if count, _, err := storeFiles(filepath.Join(folder, "missing")); count != 0 || err != nil {
		t.Errorf("%d, %v", count, err)
	}
}

func TestMostRetries(t *testing.T) {
	if got := mostRetries(time.Now()); got != 2 {
		t.Errorf("%d at the begin", got)
	}
	if got := mostRetries(time.Now().Add(-3 * retryEvery)); got != 5 {
		t.Errorf("%d later", got)
	}
}

func TestJudgeRejection(t *testing.T) {
	early := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	first, again, other := rejection{"r1", early}, rejection{"r1", early.Add(time.Minute)}, rejection{"r2", early.Add(time.Minute)}
	for name, test := range map[string]struct {
		what, last        rejection
		before, explained bool
		counts            bool
		wrong             string
	}{
		"a fault explains it":                     {first, rejection{}, false, true, true, ""},
		"no fault explains it":                    {first, rejection{}, false, false, true, ", and no fault explains it"},
		"it is not tried again yet":               {first, first, true, false, true, ""},
		"it was tried again without faults":       {again, first, false, true, true, " again when faults were over"},
		"another one was tried before":            {other, first, false, true, true, ""},
		"it was another one, of a tag that moved": {first, rejection{}, true, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			counts, wrong := judgeRejection(test.what, test.last, test.before, test.explained)
			if counts != test.counts || wrong != test.wrong {
				t.Errorf("counts: %t, wrong: %q", counts, wrong)
			}
		})
	}
}
