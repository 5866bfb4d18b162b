package main

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// handovers is how often each kind of end is tried; the longest counts.
	handovers      = 4
	stopBound      = 5
	crashBound     = 20
	leaseNamespace = "wasme-system"
	leaseName      = "wasme-operator"
)

// handover measures how long two replicas take from the end of the one that
// leads to the first write of the other, for a change that is made when the
// first is gone.
func (p *perf) handover(ctx context.Context) error {
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	t := &twoReplicas{cluster: c}
	if err := t.prepare(ctx); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	defer t.outputs.stop()
	for _, kind := range []struct {
		name  string
		end   func(*mesh.Operator) error
		bound float64
	}{
		{"leader stopped", (*mesh.Operator).Stop, stopBound},
		{"leader killed", (*mesh.Operator).Kill, crashBound},
	} {
		var took samples
		for range handovers {
			once, err := t.end(ctx, kind.end)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			took = append(took, once)
		}
		p.table.add(row{
			name:     kind.name + " to first write of the next, longest",
			measured: took.String(),
			beside:   "-",
			value:    longest(took).Seconds(),
			unit:     seconds,
			bound:    atMost(kind.bound),
		})
	}
	return nil
}

func longest(of samples) time.Duration {
	var most time.Duration
	for _, d := range of {
		most = max(most, d)
	}
	return most
}

// twoReplicas share a lease; the one at index leading has it.
type twoReplicas struct {
	*cluster

	addresses [2]string
	replicas  [2]*mesh.Operator
	leading   int
	outputs   *follower
	// changes is the number of configurations so far: the output's generation.
	changes int64
}

func (t *twoReplicas) prepare(ctx context.Context) (err error) {
	for i := range t.addresses {
		if t.addresses[i], err = t.FreeAddress(); err != nil {
			return err
		}
	}
	if err := t.start(ctx, 0); err != nil {
		return err
	}
	err = poll(ctx, "a leader", patience, func(ctx context.Context) (bool, error) {
		holder, err := t.leaseHolder(ctx)
		return holder != "", client.IgnoreNotFound(err)
	})
	if err != nil {
		return err
	}
	if err := t.start(ctx, 1); err != nil {
		return err
	}
	image, err := t.push(ctx, "")
	if err != nil {
		return err
	}
	if err := t.admin.Create(ctx, deployment("default", "app", nil)); err != nil {
		return err
	}
	fd := filterDeployment("default", "filter", image, "", nil)
	if err := t.admin.Create(ctx, fd); err != nil {
		return err
	}
	if err := t.awaitReady(ctx, fd); err != nil {
		return err
	}
	t.changes = 1
	t.outputs, err = follow(ctx, t.admin, "default")
	return err
}

func (t *twoReplicas) start(ctx context.Context, i int) (err error) {
	t.replicas[i], err = t.StartOperator(ctx, mesh.OperatorOptions{
		Name: fmt.Sprint("replica-", i), ModuleServer: t.addresses[i],
		Args: []string{"--leader-elect", "--peers=http://" + t.addresses[0] + ",http://" + t.addresses[1]},
	})
	return err
}

func (t *twoReplicas) leaseHolder(ctx context.Context) (string, error) {
	var lease coordinationv1.Lease
	err := t.admin.Get(ctx, client.ObjectKey{Namespace: leaseNamespace, Name: leaseName}, &lease)
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", err
	}
	return *lease.Spec.HolderIdentity, nil
}

// end ends the leader, changes the FilterDeployment, waits for the other
// replica's write, and has two replicas again.
func (t *twoReplicas) end(ctx context.Context, how func(*mesh.Operator) error) (time.Duration, error) {
	took, err := stopwatch(func() error {
		if err := how(t.replicas[t.leading]); err != nil {
			return err
		}
		t.changes++
		fd := filterDeployment("default", "filter", "", "", nil)
		if err := t.configure(ctx, fd, fmt.Sprint("change-", t.changes)); err != nil {
			return err
		}
		return t.outputs.await(ctx, 1, t.changes)
	})
	if err != nil {
		return 0, err
	}
	gone := t.leading
	t.leading = 1 - gone
	if err := t.start(ctx, gone); err != nil {
		return 0, err
	}
	return took, settle(ctx)
}
