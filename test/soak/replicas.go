package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/service"
)

const (
	// probePeriod and probeFailures are those of the readiness probe in config/manager and its
	// default: a replica that hangs leaves the Service after them.
	probePeriod   = 2 * time.Second
	probeFailures = 3
	probeTime     = time.Second
	// skew is by how much the clock of the second replica is wrong at all times, and ahead by how
	// much in a fault. The certificate of the API server, and the tokens, are valid until then.
	skew  = time.Second
	ahead = 6 * time.Hour
	// blameTime is how long after a fault a replica may end by itself: a leader that lost its lease.
	blameTime = 30 * time.Second
)

// replica is one of the two replicas of the operator.
type replica struct {
	*mesh.Operator

	index    int
	address  string
	faulty   sync.Mutex // held by the fault that it is under
	mu       sync.Mutex
	down     bool // it is to be down
	failures int  // of its readiness probe, in a row
	restarts int
}

// replicas are two of the operator behind a Service, and what a kubelet does for them.
type replicas struct {
	all     [2]*replica
	modules *service.Service
	ledger  *ledger
	// problems receives what no fault explains.
	problems func(string)
}

// startReplicas starts them. What a kubelet and the Service do begins with tend.
func startReplicas(ctx context.Context, m *mesh.Mesh, l *ledger, problems func(string)) (*replicas, error) {
	r := &replicas{ledger: l, problems: problems}
	front, err := m.FreeAddress()
	if err != nil {
		return nil, err
	}
	if r.modules, err = service.Start(front); err != nil {
		return nil, err
	}
	var peers []string
	for i := range r.all {
		address, err := m.FreeAddress()
		if err != nil {
			return nil, err
		}
		r.all[i] = &replica{index: i, address: address}
		peers = append(peers, "http://"+address)
	}
	for i, one := range r.all {
		one.Operator, err = m.StartOperator(ctx, mesh.OperatorOptions{
			Name: fmt.Sprint("replica-", i), ModuleServer: one.address, Preflight: wasmev1.PreflightEnforce,
			ClockOffset: skew * time.Duration(i), // the second's can be set wrong
			Args: []string{
				"--leader-elect", "--image-poll-interval=2s", "--module-server-url=" + r.modules.URL(), "--peers=" + strings.Join(peers, ","),
			},
		})
		if err != nil {
			return nil, err
		}
	}
	r.modules.SetEndpoints(r.all[0].address, r.all[1].address)
	return r, nil
}

// tend does for the replicas what a kubelet and the Service's controller would, until the
// context ends: one that ends is started again, and one that is not ready gets no requests.
func (r *replicas) tend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(probePeriod):
		}
		var endpoints []string
		for _, one := range r.all {
			if r.tendOne(ctx, one) {
				endpoints = append(endpoints, one.address)
			}
		}
		r.modules.SetEndpoints(endpoints...)
	}
}

// tendOne reports whether a replica is ready.
func (r *replicas) tendOne(ctx context.Context, one *replica) bool {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.down {
		return false
	}
	if one.Ended() {
		one.restarts++
		if !r.mayEnd() {
			r.problems(fmt.Sprintf("replica-%d ended by itself, and no fault explains it: see its log", one.index))
		}
		if err := one.Start(); err != nil {
			r.problems(err.Error())
		}
		return false
	}
	probing, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if mesh.Ask(probing, one.ReadyURL).Status == http.StatusOK {
		one.failures = 0
		return true
	}
	one.failures++
	return one.failures < probeFailures
}

// mayEnd reports whether a fault explains that a replica ended: it could not renew its lease.
func (r *replicas) mayEnd() bool {
	for _, c := range r.ledger.known() {
		switch c.Kind {
		case apiServerAway, apiServerHung, apiServerKilled, apiServerPaused, replicaHung, replicaPaused:
			if c.covers(time.Now(), blameTime) {
				return true
			}
		}
	}
	return false
}

// leads reports whether a replica holds the lease, by its own metrics.
func (r *replica) leads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return bytes.Contains(mesh.Fetch(ctx, r.MetricsURL), []byte("\nleader_election_master_status{name=\"wasme-operator\"} 1\n"))
}

// take returns a replica in the role that a target says, and keeps other faults from it
// until the caller unlocks faulty; nil: there is none now.
func (r *replicas) take(ctx context.Context, target string) *replica {
	for _, one := range r.all {
		if target == skewed && one.index == 0 {
			continue
		}
		if !one.faulty.TryLock() {
			continue
		}
		if target == skewed || one.leads(ctx) == (target == leader) {
			return one
		}
		one.faulty.Unlock()
	}
	return nil
}

// end has a replica be down, and bring back starts it again.
func (r *replica) end(how func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	return how()
}

func (r *replica) bringBack() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = false
	return r.Start()
}

// stop has both continue that a fault has paused, and ends the Service. The mesh ends the
// replicas.
func (r *replicas) stop() error {
	failed := []error{r.modules.Stop()}
	for _, one := range r.all {
		if one.Operator != nil {
			failed = append(failed, one.Resume())
		}
	}
	return errors.Join(failed...)
}
