package main

import (
	"context"
	"fmt"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// writers is the number of outputs that the operator writes at once, and so the bare client.
	writers = 16
	// fanoutRounds is how often each side is measured, in turn, over few workloads
	// (at most fewWorkloads): what takes a moment varies most.
	fanoutRounds     = 21
	fanoutRoundsMany = 9
	fewWorkloads     = 100
	// fanoutBound is the time of the operator in times of the bare client.
	fanoutBound = 1.15
)

// fanout measures how long one FilterDeployment over many workloads takes from
// its creation or change to the last EnvoyFilter, against a client that does
// nothing but write these EnvoyFilters: with the same verbs, the same rights, as
// many at once, to the same API server, and seen by the same kind of watch.
func (p *perf) fanout(ctx context.Context) error {
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.StartOperator(ctx, mesh.OperatorOptions{}); err != nil {
		return err
	}
	for _, n := range []int{100, 1000} {
		if err := p.fanoutOver(ctx, c, n); err != nil {
			return fmt.Errorf("over %d workloads: %w", n, err)
		}
	}
	return nil
}

// race is the operator and the bare client, each with a namespace of its own.
type race struct {
	*cluster

	n                    int
	image                string
	operated, bare       *follower
	operatedNS, bareNS   string
	operatorsRights      client.Client
	owner                *wasmev1.FilterDeployment
	created, changed     []*networking.EnvoyFilter
	create, update       samples
	bareCreate, bareEdit samples
}

func (p *perf) fanoutOver(ctx context.Context, c *cluster, n int) error {
	r := &race{cluster: c, n: n, operatedNS: fmt.Sprintf("operated-%d", n), bareNS: fmt.Sprintf("bare-%d", n)}
	if err := r.prepare(ctx); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	defer r.operated.stop()
	defer r.bare.stop()
	cold, err := r.lap(ctx, "cold")
	if err != nil {
		return fmt.Errorf("the cold round: %w", err)
	}
	if err := r.warm(ctx); err != nil {
		return fmt.Errorf("having the module known: %w", err)
	}
	if err := r.rounds(ctx); err != nil {
		return err
	}
	name := fmt.Sprintf("1 FilterDeployment, %d workloads: ", n)
	p.table.addRatio(name+"created", r.create, "bare client", r.bareCreate, atMost(fanoutBound))
	p.table.addRatio(name+"configuration changed", r.update, "bare client", r.bareEdit, atMost(fanoutBound))
	p.table.addRatio(name+"created, module unknown", samples{cold}, "bare client", r.bareCreate, nil)
	return nil
}

func (r *race) prepare(ctx context.Context) (err error) {
	for _, namespace := range []string{r.operatedNS, r.bareNS} {
		if err := r.createNamespace(ctx, namespace); err != nil {
			return err
		}
	}
	err = parallel(ctx, creators, r.n, func(ctx context.Context, i int) error {
		return r.admin.Create(ctx, deployment(r.operatedNS, fmt.Sprintf("app-%d", i), nil))
	})
	if err != nil {
		return err
	}
	if r.image, err = r.push(ctx, fmt.Sprintf("-fanout-%d", r.n)); err != nil {
		return err
	}
	// It owns what the bare client writes, and selects nothing.
	r.owner = filterDeployment(r.bareNS, "owner", "127.0.0.1:1/none", "", map[string]wasmev1.LabelValue{"app": "none"})
	if err := r.admin.Create(ctx, r.owner); err != nil {
		return err
	}
	if err := r.awaitBegun(ctx); err != nil {
		return err
	}
	config, err := r.As(ctx, "wasme-system", "wasme-operator")
	if err != nil {
		return err
	}
	if r.operatorsRights, err = newClient(config); err != nil {
		return err
	}
	if r.operated, err = follow(ctx, r.admin, r.operatedNS); err != nil {
		return err
	}
	r.bare, err = follow(ctx, r.admin, r.bareNS)
	return err
}

// awaitBegun waits until the operator has seen something: right after its start
// it still lists.
func (r *race) awaitBegun(ctx context.Context) error {
	err := poll(ctx, "a first status", patience, func(ctx context.Context) (bool, error) {
		err := r.admin.Get(ctx, client.ObjectKeyFromObject(r.owner), r.owner)
		return len(r.owner.Status.Conditions) > 0, err
	})
	if err != nil {
		return err
	}
	return settle(ctx)
}

// warm has another FilterDeployment use the image, so that it is known when the next
// FilterDeployment comes.
func (r *race) warm(ctx context.Context) error {
	patch := fmt.Appendf(nil, `{"spec":{"filter":{"image":%q}}}`, r.image)
	if err := r.admin.Patch(ctx, r.owner, client.RawPatch("application/merge-patch+json", patch)); err != nil {
		return err
	}
	return r.awaitReady(ctx, r.owner)
}

// rounds lets both sides run in turn, and changes who begins.
func (r *race) rounds(ctx context.Context) error {
	rounds := fanoutRounds
	if r.n > fewWorkloads {
		rounds = fanoutRoundsMany
	}
	for round := range rounds {
		steps := []func(context.Context) error{r.operatorsLap, r.bareLap}
		if round%2 == 1 {
			steps[0], steps[1] = steps[1], steps[0]
		}
		for _, step := range steps {
			if err := step(ctx); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
		}
	}
	return nil
}

