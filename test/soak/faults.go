package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8s "sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// errSkipped says that a fault has no target now.
var errSkipped = errors.New("skipped")

// hold waits until a fault is to end: after its time or, if it lasts, when the next round
// begins. It reports whether the run continues.
type hold func(ctx context.Context) error

// inject lets a fault happen, from its begin to its end.
func (w *world) inject(ctx context.Context, f fault, until hold) error {
	switch f.Kind {
	case registryDown, registrySlow, registryBusy, registryFails:
		return w.failRegistry(ctx, f, until)
	case replicaKilled, replicaStopped, replicaPaused, replicaHung, clockAhead:
		return w.failReplica(ctx, f, until)
	case apiServerKilled, apiServerAway:
		return w.during(ctx, f, until, w.mesh.StopAPIServer, func() error { return w.mesh.StartAPIServer(ctx) })
	case apiServerPaused, apiServerHung:
		return w.during(ctx, f, until, w.mesh.PauseAPIServer, w.mesh.ResumeAPIServer)
	case istiodKilled:
		return w.during(ctx, f, until, w.mesh.StopIstiod, func() error { return w.mesh.StartIstiod(ctx) })
	case istiodPaused:
		return w.during(ctx, f, until, w.mesh.PauseIstiod, w.mesh.ResumeIstiod)
	case sidecarKilled:
		return w.killSidecar(ctx, f, until)
	case podAdded:
		return w.addPod(ctx, f, until, workloadOf(wide, "canary", 2), w.filtersOf("canary"))
	case workloadAdded:
		return w.addPod(ctx, f, until, workloadOf(extra, ofExtra, 0), w.filtersOf(ofExtra))
	case outputEdited, outputUnlabeled, outputDeleted:
		return w.tamper(ctx, f)
	default:
		return w.use(ctx, f, until)
	}
}

// during records a cause from begin to end. The end happens also when the run is over.
func (w *world) during(ctx context.Context, f fault, until hold, begin, end func() error) error {
	over := w.ledger.begin(f.Kind, f.Target)
	defer over()
	if err := begin(); err != nil {
		return err
	}
	waited := until(ctx)
	return errors.Join(waited, end())
}

// slowness is how long each answer of a slow registry takes.
const slowness = 2 * time.Second

func slow(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		select {
		case <-time.After(slowness):
			next.ServeHTTP(rw, req)
		case <-req.Context().Done():
		}
	})
}

func (w *world) failRegistry(ctx context.Context, f fault, until hold) error {
	heal := func() error { w.registry.Heal(); return nil }
	inject := func(with registry.Fault) func() error {
		return func() error { w.registry.Inject(with); return nil }
	}
	switch f.Kind {
	case registryDown:
		return w.during(ctx, f, until, func() error { w.registry.Down(); return nil }, w.registry.Up)
	case registrySlow:
		return w.during(ctx, f, until, inject(slow), heal)
	case registryBusy:
		return w.during(ctx, f, until, inject(registry.Status(http.StatusTooManyRequests)), heal)
	default:
		return w.during(ctx, f, until, inject(registry.Status(http.StatusInternalServerError)), heal)
	}
}

func (w *world) failReplica(ctx context.Context, f fault, until hold) error {
	one := w.replicas.take(ctx, f.Target)
	if one == nil {
		return errSkipped
	}
	defer one.faulty.Unlock()
	f.Target = fmt.Sprintf("replica-%d", one.index)
	switch f.Kind {
	case replicaKilled:
		return w.during(ctx, f, until, func() error { return one.end(one.Kill) }, one.bringBack)
	case replicaStopped:
		return w.during(ctx, f, until, func() error { return one.end(one.Stop) }, one.bringBack)
	case clockAhead:
		return w.during(ctx, f, until, func() error { return one.restart(ahead) }, func() error { return one.restart(skew) })
	default:
		return w.during(ctx, f, until, one.Pause, one.Resume)
	}
}

// restart has a replica run with another clock.
func (r *replica) restart(offset time.Duration) error {
	if err := r.end(r.Stop); err != nil {
		return err
	}
	r.SetClock(offset)
	return r.bringBack()
}

