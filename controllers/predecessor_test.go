package controllers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// predecessorsManifest is a FilterDeployment as its author applies it.
const predecessorsManifest = `apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: bookinfo-custom-filter, namespace: %s}
spec:
  deployment: {istio: {kind: Deployment}}
  filter:
    image: %s
    imagePullOptions: {plainHttp: true}
    config: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world}
`

// predecessorsStatus is what wasme 0.0.33 writes into etcd: its integers are strings.
const predecessorsStatus = `
observedGeneration: "1"
workloads:
  details-v1: {state: Succeeded}
  ratings-v1: {state: Succeeded}
  reviews-v1: {state: Succeeded}
`

// predecessorsOutput is an EnvoyFilter of wasme 0.0.33 for a workload of that app.
const predecessorsOutput = `
configPatches:
- applyTo: HTTP_FILTER
  match:
    context: SIDECAR_INBOUND
    listener:
      filterChain:
        filter:
          name: envoy.http_connection_manager
          subFilter: {name: envoy.router}
  patch:
    operation: INSERT_BEFORE
    value:
      name: envoy.filters.http.wasm
      typedConfig:
        '@type': type.googleapis.com/udpa.type.v1.TypedStruct
        typeUrl: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
        value:
          config:
            configuration: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world}
            name: bookinfo-custom-filter.bookinfo
            rootId: add_header_root_id
            vmConfig:
              code: {local: {filename: /var/local/lib/wasme-cache/165600e2e4d099b5d32b29fbfcc3a03b9215d70df2523fa9abcf4901408fbac1}}
              runtime: envoy.wasm.runtime.v8
              vmId: bookinfo-custom-filter.bookinfo
workloadSelector: {labels: {app: %s, version: v1}}
`

// predecessorsEnvoyFilter is the one of the default id, without an owner.
func predecessorsEnvoyFilter(fd client.Object, app string) *networking.EnvoyFilter {
	GinkgoHelper()
	object := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{
		Namespace: fd.GetNamespace(), Name: fmt.Sprintf("%s-v1-%s.%s", app, fd.GetName(), fd.GetNamespace()),
	}}
	Expect(yaml.Unmarshal(fmt.Appendf(nil, predecessorsOutput, app), &object.Spec)).To(Succeed())
	Expect(legacy.MadeEnvoyFilter(jsonOf(&object.Spec))).To(BeTrue())
	return object
}

func parse[T any](text string) T {
	GinkgoHelper()
	var value T
	Expect(yaml.Unmarshal([]byte(text), &value)).To(Succeed())
	return value
}

// stored is a FilterDeployment as the API server has it.
func stored(ctx context.Context, key client.ObjectKey) *unstructured.Unstructured {
	GinkgoHelper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(wasmev1.GroupVersion.WithKind("FilterDeployment"))
	Expect(user.Get(ctx, key, object)).To(Succeed())
	return object
}

