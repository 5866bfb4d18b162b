package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// predecessorsSample names every field that the predecessor knew.
const predecessorsSample = `
apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: bookinfo-custom-filter, namespace: default}
spec:
  deployment:
    istio:
      kind: Deployment
      labels: {}
      istioNamespace: istio-system
  filter:
    id: bookinfo-custom-filter.bookinfo
    image: webassemblyhub.io/sodman/istio-1-7:v0.3
    config:
      '@type': type.googleapis.com/google.protobuf.StringValue
      value: world
    rootID: add_header_root_id
    patchContext: inbound
    imagePullOptions:
      pullSecret: my-secret
      insecureSkipVerify: false
      plainHttp: false
`

// predecessorsObject is one that the predecessor's operator has handled: its
// status in protobuf's JSON mapping, and an id that no rule held back then.
const predecessorsObject = `
apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: before-the-upgrade, namespace: default}
spec:
  deployment: {istio: {kind: Deployment}}
  filter:
    id: My_Filter
    config: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world}
    image: webassemblyhub.io/sodman/istio-1-7:v0.3
status:
  observedGeneration: "1"
  workloads:
    details-v1: {state: Succeeded}
    reviews-v1: {}
`

var _ = Describe("the predecessor's users", func() {
	It("apply their YAML unchanged", func(ctx context.Context) {
		fd := object(predecessorsSample)
		strict := client.WithFieldValidation(k8s, metav1.FieldValidationStrict)
		Expect(strict.Create(ctx, fd, client.DryRunAll)).To(Succeed())
		want := object(predecessorsSample)
		Expect(unstructured.SetNestedField(want.Object, "FailReload", "spec", "filter", "failStrategy")).To(Succeed())
		Expect(fd.Object["spec"]).To(Equal(want.Object["spec"]))
	})

	Describe("who upgrade", Ordered, func() {
		old := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Name: "before-the-upgrade", Namespace: "default"}}

		It("have their objects listed", func(ctx context.Context) {
			var all wasmev1.FilterDeploymentList
			Expect(k8s.List(ctx, &all)).To(Succeed())
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(old), old)).To(Succeed())
			Expect(old.Status.Workloads).To(HaveKey("details-v1"))
		})

		It("get this operator's status, of the same generation too", func(ctx context.Context) {
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(old), old)).To(Succeed())
			generation := old.Generation
			Expect(generation).To(BeEquivalentTo(1))
			before := old.DeepCopy()
			old.Status = wasmev1.FilterDeploymentStatus{ObservedGeneration: &generation, Reason: "none"}
			Expect(k8s.Status().Patch(ctx, old, client.MergeFrom(before))).To(Succeed())
			raw := object(predecessorsObject)
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(raw), raw)).To(Succeed())
			Expect(raw.Object["status"]).To(Equal(map[string]any{"observedGeneration": generation, "reason": "none"}))
		})

		It("find that the predecessor's operator cannot write its status any more", func(ctx context.Context) {
			raw := object(predecessorsObject)
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(raw), raw)).To(Succeed())
			raw.Object["status"] = object(predecessorsObject).Object["status"]
			Expect(k8s.Status().Update(ctx, raw)).To(MatchError(ContainSubstring("observedGeneration in body must be of type integer")))
		})

		It("can change what they like and leave what is refused now", func(ctx context.Context) {
			raw := object(predecessorsObject)
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(raw), raw)).To(Succeed())
			Expect(unstructured.SetNestedField(raw.Object, "goodbye", "spec", "filter", "config", "value")).To(Succeed())
			raw.SetLabels(map[string]string{"touched": "yes"})
			Expect(k8s.Update(ctx, raw)).To(Succeed())

			Expect(unstructured.SetNestedField(raw.Object, "My_Other_Filter", "spec", "filter", "id")).To(Succeed())
			Expect(k8s.Update(ctx, raw)).To(MatchError(ContainSubstring("id becomes part of object names")))
		})
	})
})

