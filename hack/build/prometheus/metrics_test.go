package build

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// targetLabels are those that a PodMonitor gives everything it scrapes.
var targetLabels = []string{"container", "endpoint", "instance", "job", "namespace", "pod"}

// documented returns the series of the page's metrics, with their labels. The page is
// compared with the registry by the controllers' tests.
func documented(page []byte) map[string][]string {
	known := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\| ([^|]+) \\|").FindAllSubmatch(page, -1) {
		name, labels := string(row[1]), regexp.MustCompile("[a-z_]+").FindAllString(string(row[3]), -1)
		if string(row[2]) != "histogram" {
			known[name] = labels
			continue
		}
		known[name+"_sum"], known[name+"_count"] = labels, labels
		known[name+"_bucket"] = append(slices.Clone(labels), model.BucketLabel)
	}
	return known
}

func parse(expr string) (parser.Expr, error) {
	return parser.NewParser(parser.Options{}).ParseExpr(expr)
}

// unknownMetrics returns what is wrong with the names in an expression: metrics that are
// not known, and labels that its metrics do not have.
func unknownMetrics(t *testing.T, expr string, known map[string][]string) []string {
	t.Helper()
	parsed, err := parse(expr)
	if err != nil {
		return []string{err.Error()}
	}
	var problems, used []string
	labels := slices.Clone(targetLabels)
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			has, found := known[node.Name]
			if !found {
				problems = append(problems, fmt.Sprintf("there is no metric %q", node.Name))
			}
			labels = append(labels, has...)
			for _, matcher := range node.LabelMatchers {
				if matcher.Name != model.MetricNameLabel && !slices.Contains(has, matcher.Name) && !slices.Contains(targetLabels, matcher.Name) {
					problems = append(problems, fmt.Sprintf("%s has no label %s", node.Name, matcher.Name))
				}
			}
		case *parser.AggregateExpr:
			used = append(used, node.Grouping...)
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				used = append(used, node.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	for _, label := range used {
		if !slices.Contains(labels, label) {
			problems = append(problems, "no metric of it has the label "+label)
		}
	}
	return problems
}