var _ = Describe("The predecessor's", func() {
	It("objects go on working once this operator is installed over it", Serial, func(ctx context.Context) {
		By("having been made under the predecessor's CRD")
		Expect(controlPlane.StorePredecessorsCRD(ctx)).To(Succeed())
		DeferCleanup(controlPlane.InstallOperator)
		w := newWorld(ctx)
		w.deployments(ctx, "details-v1", "reviews-v1")
		manifest := filepath.Join(GinkgoT().TempDir(), "filterdeployment.yaml")
		text := fmt.Sprintf(predecessorsManifest, w.namespace, w.push(ctx, "sodman/istio-1-7:v0.3", "hello"))
		Expect(os.WriteFile(manifest, []byte(text), 0o600)).To(Succeed())
		_, err := controlPlane.Kubectl(ctx, "apply", "-f", manifest)
		Expect(err).NotTo(HaveOccurred())
		fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "bookinfo-custom-filter"}}
		handled := stored(ctx, client.ObjectKeyFromObject(fd))
		Expect(handled.Object["spec"]).To(HaveKeyWithValue("filter", Not(HaveKey("failStrategy"))), "there is no schema with defaults")
		handled.Object["status"] = parse[map[string]any](predecessorsStatus)
		Expect(user.Status().Update(ctx, handled)).To(Succeed())
		made := map[string]types.UID{}
		for _, app := range []string{"details", "ratings", "reviews"} { // ratings is gone
			output := predecessorsEnvoyFilter(fd, app)
			output.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(handled, handled.GroupVersionKind())}
			Expect(user.Create(ctx, output)).To(Succeed())
			made[output.Name] = output.UID
		}

		By("installing this operator as its users do")
		Expect(controlPlane.InstallOperator(ctx)).To(Succeed())
		w.restart(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		now := stored(ctx, client.ObjectKeyFromObject(fd))
		Expect(now.Object["status"]).To(And(
			HaveKeyWithValue("observedGeneration", int64(1)),
			HaveKeyWithValue("workloads", And(HaveLen(2), HaveKey("details-v1"), HaveKey("reviews-v1")))))
		result, err := status.Compute(now)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.Status).To(Equal(status.CurrentStatus))

		By("holding the filter in the EnvoyFilters that were there")
		outputs := map[string]types.UID{}
		for _, name := range w.outputs(ctx) {
			output := w.output(ctx, name)
			outputs[name] = output.UID
			if output.Spec.WorkloadSelector.Labels["app"] == "ratings" {
				Expect(legacy.MadeEnvoyFilter(jsonOf(&output.Spec))).To(BeTrue(), "the workload is gone, nothing asks for it")
				continue
			}
			Expect(legacy.MadeEnvoyFilter(jsonOf(&output.Spec))).To(BeFalse())
			Expect(output.Spec.ConfigPatches).To(HaveLen(3))
			Expect(output.Annotations).To(HaveKeyWithValue(revision.HashAnnotation, fd.Status.Revision))
			Expect(output.OwnerReferences).To(Equal(ownersFor(fd)))
		}
		Expect(outputs).To(Equal(made))
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(
			ConsistOf("Normal Resolving", "Normal Ready", "Normal Replaced", "Normal Replaced"))

		By("applying the same manifest again")
		said, err := controlPlane.Kubectl(ctx, "apply", "-f", manifest)
		Expect(err).NotTo(HaveOccurred())
		Expect(said).To(ContainSubstring("unchanged"))
		w.written()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())

		By("changing it")
		before := fd.Status.Revision
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"goodbye"}`)}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(fd.Status.Revision).NotTo(Equal(before))
		Expect(w.written()).To(ContainElements("update EnvoyFilter details-v1-bookinfo-custom-filter."+w.namespace, "update EnvoyFilter reviews-v1-bookinfo-custom-filter."+w.namespace))

		By("deleting it: what is left of a workload that is gone goes, too")
		Expect(user.Delete(ctx, fd)).To(Succeed())
		Eventually(ctx, func() []string { return w.outputs(ctx) }).WithTimeout(3 * patience).Should(BeEmpty())
	})

	It("EnvoyFilter that no FilterDeployment owns is in the way, and named for what it is", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "details-v1")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"))
		deployed := predecessorsEnvoyFilter(fd, "details") // as by wasme deploy istio
		Expect(user.Create(ctx, deployed)).To(Succeed())
		Expect(w.settle(ctx, fd)).NotTo(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonConflict, "EnvoyFilter "+deployed.Name, "made by wasme itself", "delete it, or set another spec.filter.id"))
		Expect(w.output(ctx, deployed.Name).ResourceVersion).To(Equal(deployed.ResourceVersion))
	})

	It("operator changes nothing of the FilterDeployments", Serial, func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), selecting("Deployment", map[string]wasmev1.LabelValue{"app": "a"}))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		w.written()
		running := predecessorsDeployment(w.namespace)
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(user.Delete(ctx, running))).To(Succeed()) })
		Expect(user.Create(ctx, running)).To(Succeed())
		for range 3 {
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"))
		}
		Expect(w.written()).To(BeEmpty())
	})
})

// predecessorsDeployment is that of wasme's manifests, as far as it matters.
func predecessorsDeployment(namespace string) *appsv1.Deployment {
	selector, template := podTemplate("wasme-operator")
	template.Labels = selector.MatchLabels
	template.Spec.Containers[0].Image, template.Spec.Containers[0].Args = "quay.io/solo-io/wasme:0.0.33", []string{"operator", "--log-level=debug"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "wasme-operator", Labels: map[string]string{"app": "wasme-operator"}},
		Spec:       appsv1.DeploymentSpec{Selector: selector, Template: template},
	}
}
