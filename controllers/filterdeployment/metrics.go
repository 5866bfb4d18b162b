package filterdeployment

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// writesTotal: the result is success, a reason of Programmed, or resultOutdated.
var writesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "wasme_output_writes_total",
	Help: "Writes of outputs, by their kind, the operation (create, adopt, update, repair, delete) and the result.",
}, []string{"kind", "operation", "result"})

// rollbacksTotal: the reason is one of Loaded.
var rollbacksTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "wasme_rollbacks_total",
	Help: "Staged rollouts that failed and were rolled back, or held, by the reason.",
}, []string{"reason"})

// What is done to an output. A repair undoes what something else changed.
const (
	opCreate = "create"
	opAdopt  = "adopt"
	opUpdate = "update"
	opRepair = "repair"
	opDelete = "delete"
)

const (
	resultSuccess = "success"
	// resultOutdated: the write was based on an older version of the object.
	resultOutdated = "Outdated"
)

func init() {
	metrics.Registry.MustRegister(writesTotal, rollbacksTotal)
	for _, reason := range rollout.RejectedReasons {
		rollbacksTotal.WithLabelValues(reason)
	}
	results := []string{resultSuccess, resultOutdated, wasmev1.ReasonConflict, wasmev1.ReasonOutputRefused, wasmev1.ReasonWriteFailed}
	for kind := range istio.Kinds {
		for _, operation := range []string{opCreate, opAdopt, opUpdate, opRepair, opDelete} {
			for _, result := range results { // a rate needs the 0 before the first
				writesTotal.WithLabelValues(string(kind), operation, result)
			}
		}
	}
}

// countWrite counts a write of an output and returns its error.
func countWrite(kind wasmev1.Output, operation string, err error) error {
	result, _ := writeFailure(rollout.OutputKey{Kind: kind}, err)
	switch {
	case err == nil:
		result = resultSuccess
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		result = resultOutdated
	}
	writesTotal.WithLabelValues(string(kind), operation, result).Inc()
	return err
}

// changeOf tells a repair from an update: the output held the same revision and
// asked for the same fetch, so that something else must have changed it, or the labels
// of the workload's pods changed.
func changeOf(cached istio.Output, notes map[string]string) string {
	for _, key := range []string{
		revision.HashAnnotation, rollout.FetchAnnotation, rollout.StagedAnnotation, rollout.CanaryAnnotation, rollout.RenderingAnnotation,
	} {
		if cached.GetAnnotations()[key] != notes[key] {
			return opUpdate
		}
	}
	return opRepair
}

var (
	statusLabels  = []string{"namespace", "name"}
	fdReady       = prometheus.NewDesc("wasme_filterdeployment_ready", "1 for the status that Ready has (True, False or Unknown), 0 for the two others.", append(statusLabels, "status"), nil)
	fdSuspended   = prometheus.NewDesc("wasme_filterdeployment_suspended", "1 while spec.suspend is set, else 0; meanwhile the other metrics of the FilterDeployment keep their values.", statusLabels, nil)
	fdStalled     = prometheus.NewDesc("wasme_filterdeployment_stalled", "1 while the condition Stalled is True: something must change before the operator can go on; else 0.", statusLabels, nil)
	fdContested   = prometheus.NewDesc("wasme_filterdeployment_contested", "1 while the condition Contested is True: something else changes the status or the outputs; else 0.", statusLabels, nil)
	fdRollout     = prometheus.NewDesc("wasme_filterdeployment_rollout_phase", "1 for the phase of status.rollout; there is none without a staged rollout.", append(statusLabels, "phase"), nil)
	fdWorkloads   = prometheus.NewDesc("wasme_filterdeployment_workloads", "Workloads that are selected.", statusLabels, nil)
	fdProgrammed  = prometheus.NewDesc("wasme_filterdeployment_workloads_programmed", "Workloads whose output is as the spec asks.", statusLabels, nil)
	fdPods        = prometheus.NewDesc("wasme_filterdeployment_pods", "Pods that are to run the filter: Ready, with a sidecar; 0 when they are not asked.", statusLabels, nil)
	fdPodsLoaded  = prometheus.NewDesc("wasme_filterdeployment_pods_loaded", "Pods among them whose proxies run the revision.", statusLabels, nil)
	outputBytes   = prometheus.NewDesc("wasme_output_bytes", "Bytes of the specs of the outputs, by their namespace and kind.", []string{"namespace", "kind"}, nil)
	readyStatuses = []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown}
)

