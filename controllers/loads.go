package controllers

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Events tell when the pods of a workload run the filter for the first time,
// when they do not (any more), when they begin to crash, and when they run it
// again. A new revision that loads is no such change. What changes in one pass
// is one event for each reason, however many workloads there are.

// Reasons of the events about workloads.
const (
	reasonWorkloadLoaded    = "WorkloadLoaded"
	reasonWorkloadNotLoaded = "WorkloadNotLoaded"
	reasonWorkloadCrashing  = "WorkloadCrashing"
)

// A FilterDeployment has loadEvents passes with such events at once, and one
// more each minute. What is not told then is told later, if it is still so.
const (
	loadEvents          = 5
	loadEventsPerSecond = 1.0 / 60
)

// load is what a workload's pods were last seen to do.
type load int

const (
	// loadNever: nothing is known of them yet.
	loadNever load = iota
	loadRuns
	loadMissing
	loadCrashing
	// loadFails: the status says that something is wrong, and not which of the two.
	loadFails
)

// loads remembers what was told of the workloads of each FilterDeployment.
type loads struct {
	mu    sync.Mutex
	known map[types.NamespacedName]*workloadLoads
}

// workloadLoads are those of one FilterDeployment, which one pass at a time uses.
type workloadLoads struct {
	uid types.UID
	// told is what was told last, by the workloads' keys; others is that of all
	// that are not in it.
	told   map[string]load
	others load
	// limiter is made with the first event.
	limiter flowcontrol.PassiveRateLimiter
}

// know takes over what the status says of workloads, the first time that a
// FilterDeployment is seen: a restart is no news. What the status left out was
// fine.
func (l *loads) know(fd *wasmev1.FilterDeployment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := client.ObjectKeyFromObject(fd)
	if known := l.known[key]; known != nil && known.uid == fd.UID {
		return
	}
	if l.known == nil {
		l.known = map[types.NamespacedName]*workloadLoads{}
	}
	known := &workloadLoads{uid: fd.UID, told: map[string]load{}}
	for key, workload := range fd.Status.Workloads {
		known.told[key] = loadsByState[workload.State]
	}
	if fd.Status.Summary != nil && fd.Status.Summary.WorkloadsOmitted != nil {
		known.others = loadRuns
	}
	l.known[key] = known
}

var loadsByState = map[wasmev1.WorkloadState]load{
	wasmev1.WorkloadSucceeded: loadRuns,
	wasmev1.WorkloadFailed:    loadFails,
}

// of are the loads of a FilterDeployment that is known.
func (l *loads) of(name types.NamespacedName) *workloadLoads {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[name]
}

// forget drops what is remembered of a FilterDeployment.
func (l *loads) forget(name types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, name)
}

// tellLoads records what changed at the workloads since it did so last.
func (r *FilterDeploymentReconciler) tellLoads(fd *wasmev1.FilterDeployment, p pass) {
	known := r.loads.of(client.ObjectKeyFromObject(fd))
	if known == nil || p.targets == nil || p.inForce == nil || r.Prober == nil {
		return
	}
	news := known.news(p)
	if len(news) == 0 || !known.allow(r.Clock) {
		return
	}
	for _, reason := range []string{reasonWorkloadCrashing, reasonWorkloadNotLoaded, reasonWorkloadLoaded} {
		changed := slices.DeleteFunc(slices.Clone(news), func(n loadNews) bool { return n.reason() != reason })
		if len(changed) == 0 {
			continue
		}
		eventType := corev1.EventTypeWarning
		if reason == reasonWorkloadLoaded {
			eventType = corev1.EventTypeNormal
		}
		r.Recorder.Eventf(fd, nil, eventType, reason, "Reconcile", "%s", eventNote(describeLoads(changed)))
	}
	known.keep(news)
}

// allow bounds the events of one FilterDeployment.
func (w *workloadLoads) allow(clk clock.PassiveClock) bool {
	if w.limiter == nil {
		w.limiter = flowcontrol.NewTokenBucketPassiveRateLimiterWithClock(loadEventsPerSecond, loadEvents, clk)
	}
	return w.limiter.TryAccept()
}

// loadNews is a workload that does something else than was told last.
type loadNews struct {
	workload string
	load     load
	message  string
}

func (n loadNews) reason() string {
	switch n.load {
	case loadRuns:
		return reasonWorkloadLoaded
	case loadCrashing:
		return reasonWorkloadCrashing
	default:
		return reasonWorkloadNotLoaded
	}
}

// news compares what was told with what a pass found. It takes over what needs
// no telling, and drops workloads that are gone.
func (w *workloadLoads) news(p pass) []loadNews {
	var news []loadNews
	told := make(map[string]load, len(p.targets))
	for _, t := range p.targets {
		key := t.workload.Key()
		before, known := w.told[key]
		if !known {
			before = w.others
		}
		now, message := loadOf(t, p.inForce)
		switch {
		case now == loadNever || now == before || before == loadFails && now != loadRuns:
			now = cmp.Or(now, before)
		default:
			news = append(news, loadNews{key, now, message})
			now = before // until it is told
		}
		told[key] = now
	}
	w.told, w.others = told, loadNever
	return news
}

func (w *workloadLoads) keep(news []loadNews) {
	for _, n := range news {
		w.told[n.workload] = n.load
	}
}

// loadOf is what a target's pods do; loadNever while they load, there are none
// that count, or they do not answer: then what was told stays.
func loadOf(t target, inForce *revision) (load, string) {
	v := loadedVerdict(t.pods, inForce.output())
	switch {
	case v.Status == metav1.ConditionTrue && v.Reason == wasmev1.ReasonLoaded:
		return loadRuns, ""
	case v.Reason == wasmev1.ReasonCrashing:
		return loadCrashing, v.Message
	case v.Status == metav1.ConditionFalse:
		return loadMissing, v.Message
	default:
		return loadNever, ""
	}
}

// describeLoads says what changed of the same kind.
func describeLoads(news []loadNews) string {
	text := enumerate(news, "; ", func(n loadNews) string { return strings.TrimSuffix(n.workload+": "+n.message, ": ") })
	if news[0].load == loadRuns {
		return "the pods run the filter: " + text
	}
	return text
}
