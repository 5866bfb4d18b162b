package workload

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
)

// Selection is what a FilterDeployment selects: workloads of one kind by their
// labels, or what its targetRefs reference.
type Selection struct {
	// Namespace of the workloads: the FilterDeployment's.
	Namespace string
	// Kind and Selector of the workloads, unless there are References.
	Kind     Kind
	Selector labels.Selector
	// Traffic that the filter runs on: that of sidecars leaves gateways out.
	Traffic wasmev1.PatchContext
	// References are the targets of the targetRefs, in the order of their keys.
	References []Target
}

// IstioSpec returns spec.deployment.istio, which may be left out.
func IstioSpec(fd *wasmev1.FilterDeployment) wasmev1.IstioDeploymentSpec {
	if fd.Spec.Deployment.Istio == nil {
		return wasmev1.IstioDeploymentSpec{}
	}
	return *fd.Spec.Deployment.Istio
}

// SelectionOf reads the selection of a FilterDeployment. The error names the
// field that is wrong.
func SelectionOf(fd *wasmev1.FilterDeployment) (Selection, error) {
	spec := IstioSpec(fd)
	if len(spec.TargetRefs) > 0 {
		return Selection{Namespace: fd.Namespace, References: referenced(fd.Namespace, spec.TargetRefs)}, nil
	}
	selected := Kinds[0]
	if spec.Kind != "" {
		var known bool
		if selected, known = KindNamed(spec.Kind); !known {
			return Selection{}, fmt.Errorf("spec.deployment.istio.kind is %q: use Deployment, DaemonSet or StatefulSet", spec.Kind)
		}
	}
	selector, err := selectorOf(spec)
	if err != nil {
		return Selection{}, err
	}
	return Selection{Namespace: fd.Namespace, Kind: selected, Selector: selector, Traffic: fd.Spec.Filter.PatchContext}, nil
}

func selectorOf(spec wasmev1.IstioDeploymentSpec) (labels.Selector, error) {
	if spec.Selector != nil {
		selector, err := metav1.LabelSelectorAsSelector(spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("spec.deployment.istio.selector: %w", err)
		}
		return selector, nil
	}
	set := labels.Set{}
	for key, value := range spec.Labels {
		set[key] = string(value)
	}
	return labels.SelectorFromSet(set), nil
}

func referenced(namespace string, references []wasmev1.TargetRef) []Target {
	targets := make([]Target, 0, len(references))
	for _, reference := range references {
		targets = append(targets, Target{Kind: reference.Kind, Namespace: namespace, Name: reference.Name})
	}
	slices.SortFunc(targets, func(a, b Target) int { return strings.Compare(a.Key(), b.Key()) })
	return targets
}

// ByReference reports whether targetRefs say what is selected.
func (s Selection) ByReference() bool { return len(s.References) > 0 }

// Selects reports whether a workload is selected.
func (s Selection) Selects(object Object) bool {
	k, is := KindOf(object)
	return !s.ByReference() && is && k.Name == s.Kind.Name && object.GetNamespace() == s.Namespace &&
		s.Selector.Matches(labels.Set(object.GetLabels())) && !s.LeavesOut(object)
}

// LeavesOut reports whether a workload cannot run the filter, whatever its labels are:
// a gateway has no traffic of a sidecar.
func (s Selection) LeavesOut(object Object) bool {
	return s.Traffic != wasmev1.PatchContextGateway && s.Traffic != wasmev1.PatchContextAny && isGateway(object)
}

// SelectsTarget reports whether a targetRef references the target.
func (s Selection) SelectsTarget(target Target) bool {
	return slices.ContainsFunc(s.References, func(r Target) bool {
		return r.Kind == target.Kind && r.Name == target.Name && r.Namespace == target.Namespace
	})
}

// CheckNamespace returns an error for a selection in the mesh's root namespace,
// where a label selector reaches the pods of every namespace, unless it selects
// gateways: they live there.
func (s Selection) CheckNamespace(rootNamespace string) error {
	if s.ByReference() || s.Namespace != rootNamespace || s.Traffic == wasmev1.PatchContextGateway && !s.Selector.Empty() {
		return nil
	}
	return fmt.Errorf("namespace %s is the mesh's root namespace, whose filters reach every namespace: set spec.filter.patchContext to gateway and select the gateways in spec.deployment.istio.labels, or run the operator with --allow-root-namespace", s.Namespace)
}

// ReferencesVerdict returns the content of WorkloadsSelected for targetRefs of which
// some are missing. They may come yet, so this is no reason to stall.
func (s Selection) ReferencesVerdict(missing []Target) condition.Verdict {
	if len(missing) == 0 {
		return condition.True(wasmev1.ReasonSelected, "%d targetRefs", len(s.References))
	}
	names := condition.Enumerate(missing, ", ", func(t Target) string {
		name := t.Kind + " " + t.Name
		if t.Proxies.Missing != NotThere {
			name += ", because " + t.Proxies.Missing
		}
		return name
	})
	return condition.False(wasmev1.ReasonTargetNotFound, "%d of %d targetRefs do not exist in namespace %s (%s): create what is missing, or correct spec.deployment.istio.targetRefs", len(missing), len(s.References), s.Namespace, names)
}

// Verdict returns the content of WorkloadsSelected for a selection by labels that
// found so many workloads, and left out so many gateways that have the labels.
func (s Selection) Verdict(found, gateways int) condition.Verdict {
	switch {
	case gateways > 0:
		return s.withoutGateways(found, gateways)
	case found == 0:
		return condition.True(wasmev1.ReasonNoWorkloads, "no %s in namespace %s has the labels of spec.deployment.istio (%s) itself, whatever labels its pods have; one that comes gets the filter", s.Kind.Name, s.Namespace, s.describeSelector())
	default:
		return condition.True(wasmev1.ReasonSelected, "%d of kind %s", found, s.Kind.Name)
	}
}

// withoutGateways says what to do for a filter that is meant to run on them.
func (s Selection) withoutGateways(found, gateways int) condition.Verdict {
	reason := wasmev1.ReasonSelected
	if found == 0 {
		reason = wasmev1.ReasonNoWorkloads
	}
	return condition.True(reason, "%d of kind %s; %d more are gateways, which have no %s traffic: set spec.filter.patchContext to gateway for a filter that is to run on them", found, s.Kind.Name, gateways, cmp.Or(s.Traffic, wasmev1.PatchContextInbound))
}

func (s Selection) describeSelector() string {
	if s.Selector.Empty() {
		return "none: all are selected"
	}
	return s.Selector.String()
}
