package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
)

const (
	// FiltersCheck is about FilterDeployments.
	FiltersCheck = "FilterDeployments"
	// ConditionsPage explains the reasons of conditions.
	ConditionsPage = "https://github.com/wasme-io/wasme-operator/blob/main/docs/conditions.md"
	// longWait is after how long the operator must have seen a FilterDeployment.
	longWait = time.Minute
	// maxListed is how many FilterDeployments that are not Ready are listed.
	maxListed = 20
)

// FilterDeployments judges whether FilterDeployments are Ready: a finding for each that is
// not, those that failed first, or one for all. Suspended ones are as they are to be.
func FilterDeployments(items []wasmev1.FilterDeployment, now time.Time) []Finding {
	var findings []Finding
	for i := range items {
		if found := filterDeployment(&items[i], now); found.Status != OK {
			findings = append(findings, found)
		}
	}
	if len(findings) == 0 {
		return []Finding{ok(FiltersCheck, "%s, none of which waits or fails", view.Count(len(items), "FilterDeployment"))}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(string(a.Status), string(b.Status)), strings.Compare(a.Check, b.Check)) // FAIL comes before warn
	})
	if len(findings) > maxListed {
		rest := findings[maxListed:]
		more := fmt.Sprintf("%d more are not Ready, %d of which failed", len(rest), Failed(rest))
		findings = append(findings[:maxListed:maxListed], Finding{FiltersCheck, rest[0].Status, more, "see wasme status -A"})
	}
	return findings
}

func filterDeployment(fd *wasmev1.FilterDeployment, now time.Time) Finding {
	check := "FilterDeployment " + fd.Namespace + "/" + fd.Name
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	switch {
	case ready == nil && now.Sub(fd.CreationTimestamp.Time) < longWait:
		return warn(check, "wait for the operator", "it is new, and has no status yet")
	case ready == nil:
		return fail(check, noStatusFix(fd), "it has no status: no operator has seen it")
	case fd.Spec.Suspend || ready.Status == metav1.ConditionTrue:
		return ok(check, "Ready is %s", ready.Status)
	}
	fix := fmt.Sprintf("see %s#%s, and wasme status %s -n %s", ConditionsPage, anchorOf(fd, ready), fd.Name, fd.Namespace)
	seen := fmt.Sprintf("Ready is %s, %s: %s", ready.Status, ready.Reason, ready.Message)
	if ready.Status == metav1.ConditionFalse {
		return Finding{check, Fail, seen, fix}
	}
	return Finding{check, Warn, seen, fix}
}

func noStatusFix(fd *wasmev1.FilterDeployment) string {
	if class := fd.Labels[wasmev1.ClassLabel]; class != "" {
		return fmt.Sprintf("run an operator with --class=%s that watches namespace %s, or remove the label %s", class, fd.Namespace, wasmev1.ClassLabel)
	}
	return fmt.Sprintf("run an operator without --class that watches namespace %s", fd.Namespace)
}

// anchorOf returns where the page explains the reason of Ready: at the condition that it is
// from, the first step that has it.
func anchorOf(fd *wasmev1.FilterDeployment, ready *metav1.Condition) string {
	for _, step := range fd.Status.Conditions {
		if step.Type != wasmev1.ConditionReady && step.Reason == ready.Reason && step.Status == ready.Status {
			return strings.ToLower(step.Type)
		}
	}
	return strings.ToLower(wasmev1.ConditionReady)
}