// agentPatience is how long an agent asks a module server that does not answer.
const agentPatience = 20 * time.Second

// replicaFaults are those during which a replica does not serve modules.
var replicaFaults = append([]kind{replicaKilled, replicaStopped, clockAhead}, leaseFaults...)

// unserved reports whether a replica did not serve modules at some time since then.
func (w *world) unserved(since time.Time) bool {
	return slices.ContainsFunc(w.ledger.known(), func(c cause) bool {
		return slices.Contains(replicaFaults, c.Kind) && (c.End.IsZero() || c.End.Add(agentPatience).After(since))
	})
}

// killSidecar kills a pod's sidecar and starts it again. The pod refuses connections until
// the sidecar answers; it may deny requests until it has its module.
func (w *world) killSidecar(ctx context.Context, f fault, until hold) error {
	w.mu.Lock()
	p := w.pods[f.Target]
	w.mu.Unlock()
	over := w.ledger.begin(sidecarKilled, p.Pod)
	defer over()
	if err := p.StopSidecar(); err != nil {
		return err
	}
	if err := until(ctx); err != nil {
		return err
	}
	began := time.Now()
	asking, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		if untilAnswers(asking, p, func(a mesh.Answer) bool { return a.Status != 0 }) == nil {
			over()
		}
	}()
	// What is not ready in time is asked further: the checkpoint knows how long that may take.
	if err := p.StartSidecar(ctx); err != nil && !errors.Is(err, process.ErrNotReady) {
		return err
	}
	if err := untilAnswers(ctx, p, p.serves); err != nil {
		return err
	}
	w.noteStart(p, began)
	return nil
}

// noteStart records what may have kept a sidecar that started, and serves by now, from its module.
func (w *world) noteStart(p *pod, began time.Time) {
	now := time.Now()
	if w.unserved(began) {
		w.ledger.add(cause{Kind: unservedStart, Of: []string{p.Pod}, Begin: began, End: now})
	}
	for _, c := range w.ledger.known() {
		switch hit := c.hits(p.Workload.Name); {
		case hit && c.Kind == revisionRefused && c.overlaps(began, now, 0):
			w.ledger.add(cause{Kind: refusedStart, Of: []string{p.Pod}, Begin: began, End: now})
		case hit && c.Kind == filterRecreated && c.overlaps(began, began, 0):
			w.ledger.add(cause{Kind: earlyStart, Of: []string{p.Pod}, Begin: began, End: now})
		}
	}
}

// serves reports whether an answer is as the pod's filters ask for.
func (p *pod) serves(answer mesh.Answer) bool {
	s, _ := judge(answer.Status, answer.Hello, boundsOf(p.filters))
	return s == ""
}

// untilAnswers waits until a pod answers like this.
func untilAnswers(ctx context.Context, p *pod, like func(mesh.Answer) bool) error {
	for {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		answer := mesh.Ask(asking, p.URL)
		cancel()
		if like(answer) {
			return nil
		}
		if err := pause(ctx, clientPause); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, length time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(length):
		return nil
	}
}

// repairTime is how long the operator may take to write an output that is missing or wrong.
const repairTime = 20 * time.Second

// overdue says that something has taken longer than repairTime since then, although no fault
// explains that; nil: it has not.
func (w *world) overdue(since time.Time, what string) error {
	if took := time.Since(since); took > repairTime && !impaired(w.ledger.known(), since, time.Now()) {
		return fmt.Errorf("%s after %.0f s, and no fault explains it", what, took.Seconds())
	}
	return nil
}

