package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8s "sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// world is a mesh with workloads, FilterDeployments, clients and two replicas of the operator.
type world struct {
	mesh     *mesh.Mesh
	admin    k8s.Client
	registry *registry.Registry
	replicas *replicas
	ledger   *ledger
	filters  []*filter
	// tending ends what a kubelet does.
	tending context.CancelFunc
	tended  sync.WaitGroup

	mu       sync.Mutex
	pods     map[string]*pod // by their short names: <workload>-<replica>
	problems []string        // found between checkpoints

	began   time.Time // of the first round
	retries int       // of good revisions that were rolled back
}

// pod is one that runs, with its client.
type pod struct {
	*mesh.Running

	filters []*filter
	client  *client
}

// workloads are those that always run, with the number of their pods and the filter that
// they have; control has none.
var workloads = []struct {
	name   string
	pods   int
	filter string
}{
	{"staged-0", 1, "staged"}, {"staged-1", 1, "staged"}, {wide, 2, "canary"}, {"direct", 1, "immediate"}, {"plugged", 1, "plugin"}, {"control", 1, ""},
}

// ofExtra is the filter of the workload that comes and goes.
const ofExtra = "staged"

// targets are the names of what faults can happen to.
func targets() (pods, filters, pulled []string) {
	for _, w := range workloads {
		for i := range w.pods {
			pods = append(pods, shortName(w.name, i))
		}
	}
	// With Immediate, and in a WasmPlugin, a module that cannot be fetched costs a pod its last
	// good one: only the configurations of these filters change.
	return pods, []string{"staged", "canary", "immediate", "plugin"}, []string{"staged", "canary"}
}

func shortName(workload string, replica int) string { return fmt.Sprintf("%s-%d", workload, replica) }

// startWorld starts everything. The caller calls stop, also after an error.
func startWorld(ctx context.Context, folder string, log io.Writer) (*world, error) {
	w := &world{ledger: newLedger(), pods: map[string]*pod{}, tending: func() {}}
	var err error
	if w.mesh, err = mesh.Start(ctx, mesh.Options{Folder: folder, Log: log}); err != nil {
		return w, err
	}
	w.admin = w.mesh.Client()
	if w.registry, err = registry.Start(); err != nil {
		return w, err
	}
	if err := w.mesh.InstallOperator(ctx); err != nil {
		return w, err
	}
	if w.replicas, err = startReplicas(ctx, w.mesh, w.ledger, w.report); err != nil {
		return w, err
	}
	tending, stop := context.WithCancel(ctx)
	w.tending = stop
	w.tended.Go(func() { w.replicas.tend(tending) })
	if err := w.startPods(ctx); err != nil {
		return w, err
	}
	return w, w.createFilters(ctx)
}

// report notes a problem that the next checkpoint is to tell.
func (w *world) report(problem string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, problem)
}

// takeProblems returns what was reported since the last time.
func (w *world) takeProblems() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	problems := w.problems
	w.problems = nil
	return problems
}

func (w *world) startPods(ctx context.Context) error {
	for _, of := range workloads {
		for i := range of.pods {
			running, err := w.mesh.StartWorkload(ctx, workloadOf(of.name, of.filter, i))
			if err != nil {
				return err
			}
			w.pods[shortName(of.name, i)] = &pod{Running: running}
		}
	}
	return nil
}

func workloadOf(name, filter string, replica int) mesh.Workload {
	return mesh.Workload{
		Namespace: namespace, Name: name, Labels: map[string]string{"app": name}, ObjectLabels: map[string]string{"app": name, "filter": filter},
		Port: 9080, Service: name, Replica: replica, NativeSidecar: replica%2 == 0, AgentMetrics: true,
	}
}

// createFilters creates the FilterDeployments, each with its own way through a rollout.
func (w *world) createFilters(ctx context.Context) error {
	v, err := buildVariants(ctx)
	if err != nil {
		return err
	}
	const bake = 2e9 // 2 s
	short := &metav1.Duration{Duration: bake}
	for _, f := range []*filter{
		{name: "staged", rollout: &wasmev1.RolloutSpec{BakeTime: short}},
		{name: "canary", rollout: &wasmev1.RolloutSpec{BakeTime: short, CanaryPods: new(int32(1))}},
		{name: "immediate", rollout: &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate}},
		{name: "plugin", output: wasmev1.OutputWasmPlugin},
	} {
		if f.output == "" {
			f.output = wasmev1.OutputEnvoyFilter
		}
		f.admin, f.registry, f.variants = w.admin, w.registry, v
		for _, of := range workloads {
			if of.filter == f.name {
				f.workloads = append(f.workloads, of.name)
			}
		}
		f.reaches = f.workloads
		if f.name == ofExtra {
			f.reaches = append(slices.Clip(f.reaches), extra)
		}
		w.filters = append(w.filters, f)
		if err := f.publish(ctx); err != nil {
			return err
		}
		if err := f.create(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startClients has a client ask each pod. All filters must be Ready.
func (w *world) startClients(ctx context.Context) {
	for _, of := range workloads {
		for i := range of.pods {
			p := w.pods[shortName(of.name, i)]
			p.client = startClient(ctx, p.Running, boundsOf(p.filters), w.ledger)
		}
	}
}

func (w *world) filtersOf(name string) []*filter {
	for _, f := range w.filters {
		if f.name == name {
			return []*filter{f}
		}
	}
	return nil
}

func boundsOf(filters []*filter) map[string]bounds {
	of := map[string]bounds{}
	for _, f := range filters {
		of[f.name] = f.bounds
	}
	return of
}

// podsOf returns the pods that a filter is to run on; those of no filter for nil.
func (w *world) podsOf(f *filter) []*pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []*pod
	for _, p := range w.pods {
		if (f == nil && len(p.filters) == 0) || (f != nil && len(p.filters) > 0 && p.filters[0] == f) {
			found = append(found, p)
		}
	}
	return found
}

// stop ends everything, whatever faults are under way.
func (w *world) stop() error {
	w.tending()
	w.tended.Wait()
	for _, p := range w.pods {
		if p.client != nil {
			p.client.stop()
		}
	}
	var failed []error
	if w.replicas != nil {
		failed = append(failed, w.replicas.stop())
	}
	if w.registry != nil {
		w.registry.Close()
	}
	if w.mesh != nil {
		failed = append(failed, w.mesh.Stop())
	}
	return errors.Join(failed...)
}
