// Package build pins the version of Prometheus whose parser and engine judge the alerts and the dashboard.
package build

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

const (
	rulesFile   = "../../../config/prometheus/rules.yaml"
	metricsPage = "../../../docs/metrics.md"
	runbooks    = "../../../docs/runbooks"
	runbookURL  = "https://github.com/wasme-io/wasme-operator/blob/main/docs/runbooks/"
)

// alert is a rule of a PrometheusRule that is an alert.
type alert struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

// problems are what is wrong with the alert. Prometheus' own parser judges the
// expression; of the annotations, which take its whole engine, only the form is
// looked at.
func (a alert) problems(t *testing.T, known map[string][]string) []string {
	t.Helper()
	found := unknownMetrics(t, a.Expr, known)
	if _, err := model.ParseDuration(a.For); err != nil {
		found = append(found, err.Error())
	}
	for _, text := range a.Annotations {
		form := template.New("").Funcs(template.FuncMap{"humanizePercentage": fmt.Sprint})
		if _, err := form.Parse("{{ $labels := .Labels }}{{ $value := .Value }}" + text); err != nil {
			found = append(found, err.Error())
		}
	}
	if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
		found = append(found, "it lacks its severity, summary or description")
	}
	if a.Annotations["runbook_url"] != runbookURL+a.Alert+".md" {
		found = append(found, "its runbook_url is not "+runbookURL+a.Alert+".md")
	}
	return found
}

func TestPrometheusAcceptsAlerts(t *testing.T) {
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	alerts := readAlerts(t)
	for _, a := range alerts {
		for _, problem := range a.problems(t, documented(page)) {
			t.Errorf("%s: %s", a.Alert, problem)
		}
		if row := fmt.Sprintf("| [%s] | %s |", a.Alert, a.Labels["severity"]); !strings.Contains(string(page), row) {
			t.Errorf("%s has no row %s", metricsPage, row)
		}
	}
	if rows := strings.Count(string(page), "\n| [Wasme"); len(alerts) == 0 || rows != len(alerts) {
		t.Errorf("%s has rows for %d alerts of %d", metricsPage, rows, len(alerts))
	}
}

func TestPrometheusRefusesBrokenAlerts(t *testing.T) {
	known := map[string][]string{"wasme_a_total": {"kind"}}
	fine := alert{
		Alert: "A", Expr: "rate(wasme_a_total[5m]) > 0", For: "15m",
		Labels:      map[string]string{"severity": "warning"},
		Annotations: map[string]string{"summary": "{{ $value }} of {{ $labels.kind }}", "description": "d", "runbook_url": runbookURL + "A.md"},
	}
	if problems := fine.problems(t, known); len(problems) > 0 {
		t.Fatal(problems)
	}
	for name, spoil := range map[string]func(*alert){
		"no PromQL":      func(a *alert) { a.Expr = "sum(rate(wasme_a_total[5m])" },
		"no rate":        func(a *alert) { a.Expr = "rate(wasme_a_total) > 0" },
		"unknown metric": func(a *alert) { a.Expr = "rate(wasme_b_total[5m]) > 0" },
		"unknown label":  func(a *alert) { a.Expr = `wasme_a_total{name="x"} > 0` },
		"unknown group":  func(a *alert) { a.Expr = "sum by (name) (wasme_a_total) > 0" },
		"unknown match":  func(a *alert) { a.Expr = "wasme_a_total > on (name) wasme_a_total" },
		"runbook":        func(a *alert) { a.Annotations = with(a.Annotations, "runbook_url", runbookURL+"B.md") },
		"no description": func(a *alert) { a.Annotations = with(a.Annotations, "description", "") },
		"any metric":     func(a *alert) { a.Expr = `{kind="x"} > 0` },
		"duration":       func(a *alert) { a.For = "15 minutes" },
		"template":       func(a *alert) { a.Annotations = map[string]string{"summary": "{{ $valu }}"} },
		"no severity":    func(a *alert) { a.Labels = nil },
	} {
		t.Run(name, func(t *testing.T) {
			broken := fine
			if spoil(&broken); len(broken.problems(t, known)) == 0 {
				t.Error("accepted")
			}
		})
	}
}

func with(texts map[string]string, key, value string) map[string]string {
	changed := maps.Clone(texts)
	changed[key] = value
	return changed
}

// TestEveryAlertHasItsRunbook compares the alerts with the pages, by their titles.
func TestEveryAlertHasItsRunbook(t *testing.T) {
	var alerts, titles []string
	for _, a := range readAlerts(t) {
		alerts = append(alerts, a.Alert)
	}
	pages, err := os.ReadDir(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(runbooks, page.Name()))
		if err != nil {
			t.Fatal(err)
		}
		title, _, _ := strings.Cut(string(text), "\n")
		if titles = append(titles, strings.TrimPrefix(title, "# ")); title != "# "+strings.TrimSuffix(page.Name(), ".md") {
			t.Errorf("%s has the title %q", page.Name(), title)
		}
		for _, heading := range []string{"Meaning", "Impact", "Diagnosis", "Fix", "Escalate"} {
			if !strings.Contains(string(text), "\n## "+heading+"\n") {
				t.Errorf("%s does not have the heading %s", page.Name(), heading)
			}
		}
	}
	slices.Sort(alerts)
	if slices.Sort(titles); !slices.Equal(alerts, titles) {
		t.Errorf("the alerts are %v, and the runbooks %v", alerts, titles)
	}
}

// queries are the blocks of PromQL of a page, one query a line.
var queries = regexp.MustCompile("(?ms)^```promql\n(.*?)^```")

func TestQueriesOfRunbooksNameMetricsThatExist(t *testing.T) {
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range queries.FindAllStringSubmatch(string(text), -1) {
			for query := range strings.Lines(block[1]) {
				count++
				for _, problem := range unknownMetrics(t, query, documented(page)) {
					t.Errorf("%s: %s: %s", filepath.Base(path), strings.TrimSpace(query), problem)
				}
			}
		}
	}
	if count < len(paths) {
		t.Errorf("%d queries in %d runbooks", count, len(paths))
	}
}

// readAlerts reads a PrometheusRule, all of whose rules are alerts.
func readAlerts(t *testing.T) []alert {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   any
		Spec       struct {
			Groups []struct {
				Name  string
				Rules []alert
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&object); err != nil {
		t.Fatal(err)
	}
	var alerts []alert
	for _, group := range object.Spec.Groups {
		alerts = append(alerts, group.Rules...)
	}
	return alerts
}