func (r *race) operatorsLap(ctx context.Context) error {
	created, err := r.lap(ctx, "warm")
	r.create = append(r.create, created)
	return err
}

// lap has the operator create the outputs of a new FilterDeployment, then
// change and lose them. A cold lap is not measured beyond the creation.
func (r *race) lap(ctx context.Context, kind string) (time.Duration, error) {
	fd := filterDeployment(r.operatedNS, "filter", r.image, "before", nil)
	created, err := stopwatch(func() error {
		if err := r.admin.Create(ctx, fd); err != nil {
			return err
		}
		return r.operated.await(ctx, r.n, 1)
	})
	if err != nil {
		return 0, err
	}
	if err := r.done(ctx, fd); err != nil {
		return 0, err
	}
	if r.created, err = r.copies(ctx); err != nil {
		return 0, err
	}
	changed, err := stopwatch(func() error {
		if err := r.configure(ctx, fd, "after"); err != nil {
			return err
		}
		return r.operated.await(ctx, r.n, 2)
	})
	if err != nil {
		return 0, err
	}
	if kind == "warm" {
		r.update = append(r.update, changed)
	}
	if err := r.done(ctx, fd); err != nil {
		return 0, err
	}
	if r.changed, err = r.copies(ctx); err != nil {
		return 0, err
	}
	return created, r.remove(ctx, fd)
}

// done waits until the operator has nothing to do any more.
func (r *race) done(ctx context.Context, fd *wasmev1.FilterDeployment) error {
	if err := r.awaitReady(ctx, fd); err != nil {
		return err
	}
	return settle(ctx)
}

// copies are the outputs as the bare client is to write them. Only what would
// tell the operator of them differs: the value of one label, of the same length.
func (r *race) copies(ctx context.Context) ([]*networking.EnvoyFilter, error) {
	var list networking.EnvoyFilterList
	if err := r.admin.List(ctx, &list, client.InNamespace(r.operatedNS)); err != nil {
		return nil, fmt.Errorf("reading the outputs: %w", err)
	}
	for _, object := range list.Items {
		object.ObjectMeta = metav1.ObjectMeta{
			Namespace: r.bareNS, Name: object.Name,
			Labels: object.Labels, Annotations: object.Annotations, OwnerReferences: object.OwnerReferences,
		}
		object.Labels["app.kubernetes.io/managed-by"] = "client-of-perf"
		object.OwnerReferences[0].Name, object.OwnerReferences[0].UID = r.owner.Name, r.owner.UID
	}
	return list.Items, nil
}

// remove has the operator take its outputs back first: what the garbage
// collector would do about them goes on into the next lap.
func (r *race) remove(ctx context.Context, fd *wasmev1.FilterDeployment) error {
	selectNothing := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"deployment":{"istio":{"labels":{"app":"none"}}}}}`))
	if err := r.admin.Patch(ctx, fd, selectNothing); err != nil {
		return err
	}
	if err := r.operated.await(ctx, 0, 0); err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return err
	}
	if err := r.admin.Delete(ctx, fd); err != nil {
		return err
	}
	if err := r.admin.DeleteAllOf(ctx, &appsv1.ControllerRevision{}, client.InNamespace(fd.Namespace)); err != nil {
		return err
	}
	return settle(ctx)
}

// bareLap writes the outputs of the lap before.
func (r *race) bareLap(ctx context.Context) error {
	objects := make([]*networking.EnvoyFilter, r.n)
	created, err := stopwatch(func() error {
		err := parallel(ctx, writers, r.n, func(ctx context.Context, i int) error {
			objects[i] = r.created[i].DeepCopy()
			return r.operatorsRights.Create(ctx, objects[i])
		})
		if err != nil {
			return err
		}
		return r.bare.await(ctx, r.n, 1)
	})
	if err != nil {
		return fmt.Errorf("the bare client's creations: %w", err)
	}
	if err := settle(ctx); err != nil {
		return err
	}
	changed, err := stopwatch(func() error {
		err := parallel(ctx, writers, r.n, func(ctx context.Context, i int) error {
			version := objects[i].ResourceVersion
			objects[i] = r.changed[i].DeepCopy()
			objects[i].ResourceVersion = version
			return r.operatorsRights.Update(ctx, objects[i])
		})
		if err != nil {
			return err
		}
		return r.bare.await(ctx, r.n, 2)
	})
	if err != nil {
		return fmt.Errorf("the bare client's updates: %w", err)
	}
	r.bareCreate, r.bareEdit = append(r.bareCreate, created), append(r.bareEdit, changed)
	if err := r.admin.DeleteAllOf(ctx, &networking.EnvoyFilter{}, client.InNamespace(r.bareNS)); err != nil {
		return err
	}
	if err := r.bare.await(ctx, 0, 0); err != nil {
		return err
	}
	return settle(ctx)
}

// stopwatch is how long a call takes.
func stopwatch(do func() error) (time.Duration, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin), err
}