// collectTimeout bounds the wait for a cache that is not complete yet.
const collectTimeout = 5 * time.Second

// statusCollector gives what the FilterDeployments' status says when it is
// asked; nothing is kept, so nothing is left of one that is deleted.
type statusCollector struct {
	reader  client.Reader
	outputs outputkinds.Kinds
	elected <-chan struct{}
}

// NewStatusCollector returns the metrics of all FilterDeployments and outputs that reader
// has, a cache. Only the leader gives them, from when elected is closed: each is
// there once, and an old leader does not go on with what it saw last.
func NewStatusCollector(reader client.Reader, outputs outputkinds.Kinds, elected <-chan struct{}) prometheus.Collector {
	return &statusCollector{reader: reader, outputs: outputs, elected: elected}
}

// Describe implements prometheus.Collector.
func (c *statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{fdReady, fdSuspended, fdStalled, fdContested, fdRollout, fdWorkloads, fdProgrammed, fdPods, fdPodsLoaded, outputBytes} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector. Without a cache there is nothing to
// tell, and an invalid metric would take all others with it.
func (c *statusCollector) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-c.elected:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	var list wasmev1.FilterDeploymentList
	if err := c.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		log.Log.Error(err, "Listing FilterDeployments for their metrics")
		return
	}
	for i := range list.Items {
		collectStatus(ch, &list.Items[i])
	}
	c.collectBytes(ctx, ch)
}

func (c *statusCollector) collectBytes(ctx context.Context, ch chan<- prometheus.Metric) {
	type place struct {
		namespace string
		kind      wasmev1.Output
	}
	sums := map[place]int{}
	err := c.outputs.Each(ctx, c.reader, "", nil, func(kind wasmev1.Output, output istio.Output) {
		sums[place{output.GetNamespace(), kind}] += istio.SpecBytes(output)
	})
	if err != nil {
		log.Log.Error(err, "Listing outputs for their metrics")
		return
	}
	for at, sum := range sums {
		ch <- prometheus.MustNewConstMetric(outputBytes, prometheus.GaugeValue, float64(sum), at.namespace, string(at.kind))
	}
}

func collectStatus(ch chan<- prometheus.Metric, fd *wasmev1.FilterDeployment) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, append([]string{fd.Namespace, fd.Name}, labels...)...)
	}
	ready := metav1.ConditionUnknown
	if condition := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady); condition != nil {
		ready = condition.Status
	}
	for _, status := range readyStatuses {
		gauge(fdReady, oneIf(ready == status), string(status))
	}
	gauge(fdSuspended, oneIf(fd.Spec.Suspend))
	gauge(fdStalled, oneIf(apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionStalled)))
	gauge(fdContested, oneIf(apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionContested)))
	if rollout := fd.Status.Rollout; rollout != nil {
		gauge(fdRollout, 1, string(rollout.Phase))
	}
	summary := fd.Status.Summary
	if summary == nil {
		return
	}
	count := func(desc *prometheus.Desc, value *int64) {
		if value != nil {
			gauge(desc, float64(*value))
		}
	}
	count(fdWorkloads, summary.Workloads)
	count(fdProgrammed, summary.Programmed)
	count(fdPods, summary.Pods)
	count(fdPodsLoaded, summary.PodsLoaded)
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
