package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// analyses are how many rollouts of a filter against itself are analysed.
	analyses = 100
	// analysedPods are those of the workload, of which one is a canary, and analysedPause the
	// time between two requests to each of them.
	analysedPods, analysedPause = 3, 10 * time.Millisecond
)

// analyses measures how often an analysis finds something where there is nothing to be found.
// The metrics are those of a test filter, because these Envoys are built without Istio's
// extension istio.stats.
func (p *perf) analyses(ctx context.Context) error {
	c, started, err := startMesh(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.StartOperator(ctx, mesh.OperatorOptions{}); err != nil {
		return err
	}
	r := &stagedMesh{stagedCluster: stagedCluster{c}, mesh: started}
	const namespace = "analysed"
	running, err := r.startReplicas(ctx, namespace, analysedPods)
	if err != nil {
		return err
	}
	module, err := filters.Build(ctx, filters.Telemetry)
	if err != nil {
		return err
	}
	telemetry, err := c.pushModule(ctx, "perf/telemetry:v1", module)
	if err != nil {
		return err
	}
	if err := r.apply(ctx, filterDeployment(namespace, "stats", telemetry, firstValue, nil)); err != nil {
		return err
	}
	image, err := c.push(ctx, "")
	if err != nil {
		return err
	}
	fd := staged(filterDeployment(namespace, "hello", image, firstValue, nil), time.Second)
	fd.Spec.Rollout.CanaryPods = new(int32(1))
	fd.Spec.Rollout.Analysis = &wasmev1.RolloutAnalysis{MaxErrorRatioIncrease: "1%", MaxLatencyIncrease: "20%"}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var loads errgroup.Group
	for _, pod := range running {
		loads.Go(func() error { return askPaced(loading, pod.URL) })
	}
	if err := r.apply(ctx, fd); err != nil {
		return err
	}
	row, err := r.againstItself(ctx, fd, image)
	if err != nil {
		return err
	}
	p.table.add(row)
	stop()
	return loads.Wait()
}

// startReplicas starts so many pods of one Deployment.
func (r *stagedMesh) startReplicas(ctx context.Context, namespace string, replicas int) ([]*mesh.Running, error) {
	running := make([]*mesh.Running, replicas)
	for replica := range replicas {
		pod, err := r.mesh.StartWorkload(ctx, mesh.Workload{Namespace: namespace, Name: "app", Labels: map[string]string{"app": "app"}, Port: 9080, Replica: replica})
		if err != nil {
			return nil, err
		}
		running[replica] = pod
	}
	return running, nil
}

// againstItself rolls a filter out again and again, each time with another greeting.
func (r *stagedMesh) againstItself(ctx context.Context, fd *wasmev1.FilterDeployment, image string) (row, error) {
	var took samples
	rolledBack := 0
	for i := range analyses {
		before := fd.Status.Rollout.To
		one, err := stopwatch(func() error {
			if err := r.update(ctx, fd, image, fmt.Sprint("round-", i)); err != nil {
				return err
			}
			return poll(ctx, "the end of a rollout", rolloutTimeout, func(ctx context.Context) (bool, error) {
				err := r.admin.Get(ctx, client.ObjectKeyFromObject(fd), fd)
				return err == nil && fd.Status.Rollout.To != before && ended(fd.Status.Rollout.Phase), err
			})
		})
		if err != nil {
			return row{}, err
		}
		took = append(took, one)
		if fd.Status.Rollout.Phase != wasmev1.RolloutComplete {
			rolledBack++
			progress("rolled back: %s", fd.Status.Rollout.Rejected.Message)
		}
	}
	return row{
		name:     fmt.Sprintf("rollouts of a filter against itself, under load, that an analysis takes back (%d pods)", analysedPods),
		measured: fmt.Sprintf("%d of %d, each in %s", rolledBack, analyses, took), beside: "-", value: float64(rolledBack), unit: count, bound: atMost(0),
	}, nil
}

func ended(phase wasmev1.RolloutPhase) bool {
	return phase == wasmev1.RolloutComplete || phase == wasmev1.RolloutRolledBack
}

// askPaced sends requests, with a pause after each, until the context ends.
func askPaced(ctx context.Context, url string) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for pause(ctx, analysedPause) == nil {
		if _, _, err := get(ctx, &http.Client{Transport: transport}, url); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}
