package emit

import (
	"encoding/json"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// input is that of a FilterDeployment for two Deployments.
func input(t *testing.T, changes ...func(*wasmev1.FilterDeployment)) Input {
	t.Helper()
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "hello"},
		Spec:       wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{Image: "r/a:v1", RootID: "root", Config: &wasmev1.Configuration{Raw: []byte(`{"a":1}`)}}},
	}
	for _, change := range changes {
		change(fd)
	}
	istio := workload.IstioSpec(fd)
	asked, err := revision.New(client.ObjectKeyFromObject(fd), revision.Content{
		Filter: fd.Spec.Filter, Output: istio.Output, Module: wasmev1.ModuleStatus{SHA256: strings.Repeat("1", 64), SizeBytes: new(int64(1 << 20))},
	})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return Input{
		FilterDeployment: fd, Asked: &asked,
		Targets: []rollout.Target{target("details"), target("ratings")},
		Mesh:    render.Mesh{ClusterID: "Kubernetes", RootNamespace: "istio-system", ModuleServerURL: "http://modules"},
	}
}

func target(name string) rollout.Target {
	return rollout.Target{
		Target: workload.Target{Kind: "Deployment", Namespace: "n", Name: name, Selector: map[string]string{"app": name}},
		Pods:   []rollout.Pod{{Name: name + "-1", Sidecar: true}},
	}
}

// patches returns the number of patches in an EnvoyFilter.
func patches(t *testing.T, o Object) int {
	t.Helper()
	var spec struct {
		ConfigPatches []json.RawMessage `json:"configPatches"`
	}
	NewWithT(t).Expect(json.Unmarshal(o.Object.Content().Raw, &spec)).To(Succeed())
	return len(spec.ConfigPatches)
}

func immediate(fd *wasmev1.FilterDeployment) {
	fd.Spec.Rollout = &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate}
}

func TestObjects(t *testing.T) {
	t.Run("are one for each workload, as the operator marks them", func(t *testing.T) {
		g := NewWithT(t)
		in := input(t)
		objects := Objects(in)
		g.Expect(objects).To(HaveLen(2))
		first := objects[0].Object
		g.Expect(objects[0].Err).NotTo(HaveOccurred())
		g.Expect(first.GetObjectKind().GroupVersionKind().String()).To(Equal("networking.istio.io/v1alpha3, Kind=EnvoyFilter"))
		g.Expect(first.GetNamespace() + "/" + first.GetName()).To(Equal("n/details-hello.n"))
		g.Expect(first.GetLabels()).To(HaveKeyWithValue("app.kubernetes.io/managed-by", "wasme-operator"))
		g.Expect(first.GetAnnotations()).To(Equal(map[string]string{
			"wasme.io/filterdeployment": "hello", "wasme.io/revision": in.Asked.Hash, "wasme.io/workload": "Deployment/details",
		}))
		g.Expect(first.GetOwnerReferences()).To(BeEmpty())
	})
	t.Run("are owned by a FilterDeployment that exists", func(t *testing.T) {
		objects := Objects(input(t, func(fd *wasmev1.FilterDeployment) { fd.UID = "u" }))
		NewWithT(t).Expect(objects[0].Object.GetOwnerReferences()).To(HaveExactElements(HaveField("UID", BeEquivalentTo("u"))))
	})
	t.Run("have an idle staging slot where rollouts are staged", func(t *testing.T) {
		g := NewWithT(t)
		slots := func(in Input) int { return patches(t, Objects(in)[0]) }
		unverified := input(t)
		unverified.Unverified = true
		g.Expect(slots(input(t))).To(Equal(2 * slots(input(t, immediate))))
		g.Expect(slots(unverified)).To(Equal(slots(input(t, immediate))))
	})
	t.Run("are all there, whatever waits for room", func(t *testing.T) {
		g := NewWithT(t)
		in := input(t, immediate)
		for i := range in.Targets {
			in.Targets[i].Pods = make([]rollout.Pod, rollout.MaxLoadingPods)
			for j := range in.Targets[i].Pods {
				in.Targets[i].Pods[j].Sidecar = true
			}
		}
		for _, o := range Objects(in) {
			g.Expect(o.Object.GetAnnotations()).To(HaveKeyWithValue("wasme.io/revision", in.Asked.Hash))
		}
	})
	t.Run("hold the revision that is asked for, whatever they hold now", func(t *testing.T) {
		g := NewWithT(t)
		in := input(t)
		in.Outputs = rollout.Outputs{{Kind: wasmev1.OutputEnvoyFilter, Name: "details-hello.n"}: {Revision: "aaaaaaaa", Workload: "Deployment/details"}}
		g.Expect(Objects(in)[0].Object).To(Equal(Objects(input(t))[0].Object))
	})
	t.Run("have another name where theirs is taken", func(t *testing.T) {
		g := NewWithT(t)
		in := input(t)
		in.Taken = func(key rollout.OutputKey) bool { return key.Name == "details-hello.n" }
		objects := Objects(in)
		g.Expect(objects[0].Object.GetName()).To(MatchRegexp("^details-hello.n-[0-9a-f]{8}$"))
		g.Expect(objects[1].Object.GetName()).To(Equal("ratings-hello.n"))
	})
	t.Run("are of the kind that is asked for", func(t *testing.T) {
		objects := Objects(input(t, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: wasmev1.OutputWasmPlugin}
		}))
		NewWithT(t).Expect(objects[0].Object.GetObjectKind().GroupVersionKind().Kind).To(Equal("WasmPlugin"))
	})
	t.Run("are not there for a workload that cannot run the filter", func(t *testing.T) {
		g := NewWithT(t)
		in := input(t, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: wasmev1.OutputWasmPlugin}
		})
		in.Targets[0].Selector = nil
		objects := Objects(in)
		g.Expect(objects[0].Object).To(BeNil())
		g.Expect(objects[0].Err).To(MatchError(HavePrefix("Deployment details: the selector of Deployment details has no matchLabels")))
		g.Expect(objects[1].Err).NotTo(HaveOccurred())
	})
	t.Run("are none without workloads", func(t *testing.T) {
		in := input(t)
		in.Targets = nil
		NewWithT(t).Expect(Objects(in)).To(BeEmpty())
	})
}
