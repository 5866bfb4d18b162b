package view

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/cost"
)

// Changes returns a table of what happens to workloads.
func Changes(changes []cost.Change) *metav1.Table {
	table := NewTable("WORKLOAD", "CHANGE", "FROM", "TO", "PODS", "FETCH", "DRAINS")
	for _, c := range changes {
		fetch, drains := "", ""
		if c.Fetches {
			fetch = Size(c.Bytes)
		}
		if c.Drains > 0 {
			drains = strconv.Itoa(c.Drains)
		}
		to := c.To
		if c.Err != nil || c.Kind == cost.Removed {
			to = ""
		}
		AddRow(table, c.Workload, string(c.Kind), c.From, to, strconv.Itoa(c.Pods), fetch, drains)
	}
	return table
}

// Steps says in which steps changes happen; empty for none.
func Steps(s cost.Steps, bakeTime string) string {
	switch {
	case s.Staged && s.Others == 0:
		return fmt.Sprintf("Steps: %s (%s).", s.First.Workload, Count(s.First.Pods, "pod"))
	case s.Staged:
		return fmt.Sprintf("Steps: %s (%s) first, for %s; then %s in %s.", s.First.Workload, Count(s.First.Pods, "pod"), bakeTime, Count(s.Others, "other workload"), Count(s.Waves, "wave"))
	case s.Others > 0:
		return fmt.Sprintf("Steps: none: %s in %s.", Count(s.Others, "workload"), Count(s.Waves, "wave"))
	}
	return ""
}

// Total says what changes cost in all; empty for nothing.
func Total(changes []cost.Change) string {
	var fetched int64
	fetching, draining := 0, 0
	for _, c := range changes {
		if c.Fetches {
			fetched, fetching = fetched+c.Bytes, fetching+c.Pods
		}
		if c.Drains > 0 {
			draining += c.Pods
		}
	}
	var parts []string
	if fetching > 0 {
		parts = append(parts, fmt.Sprintf("%s fetch the module, %s in all", Count(fetching, "pod"), Size(fetched)))
	}
	if draining > 0 {
		parts = append(parts, fmt.Sprintf("connections of %s drain", Count(draining, "pod")))
	}
	if len(parts) == 0 {
		return ""
	}
	return "Cost: " + strings.Join(parts, "; ") + "."
}

// Count returns a number of things, such as 1 pod, 2 pods or 3 policies.
func Count(number int, of string) string {
	switch stem, y := strings.CutSuffix(of, "y"); {
	case number == 1:
		return "1 " + of
	case y:
		return fmt.Sprintf("%d %sies", number, stem)
	}
	return fmt.Sprintf("%d %ss", number, of)
}

// Size returns a number of bytes as people read it; 0 is one that is not known.
func Size(bytes int64) string {
	switch {
	case bytes == 0:
		return "unknown size"
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%d B", bytes)
}

// SpecDiff returns the difference of two specs as a unified diff of their YAML, empty for
// none. What the API server fills in counts as there. A nil FilterDeployment has no spec.
func SpecDiff(live, asked *wasmev1.FilterDeployment) (string, error) {
	before, err := specText(live)
	if err != nil {
		return "", err
	}
	after, err := specText(asked)
	if err != nil {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: before, B: after, FromFile: "in the cluster", ToFile: "in the file", Context: 3,
	})
}

// specText returns the lines of a spec with the defaults of the CRD in YAML.
func specText(fd *wasmev1.FilterDeployment) ([]string, error) {
	if fd == nil {
		return nil, nil
	}
	spec := fd.Spec.DeepCopy()
	if spec.Filter.PatchContext == "" {
		spec.Filter.PatchContext = wasmev1.PatchContextInbound
	}
	if spec.Filter.FailStrategy == "" {
		spec.Filter.FailStrategy = wasmev1.FailReload
	}
	if istio := spec.Deployment.Istio; istio != nil && istio.Kind == "" {
		istio.Kind = "Deployment"
	}
	text, err := yaml.Marshal(spec)
	return difflib.SplitLines(strings.TrimSuffix(string(text), "\n")), err
}
