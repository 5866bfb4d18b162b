package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

const ownPrefix = "wasme_"

// inMemory reads the FilterDeployments of a test without an API server.
type inMemory struct {
	client.Reader
	list wasmev1.FilterDeploymentList
}

func (m *inMemory) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	switch list := into.(type) {
	case *wasmev1.FilterDeploymentList:
		*list = m.list
	case *istio.EnvoyFilterList:
		list.Items = []*istio.EnvoyFilter{{ObjectMeta: metav1.ObjectMeta{Namespace: "bookinfo", Name: "details-v1-hello"}}}
	}
	return nil
}

// servedOutputs are the kinds of outputs, as after all of them were found.
func servedOutputs() outputkinds.Kinds {
	kinds := outputkinds.New(nil)
	for _, kind := range kinds {
		kind.Assume(outputkinds.Served)
	}
	return kinds
}

func isElected() <-chan struct{} {
	elected := make(chan struct{})
	close(elected)
	return elected
}

func filled(namespace, name string) wasmev1.FilterDeployment {
	return wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Status: wasmev1.FilterDeploymentStatus{
			Conditions: []metav1.Condition{{Type: wasmev1.ConditionReady, Status: metav1.ConditionTrue}},
			Summary:    &wasmev1.WorkloadSummary{Workloads: new(int64(3)), Programmed: new(int64(2)), Pods: new(int64(6)), PodsLoaded: new(int64(5))},
			Rollout:    &wasmev1.RolloutStatus{Phase: wasmev1.RolloutComplete},
		},
	}
}

