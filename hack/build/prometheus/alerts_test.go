// Package build pins the version of Prometheus whose parser judges the alerts.
package build

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

const (
	rulesFile   = "../../../config/prometheus/rules.yaml"
	metricsPage = "../../../docs/metrics.md"
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
	if a.Labels["severity"] == "" || a.Annotations["summary"] == "" || a.Annotations["runbook_url"] == "" {
		found = append(found, "it lacks its severity, summary or runbook_url")
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
		if row := fmt.Sprintf("| `%s` | %s |", a.Alert, a.Labels["severity"]); !strings.Contains(string(page), row) {
			t.Errorf("%s has no row %s", metricsPage, row)
		}
	}
	if rows := strings.Count(string(page), "\n| `Wasme"); len(alerts) == 0 || rows != len(alerts) {
		t.Errorf("%s has rows for %d alerts of %d", metricsPage, rows, len(alerts))
	}
}

func TestPrometheusRefusesBrokenAlerts(t *testing.T) {
	known := map[string][]string{"wasme_a_total": {"kind"}}
	fine := alert{
		Alert: "A", Expr: "rate(wasme_a_total[5m]) > 0", For: "15m",
		Labels:      map[string]string{"severity": "warning"},
		Annotations: map[string]string{"summary": "{{ $value }} of {{ $labels.kind }}", "runbook_url": "https://example.com"},
	}
	if problems := fine.problems(t, known); len(problems) > 0 {
		t.Fatal(problems)
	}
	for name, spoil := range map[string]func(*alert){
		"no PromQL":      func(a *alert) { a.Expr = "sum(rate(wasme_a_total[5m])" },
		"no rate":        func(a *alert) { a.Expr = "rate(wasme_a_total) > 0" },
		"unknown metric": func(a *alert) { a.Expr = "rate(wasme_b_total[5m]) > 0" },
		"unknown label":  func(a *alert) { a.Expr = `wasme_a_total{name="x"} > 0` },
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

// documented are the metrics of the page, with their labels. The page is held
// against the registry by the controllers' tests.
func documented(page []byte) map[string][]string {
	known := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [a-z]+ \\| ([^|]+) \\|").FindAllSubmatch(page, -1) {
		known[string(row[1])] = regexp.MustCompile("[a-z_]+").FindAllString(string(row[2]), -1)
	}
	return known
}

// unknownMetrics are the selectors of an expression that name no metric that is
// known, or a label that it has not.
func unknownMetrics(t *testing.T, expr string, known map[string][]string) []string {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		has, found := known[selector.Name]
		if !found {
			problems = append(problems, fmt.Sprintf("there is no metric %q", selector.Name))
		}
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name != model.MetricNameLabel && !slices.Contains(has, matcher.Name) {
				problems = append(problems, fmt.Sprintf("%s has no label %s", selector.Name, matcher.Name))
			}
		}
		return nil
	})
	return problems
}