// addPod starts a pod, with its workload where that is missing, and removes it in the end.
func (w *world) addPod(ctx context.Context, f fault, until hold, workload mesh.Workload, filters []*filter) (err error) {
	over := w.ledger.begin(f.Kind, f.Target)
	defer over()
	reached := func() {}
	if workload.Name == extra {
		reached = w.ledger.begin(unreached, extra)
	}
	defer reached()
	defer func() { err = errors.Join(err, w.removeExtra(ctx, workload)) }()
	started := time.Now()
	p := &pod{filters: filters}
	if p.Running, err = w.mesh.StartWorkload(ctx, workload); err != nil {
		if errors.Is(err, process.ErrNotReady) && w.unserved(started) { // it gets no module: the kubelet would wait for longer
			return errSkipped
		}
		return err
	}
	began := time.Now()
	p.client = startClient(ctx, p.Running, boundsOf(filters), w.ledger)
	w.mu.Lock()
	w.pods[p.Pod] = p
	w.mu.Unlock()
	served := untilAnswers(ctx, p, p.serves)
	w.noteStart(p, started)
	reached()
	late := w.overdue(began, "its pod has no filter")
	waited := until(ctx)
	p.client.stop()
	w.mu.Lock()
	delete(w.pods, p.Pod)
	w.mu.Unlock()
	return errors.Join(served, late, waited, try(ctx, "removing "+p.Pod, p.Stop))
}

// removeExtra removes the workload that comes and goes.
func (w *world) removeExtra(ctx context.Context, workload mesh.Workload) error {
	if workload.Name != extra {
		return nil
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: extra}}
	return try(ctx, "removing "+extra, func(ctx context.Context) error {
		return k8s.IgnoreNotFound(w.admin.Delete(ctx, deployment.DeepCopy(), k8s.PropagationPolicy(metav1.DeletePropagationBackground)))
	})
}

// outputOf returns the Istio object of a filter's first workload.
func outputOf(f *filter) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"})
	if f.output == wasmev1.OutputWasmPlugin {
		object.SetGroupVersionKind(schema.GroupVersionKind{Group: "extensions.istio.io", Version: "v1alpha1", Kind: "WasmPlugin"})
	}
	object.SetNamespace(namespace)
	object.SetName(fmt.Sprintf("%s-%s.%s", f.workloads[0], f.name, namespace))
	return object
}

// calmTime is how long a fault waits until a filter's rollout is complete.
const calmTime = 15 * time.Second