// registered are the manager's own metrics: those of all packages, and the two
// that it registers when it starts.
func registered(t *testing.T) []prometheus.Collector {
	t.Helper()
	modules, err := store.Open(t.TempDir(), 1<<20, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	reader := &inMemory{list: wasmev1.FilterDeploymentList{Items: []wasmev1.FilterDeployment{filled("bookinfo", "hello")}}}
	return []prometheus.Collector{metrics.Registry.(prometheus.Collector), modules, filterdeployment.NewStatusCollector(reader, servedOutputs(), isElected())}
}

// described matches what a Desc says of itself, which has no accessors.
var described = regexp.MustCompile(`^Desc{fqName: "([a-z_]+)", help: ".*", constLabels: {}, variableLabels: {([a-z,]*)}}$`)

// rows are the page's of one metric each.
var rows = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\| ([^|]+) \\|")

func TestMetricsAreThoseOfTheirPage(t *testing.T) {
	collectors := registered(t)
	kinds := map[string]string{}
	for _, family := range ownFamilies(t, collectors) {
		kinds[family.GetName()] = strings.ToLower(family.GetType().String())
	}
	registered := map[string]string{}
	for _, collector := range collectors {
		for _, desc := range descs(collector) {
			if found := described.FindStringSubmatch(desc.String()); found != nil {
				registered[found[1]] = labelCell(found[2])
			}
		}
	}
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range rows.FindAllStringSubmatch(string(page), -1) {
		name, kind, labels := row[1], row[2], row[3]
		documented[name] = true
		if had, found := registered[name]; !found || had != labels {
			t.Errorf("docs/metrics.md has %s with the labels %s, and the registry (%v) %s", name, labels, found, had)
		}
		if strings.HasPrefix(name, ownPrefix) && kinds[name] != kind {
			t.Errorf("docs/metrics.md says that %s is a %s; from the start, it is a %q", name, kind, kinds[name])
		}
	}
	for name := range registered {
		if strings.HasPrefix(name, ownPrefix) && !documented[name] {
			t.Errorf("docs/metrics.md does not have %s", name)
		}
	}
}

func TestStalledAndContestedAreThoseOfTheConditions(t *testing.T) {
	for _, row := range []struct{ condition, metric string }{
		{wasmev1.ConditionStalled, "wasme_filterdeployment_stalled"},
		{wasmev1.ConditionContested, "wasme_filterdeployment_contested"},
	} {
		fd := filled("bookinfo", "hello")
		fd.Status.Conditions = append(fd.Status.Conditions, metav1.Condition{Type: row.condition, Status: metav1.ConditionTrue})
		reader := &inMemory{list: wasmev1.FilterDeploymentList{Items: []wasmev1.FilterDeployment{fd}}}
		values := moduletest.Gather(t, filterdeployment.NewStatusCollector(reader, servedOutputs(), isElected()))
		for _, metric := range []string{"wasme_filterdeployment_stalled", "wasme_filterdeployment_contested"} {
			if got, want := values[metric+" hello bookinfo"] == 1, metric == row.metric; got != want {
				t.Errorf("with the condition %s, %s is %v", row.condition, metric, values)
			}
		}
	}
}

// labelCell is how the page names labels.
func labelCell(names string) string {
	if names == "" {
		return "–"
	}
	return "`" + strings.ReplaceAll(names, ",", "`, `") + "`"
}

func TestMetricsAreNamedByTheConventions(t *testing.T) {
	problems, err := promlint.NewWithMetricFamilies(ownFamilies(t, registered(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

func descs(collector prometheus.Collector) []*prometheus.Desc {
	ch := make(chan *prometheus.Desc)
	go func() {
		collector.Describe(ch)
		close(ch)
	}()
	return slices.Collect(func(yield func(*prometheus.Desc) bool) {
		for desc := range ch {
			if !yield(desc) {
				return
			}
		}
	})
}

// ownFamilies gathers the metrics with our prefix, as a scrape does.
func ownFamilies(t *testing.T, collectors []prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	gatherers := prometheus.Gatherers{metrics.Registry}
	for _, collector := range collectors[1:] {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(collector)
		gatherers = append(gatherers, registry)
	}
	families, err := gatherers.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), ownPrefix) })
}

// What a scrape of 1,000 FilterDeployments costs beside the text itself.
func BenchmarkStatusOf1000FilterDeployments(b *testing.B) {
	reader := &inMemory{}
	for i := range 1000 {
		reader.list.Items = append(reader.list.Items, filled(fmt.Sprintf("namespace-%d", i%50), fmt.Sprintf("filter-%d", i)))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(filterdeployment.NewStatusCollector(reader, servedOutputs(), isElected()))
	b.ReportAllocs()
	for b.Loop() {
		families, err := registry.Gather()
		if err != nil || len(families) != 9 || len(families[0].GetMetric()) != 1000 {
			b.Fatal(len(families), err)
		}
	}
}

// series are the values of what a collector gives for one namespace, by name and the other labels' values.
func series(collector prometheus.Collector, namespace string) map[string]float64 {
	GinkgoHelper()
	registry := prometheus.NewPedanticRegistry()
	Expect(registry.Register(collector)).To(Succeed())
	return gathered(registry, namespace)
}

// gathered are the values of all metrics for one namespace, or all when it is
// empty, by name and the other labels' values.
func gathered(gatherer prometheus.Gatherer, namespace string) map[string]float64 {
	GinkgoHelper()
	families, err := gatherer.Gather()
	Expect(err).NotTo(HaveOccurred())
	found := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			parts, in := []string{strings.TrimPrefix(family.GetName(), ownPrefix)}, ""
			for _, label := range metric.GetLabel() {
				if label.GetName() == "namespace" {
					in = label.GetValue()
				} else {
					parts = append(parts, label.GetValue())
				}
			}
			if in == namespace || namespace == "" {
				found[strings.Join(parts, " ")] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
	}
	return found
}

var _ = Describe("The metrics of FilterDeployments", func() {
	It("are what their status says, and go with them", func(ctx context.Context) {
		w := newWorld(ctx)
		status := filterdeployment.NewStatusCollector(w.Client, w.Outputs, isElected())
		w.deployments(ctx, "a", "b")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		w.catchUp(ctx, w.namespace)
		Expect(series(status, w.namespace)).To(Equal(map[string]float64{
			"filterdeployment_ready f True": 0, "filterdeployment_ready f False": 0, "filterdeployment_ready f Unknown": 1,
			"filterdeployment_suspended f": 0, "filterdeployment_stalled f": 0, "filterdeployment_contested f": 0,
		}))
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.catchUp(ctx, w.namespace)
		all := map[string]float64{
			"filterdeployment_ready f True": 1, "filterdeployment_ready f False": 0, "filterdeployment_ready f Unknown": 0,
			"filterdeployment_suspended f": 0, "filterdeployment_stalled f": 0, "filterdeployment_contested f": 0,
			"filterdeployment_workloads f": 2, "filterdeployment_workloads_programmed f": 2,
			"filterdeployment_pods f": 0, "filterdeployment_pods_loaded f": 0,
		}
		var outputs istio.EnvoyFilterList
		Expect(live.List(ctx, &outputs, client.InNamespace(w.namespace))).To(Succeed())
		for _, output := range outputs.Items {
			all["output_bytes EnvoyFilter"] += float64(len(output.Spec.Raw))
		}
		Expect(all["output_bytes EnvoyFilter"]).To(BeNumerically(">", 100))
		Expect(series(status, w.namespace)).To(Equal(all))
		edit(ctx, fd, image("No Image"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.catchUp(ctx, w.namespace)
		all["filterdeployment_ready f True"], all["filterdeployment_ready f False"], all["filterdeployment_suspended f"] = 0, 1, 1
		all["filterdeployment_stalled f"] = 1 // nothing but another image helps
		all["filterdeployment_workloads_programmed f"] = 0
		Expect(series(status, w.namespace)).To(Equal(all))
		Expect(series(filterdeployment.NewStatusCollector(w.Client, w.Outputs, make(chan struct{})), "")).To(BeEmpty(), "of a replica that does not lead")
		Expect(user.Delete(ctx, fd)).To(Succeed())
		Eventually(ctx, func() map[string]float64 { return series(status, w.namespace) }).WithTimeout(patience).Should(BeEmpty(), "the garbage collector is busy")
	})

	It("are none when there is no cache, and take no others with them", func(ctx context.Context) {
		w := newWorld(ctx)
		w.stop()
		Expect(series(filterdeployment.NewStatusCollector(unreadable{w.Client}, w.Outputs, isElected()), "")).To(BeEmpty())
	})
})

// unreadable is a cache without FilterDeployments.
type unreadable struct{ client.Reader }

func (unreadable) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("not cached")
}

var _ = Describe("Writes of outputs", func() {
	var w *world
	var before map[string]float64
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		before = gathered(metrics.Registry, "")
	})
	// counted are the writes since the spec began, of EnvoyFilters.
	counted := func() map[string]float64 {
		writes := map[string]float64{}
		for name, value := range gathered(metrics.Registry, "") {
			write, of := strings.CutPrefix(name, "output_writes_total ")
			if more := value - before[name]; of && more > 0 {
				writes[strings.TrimPrefix(write, "EnvoyFilter ")] = more
			}
		}
		return writes
	}

	It("are counted by what they were for", func(ctx context.Context) {
		w.deployments(ctx, "a", "b")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(counted()).To(Equal(map[string]float64{"create success": 2}))
		edit(ctx, fd, config("other"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, w.output(ctx, "a-f"), func(f *networking.EnvoyFilter) { f.Spec.Priority = 9 })
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio.Labels = map[string]wasmev1.LabelValue{"app": "a"}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(counted()).To(Equal(map[string]float64{"create success": 2, "update success": 2, "repair success": 1, "delete success": 1}))
	})

	It("are counted by why they failed", func(ctx context.Context) {
		w.deployments(ctx, "a")
		Expect(user.Create(ctx, &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a-f"}})).To(Succeed())
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).NotTo(Succeed())
		Expect(counted()).To(Equal(map[string]float64{"adopt Conflict": 1}))
		w.intercept(func(write string) error {
			if !strings.HasPrefix(write, "create EnvoyFilter") {
				return nil
			}
			w.intercept(nil)
			return apierrors.NewForbidden(schema.GroupResource{}, "a-f", errors.New("a policy"))
		})
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(counted()).To(HaveKeyWithValue("create OutputRefused", 1.0))
	})
})
