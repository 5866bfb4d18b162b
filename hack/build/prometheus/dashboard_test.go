package build

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

const (
	dashboardFile = "../../../config/grafana/wasme-operator.json"
	grafanaFile   = "../../../config/grafana/kustomization.yaml"
)

// panel is a panel of a Grafana dashboard. Those of type row have no queries.
type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ Expr, LegendFormat string }
}

// variables are the dashboard's, and Grafana's own, with a value that Prometheus accepts.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".+")

func readDashboard(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	return dashboard.Panels
}

// problems returns what is wrong with the panel's texts and queries.
func (p panel) problems(t *testing.T, known map[string][]string) []string {
	t.Helper()
	if p.Type == "row" {
		return nil
	}
	var found []string
	if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
		found = append(found, "it lacks its title, description, unit or queries")
	}
	for _, target := range p.Targets {
		expr := variables.Replace(target.Expr)
		found = append(found, unknownMetrics(t, expr, known)...)
		if parsed, err := parse(expr); err == nil {
			found = append(found, missingLabels(parsed, target.LegendFormat)...)
		}
	}
	return found
}

// legendLabel is a label in the legend of a query.
var legendLabel = regexp.MustCompile(`{{(\w+)}}`)

// missingLabels returns a problem for each label of a legend that no aggregation of the
// query keeps.
func missingLabels(parsed parser.Expr, legend string) []string {
	var kept, problems []string
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if aggregate, ok := node.(*parser.AggregateExpr); ok && kept == nil {
			kept = append([]string{""}, aggregate.Grouping...) // the outermost decides
		}
		return nil
	})
	for _, label := range legendLabel.FindAllStringSubmatch(legend, -1) {
		if !slices.Contains(kept, label[1]) {
			problems = append(problems, "the result has no label "+label[1])
		}
	}
	return problems
}

func TestDashboardShowsMetricsThatExist(t *testing.T) {
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	known := documented(page)
	var shown strings.Builder
	ids := map[int]bool{}
	for _, p := range readDashboard(t) {
		for _, problem := range p.problems(t, known) {
			t.Errorf("%s: %s", p.Title, problem)
		}
		if ids[p.ID] {
			t.Errorf("%s: another panel has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			shown.WriteString(target.Expr + "\n")
		}
	}
	for name := range known {
		isPart := strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count")
		if !isPart && !regexp.MustCompile(`\b`+name+`\b`).MatchString(shown.String()) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func TestPanelsDoNotOverlap(t *testing.T) {
	panels := readDashboard(t)
	for i, a := range panels {
		if a.GridPos.X+a.GridPos.W > 24 || a.GridPos.W < 1 || a.GridPos.H < 1 {
			t.Errorf("%s does not fit into the grid: %+v", a.Title, a.GridPos)
		}
		for _, b := range panels[:i] {
			apart := a.GridPos.X >= b.GridPos.X+b.GridPos.W || b.GridPos.X >= a.GridPos.X+a.GridPos.W ||
				a.GridPos.Y >= b.GridPos.Y+b.GridPos.H || b.GridPos.Y >= a.GridPos.Y+a.GridPos.H
			if !apart {
				t.Errorf("%s overlaps %s", a.Title, b.Title)
			}
		}
	}
}

func TestBrokenPanelsAreRefused(t *testing.T) {
	known := map[string][]string{"wasme_a_total": {"kind"}}
	fine := `{"title": "A", "description": "d", "fieldConfig": {"defaults": {"unit": "short"}},
		"targets": [{"expr": "sum by (kind) (rate(wasme_a_total{namespace=~\"$namespace\"}[$__rate_interval]))", "legendFormat": "{{kind}} a"}]}`
	read := func(text string) (p panel) {
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if problems := read(fine).problems(t, known); len(problems) > 0 {
		t.Fatal(problems)
	}
	for name, change := range map[string][]string{
		"unknown metric":   {"wasme_a_total", "wasme_b_total"},
		"unknown label":    {"{namespace", "{name"},
		"unknown variable": {"$__rate_interval", "$interval"},
		"label of legend":  {"{{kind}}", "{{pod}}"},
		"no aggregation":   {"sum by (kind)", ""},
		"no description":   {`"description": "d"`, `"description": ""`},
		"no unit":          {"short", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if broken := strings.Replace(fine, change[0], change[1], 1); broken == fine || len(read(broken).problems(t, known)) == 0 {
				t.Errorf("%s is accepted", broken)
			}
		})
	}
}

// Grafana's sidecar finds ConfigMaps by this label, and skips what it cannot read as JSON.
func TestDashboardIsForTheSidecar(t *testing.T) {
	var component struct {
		Generators []struct {
			Files   []string
			Options struct{ Labels map[string]string }
		} `yaml:"configMapGenerator"`
	}
	read(t, grafanaFile, &component)
	generator := component.Generators[0]
	if generator.Options.Labels["grafana_dashboard"] != "1" || !slices.Equal(generator.Files, []string{"wasme-operator.json"}) {
		t.Errorf("%+v", generator)
	}
}
