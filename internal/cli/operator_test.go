package cli

import (
	"bytes"
	"context"
	"errors"
	"testing"

	. "github.com/onsi/gomega"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// installation is an operator with flags, as a manifest.
func installation(kind string, flags ...any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": kind,
		"metadata": map[string]any{"namespace": "wasme-system", "name": "wasme-operator", "labels": map[string]any{"app.kubernetes.io/name": "wasme-operator"}},
		"spec":     map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "manager", "args": flags}}}}},
	}}
}

func TestFlagsOfTheOperator(t *testing.T) {
	g := NewWithT(t)
	installed, err := findOperators(t.Context(), manifests{
		installation("Deployment", "--leader-elect", "--module-server-url=http://one"),
		installation("StatefulSet", "--class", "blue", "-cluster-id", "east", "--verify-pods=false"),
	})
	g.Expect(err).NotTo(HaveOccurred())
	flags, known := flagsOf(installed, "")
	g.Expect(known).To(BeTrue())
	g.Expect(flags).To(And(HaveKeyWithValue("module-server-url", "http://one"), HaveKeyWithValue("leader-elect", "")))
	flags, known = flagsOf(installed, "blue")
	g.Expect(known).To(BeTrue())
	g.Expect(flags).To(HaveKeyWithValue("cluster-id", "east"))
	_, known = flagsOf(installed, "red")
	g.Expect(known).To(BeFalse())
}

// namespaced lets nobody look into all namespaces.
type namespaced struct{ manifests }

func (n namespaced) List(ctx context.Context, into client.ObjectList, options ...client.ListOption) error {
	asked := client.ListOptions{}
	if asked.ApplyOptions(options); asked.Namespace == "" {
		return apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("not in all namespaces"))
	}
	return n.manifests.List(ctx, into, options...)
}

func TestOperatorIsFoundInItsNamespaceWithoutTheRightToLookIntoAll(t *testing.T) {
	g := NewWithT(t)
	installed, err := findOperators(t.Context(), namespaced{manifests{installation("StatefulSet", "--cluster-id=east")}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(installed).To(HaveExactElements(And(HaveField("Kind", "StatefulSet"), HaveField("Flags", HaveKeyWithValue("cluster-id", "east")))))
}

func TestDefaultsOfTheOperatorAreNotTakenSilently(t *testing.T) {
	const ofAll = "note: no operator was found: if it has other flags than --cluster-id=Kubernetes --istio-root-namespace=istio-system --module-server-url=http://wasme-modules.wasme-system.svc.cluster.local, set them\n"
	blue := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{wasmev1.ClassLabel: "blue"}}}
	for _, row := range []struct {
		name string
		in   manifests
		fd   *wasmev1.FilterDeployment
		add  func(*app, *cobra.Command) *meshFlags
		args []string
		want string
	}{
		{"all of them", nil, &wasmev1.FilterDeployment{}, newMeshFlags, nil, ofAll},
		{"only those that are not given", nil, &wasmev1.FilterDeployment{}, newMeshFlags, []string{"--cluster-id=east", "--module-server-url=http://one"}, "note: no operator was found: if it has other flags than --istio-root-namespace=istio-system, set them\n"},
		{"only those of the command", nil, blue, newRootFlag, nil, "note: no operator with --class=blue was found: if it has other flags than --istio-root-namespace=istio-system, set them\n"},
		{"none when there is an operator", manifests{installation("Deployment")}, &wasmev1.FilterDeployment{}, newMeshFlags, nil, ""},
		{"none when all are given", nil, blue, newRootFlag, []string{"--istio-root-namespace=mesh"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			var said bytes.Buffer
			c := &cobra.Command{}
			m := row.add(&app{IOStreams: genericiooptions.IOStreams{ErrOut: &said}}, c)
			g.Expect(c.ParseFlags(row.args)).To(Succeed())
			for range 2 { // it is said once
				m.find(t.Context(), row.in, row.fd)
			}
			g.Expect(said.String()).To(Equal(row.want))
		})
	}
}

func TestVerificationOfPods(t *testing.T) {
	fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n"}}
	off := fd.DeepCopy()
	off.Annotations = map[string]string{wasmev1.VerifyPodsAnnotation: "false"}
	for _, row := range []struct {
		name  string
		flags map[string]string
		fd    *wasmev1.FilterDeployment
		want  bool
	}{
		{"is on by default", nil, fd, true},
		{"is off by a flag", map[string]string{"verify-pods": "false"}, fd, false},
		{"is off in a namespace", map[string]string{"unverified-namespaces": "m,n"}, fd, false},
		{"is on in other namespaces", map[string]string{"unverified-namespaces": "m,nn"}, fd, true},
		{"is off by an annotation", nil, off, false},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(verifiesPods(row.flags, row.fd)).To(Equal(row.want)) })
	}
}
