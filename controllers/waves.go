package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// A new module, a first apply or another place in the proxy has every running
// pod of a workload fetch, and mostly drain its connections. So it spreads over
// the workloads: as pods have loaded it, others are asked to. A new configuration
// goes everywhere at once.
//
// Fetches race: an older one that ends later replaces what a newer one brought.
// So while pods of a workload fetch, nothing further is asked of them.

const (
	// waveBytes is what the pods of a FilterDeployment that load at one time may
	// fetch together: 27 MB/s within the 20 s that a fetch may take.
	waveBytes = 512 << 20
	// wavePods is how many may load, and drain, at one time.
	wavePods = 256
)

// wave counts the pods that load at one time.
type wave struct{ pods, most int }

func newWave(module wasmev1.ModuleStatus) wave {
	size := max(1, ptr.Deref(module.SizeBytes, 0))
	return wave{most: int(min(max(1, waveBytes/size), wavePods))}
}

// admit counts the pods of a workload in, unless others leave no room for them.
// A workload that is larger than a wave is one by itself.
func (w *wave) admit(pods int) bool {
	if pods > 0 && w.pods > 0 && w.pods+pods > w.most {
		return false
	}
	w.pods += pods
	return true
}

// targetsOf are the targets with their Ready pods; nil when the workloads are
// not known.
func (r *FilterDeploymentReconciler) targetsOf(ctx context.Context, workloads []render.Target) ([]target, error) {
	if workloads == nil {
		return nil, nil
	}
	targets := make([]target, len(workloads))
	for i, workload := range workloads {
		ready, err := r.readyPods(ctx, workload)
		if err != nil {
			return nil, err
		}
		targets[i] = target{workload: workload, ready: ready}
	}
	return targets, nil
}

// plan finds the outputs of the targets, and which of them have to wait.
func (r *FilterDeploymentReconciler) plan(owner client.ObjectKey, p *pass, history []revision) {
	known := map[string]*revision{}
	for i := range history {
		known[history[i].hash] = &history[i]
	}
	content := p.inForce.hash
	known[content] = p.inForce
	fetches := map[*revision]bool{nil: true}
	for _, from := range known {
		fetches[from] = asksFetch(from, p.inForce)
	}
	p.wave = newWave(p.inForce.Module)
	for i := range p.targets {
		t := &p.targets[i]
		t.output = outputOf(owner, p.inForce, t.workload, p.existing)
		if object := p.existing[t.output]; object != nil {
			t.holds, t.fetch = known[object.GetAnnotations()[revisionAnnotation]], fetchOf(object)
			t.provable = t.output.kind == wasmev1.OutputEnvoyFilter || object.GetGeneration() == 1
		}
		t.asksFetch = fetches[t.holds]
		loading, left := r.loading(owner, t)
		if loading == 0 {
			continue
		}
		p.wave.pods += loading
		p.again = soonest(p.again, left)
		if t.holds != p.inForce && t.fetch.renewals == 0 { // else they had their time
			t.held = true
			t.waits = fmt.Sprintf("waits until its pods have loaded revision %s, for %v at most", t.fetch.revision, loadTimeout)
		}
	}
}

// admit returns the targets that may be written now and were not tried yet, and
// leaves those without room waiting.
func (p *pass) admit() []*target {
	var admitted []*target
	for i := range p.targets {
		t := &p.targets[i]
		if t.tried || t.held {
			continue
		}
		if t.asksFetch && !p.wave.admit(t.sidecars()) {
			t.waits = "waits until pods of other workloads have loaded the module"
			continue
		}
		t.tried, t.waits = true, ""
		admitted = append(admitted, t)
	}
	return admitted
}

// asksFetch tells whether proxies that run one revision have more to do for
// another than to read a configuration.
func asksFetch(from, to *revision) bool {
	before, after := from.filter, to.filter
	before.Configuration, after.Configuration = nil, nil
	return before.Revision() != after.Revision()
}

// loading is the number of pods that may still be at what the target's output
// asked them to fetch, and the time that is left to them. A fetch from the far
// future is one of a replica whose clock was wrong.
func (r *FilterDeploymentReconciler) loading(owner client.ObjectKey, t *target) (pods int, left time.Duration) {
	left = t.fetch.at.Add(loadTimeout).Sub(r.Clock.Now())
	if t.holds == nil || t.fetch.revision != t.holds.hash || left <= 0 || left > 2*loadTimeout {
		return 0, 0
	}
	for _, pod := range t.ready {
		if sidecarOf(pod) != nil && !r.ran(owner, t, pod) {
			pods++
		}
	}
	return pods, min(left, loadTimeout)
}

// ran tells whether a pod was seen to run what its target's output holds.
func (r *FilterDeploymentReconciler) ran(owner client.ObjectKey, t *target, pod *corev1.Pod) bool {
	return r.Prober != nil && t.provable &&
		r.Prober.Proven(owner, dataplane.Target{Pod: probed(pod), Plugin: pluginName(owner, t.holds, t)})
}

// sidecars is the number of Ready pods that have one.
func (t *target) sidecars() int {
	count := 0
	for _, pod := range t.ready {
		if sidecarOf(pod) != nil {
			count++
		}
	}
	return count
}

// nextFetch is what the output asks for once it holds the revision in force.
func (t *target) nextFetch(inForce *revision, now time.Time) fetch {
	if !t.asksFetch {
		return t.fetch
	}
	return fetch{revision: inForce.hash, at: now}
}
