package cli

import (
	"errors"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/migrate"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

func oldObject(kind wasmev1.Output, name string) istio.Output {
	object := istio.Kinds[kind].New()
	object.SetNamespace("n")
	object.SetName(name)
	return object
}

func TestStepsAreChosenByTheNamesOfObjects(t *testing.T) {
	steps := []migrate.Step{
		{Objects: []istio.Output{oldObject(wasmev1.OutputEnvoyFilter, "a"), oldObject(wasmev1.OutputEnvoyFilter, "b")}},
		{Objects: []istio.Output{oldObject(wasmev1.OutputWasmPlugin, "a")}},
	}
	for _, row := range []struct {
		name  string
		names []string
		want  int
		err   string
	}{
		{"all without names", nil, 2, ""},
		{"each of a name", []string{"a"}, 2, ""},
		{"one of a group", []string{"b"}, 1, ""},
		{"one of a kind", []string{"wasmplugin/a"}, 1, ""},
		{"one of a namespace", []string{"n/b"}, 1, ""},
		{"none of another namespace", []string{"m/b"}, 0, "there is nothing to migrate with the name m/b"},
		{"none that is not there", []string{"a", "c"}, 0, "there is nothing to migrate with the name c"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := chosen(steps, row.names)
			if row.err != "" {
				g.Expect(err).To(MatchError(HavePrefix(row.err)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(HaveLen(row.want))
		})
	}
}

func TestRowsOfAMigration(t *testing.T) {
	g := NewWithT(t)
	steps := []migrate.Step{{
		Objects:           []istio.Output{oldObject(wasmev1.OutputEnvoyFilter, "a"), oldObject(wasmev1.OutputEnvoyFilter, "b")},
		FilterDeployments: []*wasmev1.FilterDeployment{{ObjectMeta: metav1.ObjectMeta{Name: "hello"}}},
		Workloads:         []string{"x", "y"}, Notes: []string{"note"}, Err: errors.Join(errors.New("one"), errors.New("two")),
	}}
	g.Expect(titleOf(&steps[0])).To(Equal("EnvoyFilter n/a and 1 more"))
	table := (&migrator{everywhere: true}).table(steps, []leftover{{&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "d"}}}})
	var rows [][]any
	for _, row := range table.Rows {
		rows = append(rows, row.Cells)
	}
	g.Expect(rows).To(Equal([][]any{
		{"n", "a", "EnvoyFilter", "x, y", "hello", "not replaced: one; two; note"},
		{"n", "b", "EnvoyFilter", "x, y", "hello", "not replaced: one; two; note"},
		{"n", "d", "DaemonSet", "-", "-", "its pods mount the cache of wasme 0.0.33: --clean ends that, and restarts them"},
	}))
}

func TestAnObjectIsDeletedOnlyAsItWasRead(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(istio.Output)
		same   bool
	}{
		{"with another status", func(o istio.Output) { o.SetResourceVersion("2") }, true},
		{"not with another spec", func(o istio.Output) { o.SetGeneration(2) }, false},
		{"not with another label", func(o istio.Output) { o.SetLabels(map[string]string{"a": "b"}) }, false},
		{"not with another annotation", func(o istio.Output) { o.SetAnnotations(map[string]string{"a": "b"}) }, false},
		{"not when it was created again", func(o istio.Output) { o.SetUID("2") }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			live := oldObject(wasmev1.OutputWasmPlugin, "a")
			row.change(live)
			NewWithT(t).Expect(isUnchanged(oldObject(wasmev1.OutputWasmPlugin, "a"), live)).To(Equal(row.same))
		})
	}
}

func TestWorkloadsWithAnnotationsOfWasme(t *testing.T) {
	g := NewWithT(t)
	dirty := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"sidecar.istio.io/userVolume": "/var/local/lib/wasme-cache"}}}
	meta := metav1.ObjectMeta{Namespace: "n", Name: "a"}
	elsewhere := metav1.ObjectMeta{Namespace: "m", Name: "a"}
	found := &migrate.Inventory{Workloads: []workload.Object{
		&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: dirty}},
		&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: dirty}},
		&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: dirty}},
		&appsv1.Deployment{ObjectMeta: elsewhere, Spec: appsv1.DeploymentSpec{Template: dirty}},
		&appsv1.Deployment{ObjectMeta: meta},
	}}
	g.Expect(leftoversIn(found, "n", nil)).To(HaveLen(3))
	g.Expect(leftoversIn(found, "", nil)).To(HaveLen(4))
	g.Expect(leftoversIn(found, "n", []string{"hello"})).To(BeEmpty(), "a user who names an object means no other")
}