// tamper changes or deletes an output by hand, and waits until the operator has repaired it.
func (w *world) tamper(ctx context.Context, f fault) error {
	of := w.filter(f.Target)
	before, err := w.restingOutput(ctx, of)
	if err != nil {
		return err
	}
	over := w.ledger.begin(f.Kind, of.workloads[0])
	defer over()
	object := outputOf(of)
	err = try(ctx, string(f.Kind), func(ctx context.Context) error {
		switch f.Kind {
		case outputDeleted:
			return k8s.IgnoreNotFound(w.admin.Delete(ctx, object.DeepCopy()))
		case outputUnlabeled:
			return w.admin.Patch(ctx, object.DeepCopy(), k8s.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`)))
		default:
			patch := `{"spec":{"configPatches":[]}}`
			if of.output == wasmev1.OutputWasmPlugin {
				patch = `{"spec":{"pluginConfig":{"value":"edited"}}}`
			}
			return w.admin.Patch(ctx, object.DeepCopy(), k8s.RawPatch("application/merge-patch+json", []byte(patch)))
		}
	})
	if err != nil {
		return err
	}
	began := time.Now()
	for {
		if now, err := w.output(ctx, of); err == nil && sameOutput(before, now) {
			return nil
		}
		if err := errors.Join(w.overdue(began, "it is not repaired"), pause(ctx, userPause)); err != nil {
			return err
		}
	}
}

// restingOutput returns the output of a filter whose rollout is complete, so that the output has
// no reason to change; errSkipped: the rollout is not complete in time.
func (w *world) restingOutput(ctx context.Context, of *filter) (*unstructured.Unstructured, error) {
	for began := time.Now(); time.Since(began) < calmTime; {
		says, err := of.read(ctx)
		calm := err == nil && says.Ready == "True" && says.SHA256 == of.expect(0).SHA256 && (says.Phase == "" || says.Phase == wasmev1.RolloutComplete)
		if object, err := w.output(ctx, of); calm && err == nil && object.GetAnnotations()[rollout.StagedAnnotation] == "" {
			return object, nil
		}
		if err := pause(ctx, userPause); err != nil {
			return nil, err
		}
	}
	return nil, errSkipped
}

func (w *world) output(ctx context.Context, of *filter) (*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(ctx, userTime)
	defer cancel()
	object := outputOf(of)
	return object, w.admin.Get(ctx, k8s.ObjectKeyFromObject(object), object)
}

func (w *world) filter(name string) *filter { return w.filtersOf(name)[0] }

// use is what users do to a FilterDeployment.
func (w *world) use(ctx context.Context, f fault, until hold) error {
	of := w.filter(f.Target)
	if _, problem := w.falselyRejected(ctx, of); problem != "" {
		w.report(problem)
	}
	over := w.ledger.begin(f.Kind, of.reaches...)
	defer over()
	switch f.Kind {
	case configurationChanged:
		return of.configure(ctx, of.tag)
	case imageChanged:
		return of.configure(ctx, of.next(of.variant))
	case tagMoved:
		return of.follow(ctx, of.move)
	case filterSuspended:
		return w.suspend(ctx, of, until)
	case filterRecreated:
		return w.recreate(ctx, of, until)
	case tagBroken:
		return w.breakTag(ctx, of, until)
	case configurationRefused:
		return w.refuse(ctx, of, until)
	case revisionRefused:
		return w.rollBack(ctx, of, until)
	default:
		return fmt.Errorf("no fault %q", f.Kind)
	}
}

// suspend suspends a FilterDeployment together with a new configuration, and resumes it.
func (w *world) suspend(ctx context.Context, of *filter, until hold) error {
	of.become(suspended)
	if err := of.configure(ctx, of.tag, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true }); err != nil {
		return err
	}
	if err := until(ctx); err != nil {
		return err
	}
	err := of.edit(ctx, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = false })
	of.become(good)
	return err
}

// recreate deletes a FilterDeployment and creates it again; it returns when the new one is
// Ready.
func (w *world) recreate(ctx context.Context, of *filter, until hold) error {
	err := try(ctx, "deleting "+of.name, func(ctx context.Context) error {
		return k8s.IgnoreNotFound(w.admin.Delete(ctx, of.object()))
	})
	if err != nil {
		return err
	}
	if err := until(ctx); err != nil {
		return err
	}
	if err := of.create(ctx); err != nil {
		return err
	}
	return of.await(ctx, func(says reported) bool { return says.Ready == "True" })
}

// breakTag moves the tag of the image to a module that no proxy can run, and back.
func (w *world) breakTag(ctx context.Context, of *filter, until hold) error {
	err := of.follow(ctx, func(ctx context.Context) error {
		of.becomeRefused(wasmev1.ReasonMissingImport)
		return of.push(ctx, latest, of.variants.broken)
	})
	if err != nil {
		return err
	}
	if err := until(ctx); err != nil {
		return err
	}
	err = of.move(ctx)
	of.become(good)
	return err
}

// refuse gives a FilterDeployment a configuration that its module refuses, and a good one.
func (w *world) refuse(ctx context.Context, of *filter, until hold) error {
	of.becomeRefused(wasmev1.ReasonConfigurationRefused)
	if err := of.edit(ctx, spoil); err != nil {
		return err
	}
	if err := until(ctx); err != nil {
		return err
	}
	err := of.configure(ctx, of.tag)
	of.become(good)
	return err
}

// rollBack does the same without a preflight, so that the pods refuse it, and waits until the
// revision is rolled back.
func (w *world) rollBack(ctx context.Context, of *filter, until hold) error {
	of.become(rolledBack)
	err := of.edit(ctx, func(fd *wasmev1.FilterDeployment) {
		spoil(fd)
		fd.Spec.Filter.Preflight = wasmev1.PreflightOff
	})
	if err != nil {
		return err
	}
	err = of.await(ctx, func(says reported) bool {
		of.earn(says.rejection())
		return says.Reason == wasmev1.ReasonRolledBack
	})
	if err != nil {
		return err
	}
	if err := until(ctx); err != nil {
		return err
	}
	err = of.configure(ctx, of.tag)
	of.become(good)
	return err
}

// spoil gives a FilterDeployment a configuration that its module refuses.
func spoil(fd *wasmev1.FilterDeployment) {
	fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", filters.RefusedConfiguration)}
}
