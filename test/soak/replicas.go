package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
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
		if last := lastLine(one.Log()); !mayEnd(last, r.ledger.known(), time.Now()) {
			r.problems(fmt.Sprintf("replica-%d ended by itself, and no fault explains it: %s", one.index, last))
		}
		if err := one.Start(); err != nil {
			r.problems(err.Error())
		}
		return false
	}
	if one.ready(ctx) {
		one.failures = 0
		return true
	}
	one.failures++
	return one.failures < probeFailures
}

// lostLease is the error with which a replica ends that could not renew its lease.
const lostLease = "leader election lost"

// lastLine returns the last line of a log.
func lastLine(log string) string {
	content, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return lines[len(lines)-1]
}

// mayEnd reports whether a replica that ends now with a last line may do so: a fault explains
// that it could not renew its lease, and it says that it did not.
func mayEnd(last string, causes []cause, now time.Time) bool {
	return strings.Contains(last, lostLease) && slices.ContainsFunc(causes, func(c cause) bool {
		return slices.Contains(leaseFaults, c.Kind) && c.overlaps(now, now, blameTime)
	})
}

// leaseFaults are those during which a lease may not be renewed.
var leaseFaults = []kind{apiServerAway, apiServerHung, apiServerKilled, apiServerPaused, replicaHung, replicaPaused}

// unsettled says which replica is not ready, and whether not exactly one leads.
func (r *replicas) unsettled(ctx context.Context) (problems []string) {
	leaders := 0
	for _, one := range r.all {
		if !one.ready(ctx) {
			problems = append(problems, fmt.Sprintf("replica-%d is not ready", one.index))
		}
		if one.leads(ctx) {
			leaders++
		}
	}
	if leaders != 1 {
		problems = append(problems, fmt.Sprintf("%d replicas lead", leaders))
	}
	return problems
}

// ready reports whether a replica says so.
func (r *replica) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return mesh.Ask(ctx, r.ReadyURL).Status == http.StatusOK
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