var _ = Describe("the resource", func() {
	It("sets defaults", func(ctx context.Context) {
		fd := filterDeployment(`{filter: {image: i}, deployment: {istio: {}}}`)
		Expect(k8s.Create(ctx, fd, client.DryRunAll)).To(Succeed())
		Expect(fd.Object["spec"]).To(Equal(map[string]any{
			"filter":     map[string]any{"image": "i", "patchContext": "inbound", "failStrategy": "FailReload"},
			"deployment": map[string]any{"istio": map[string]any{"kind": "Deployment"}},
		}))
	})

	It("keeps a configuration as it is, in each of its forms", func(ctx context.Context) {
		for _, config := range []string{"world", "{deep: {er: [1, {a: b}]}}", "{'@type': " + wasmev1.StructType + ", value: {a: b}}"} {
			fd := filterDeployment(filter("config: " + config))
			want := fd.DeepCopy()
			Expect(k8s.Create(ctx, fd, client.DryRunAll)).To(Succeed())
			Expect(fd.Object["spec"]).To(HaveKeyWithValue("filter", HaveKeyWithValue("config",
				want.Object["spec"].(map[string]any)["filter"].(map[string]any)["config"])))
		}
	})

	It("drops unknown fields and warns of them", func(ctx context.Context) {
		var warnings warningRecorder
		warned := rest.CopyConfig(config)
		warned.WarningHandler = &warnings
		c, err := client.New(warned, client.Options{})
		Expect(err).NotTo(HaveOccurred())

		fd := filterDeployment(filter("imagePolicy: Always"))
		Expect(client.WithFieldValidation(c, metav1.FieldValidationWarn).Create(ctx, fd, client.DryRunAll)).To(Succeed())
		Expect(fd.Object["spec"]).To(HaveKeyWithValue("filter", Not(HaveKey("imagePolicy"))))
		Expect(warnings.all()).To(ConsistOf(ContainSubstring(`unknown field "spec.filter.imagePolicy"`)))
	})

	It("has a short name and a category", func() {
		client, err := discovery.NewDiscoveryClientForConfig(config)
		Expect(err).NotTo(HaveOccurred())
		resources, err := client.ServerResourcesForGroupVersion(wasmev1.GroupVersion.String())
		Expect(err).NotTo(HaveOccurred())
		Expect(resources.APIResources).To(ContainElement(And(
			HaveField("Name", "filterdeployments"),
			HaveField("ShortNames", ConsistOf("fd")),
			HaveField("Categories", ConsistOf("wasme")),
		)))
	})

	It("prints what a person wants to know", func(ctx context.Context) {
		fd := &wasmev1.FilterDeployment{
			ObjectMeta: metav1.ObjectMeta{Name: "printed", Namespace: "default"},
			Spec:       wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{Image: "example.com/filter:v1"}},
		}
		Expect(k8s.Create(ctx, fd)).To(Succeed())
		fd.Status = wasmev1.FilterDeploymentStatus{
			Conditions: []metav1.Condition{
				{Type: wasmev1.ConditionProgrammed, Status: metav1.ConditionTrue, Reason: "Programmed", LastTransitionTime: metav1.Now()},
				{Type: wasmev1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Conflict", Message: "what to do", LastTransitionTime: metav1.Now()},
			},
			Module:  &wasmev1.ModuleStatus{Reference: "r", ManifestDigest: "sha256:0", SHA256: "a6e01e05", SizeBytes: new(int64(1))},
			Rollout: &wasmev1.RolloutStatus{Phase: wasmev1.RolloutBaking, To: "12345678", Step: new(int32(1))},
			Summary: &wasmev1.WorkloadSummary{Workloads: new(int64(6)), Programmed: new(int64(5)), WorkloadsReady: "5/6", Pods: new(int64(12)), PodsLoaded: new(int64(11)), PodsReady: "11/12"},
		}
		Expect(k8s.Status().Update(ctx, fd)).To(Succeed())

		table := table(ctx, fd)
		var columns []string
		for _, column := range table.ColumnDefinitions {
			if column.Priority > 0 {
				columns = append(columns, column.Name+" (wide)")
			} else {
				columns = append(columns, column.Name)
			}
		}
		Expect(columns).To(Equal([]string{"Name", "READY", "WORKLOADS", "PODS", "IMAGE", "AGE", "ROLLOUT (wide)", "DIGEST (wide)", "MESSAGE (wide)"}))
		cells := table.Rows[0].Cells
		Expect(cells[5]).To(MatchRegexp(`^\d+s$`))
		cells[5] = "AGE"
		Expect(cells).To(Equal([]any{"printed", "False", "5/6", "11/12", "example.com/filter:v1", "AGE", "Baking", "a6e01e05", "what to do"}))
	})
})

// table is what kubectl get prints of an object.
func table(ctx context.Context, fd *wasmev1.FilterDeployment) *metav1.Table {
	GinkgoHelper()
	httpClient, err := rest.HTTPClientFor(config)
	Expect(err).NotTo(HaveOccurred())
	url := config.Host + "/apis/wasme.io/v1/namespaces/" + fd.Namespace + "/filterdeployments/" + fd.Name
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	Expect(err).NotTo(HaveOccurred())
	request.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	response, err := httpClient.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	Expect(response.StatusCode).To(Equal(http.StatusOK), string(body))
	var table metav1.Table
	Expect(json.Unmarshal(body, &table)).To(Succeed())
	return &table
}

// warningRecorder collects the API server's warnings.
type warningRecorder struct {
	mu       sync.Mutex
	warnings []string
}

func (r *warningRecorder) HandleWarningHeader(_ int, _, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warnings = append(r.warnings, text)
}

func (r *warningRecorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.warnings
}
