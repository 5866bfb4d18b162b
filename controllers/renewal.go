package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// A proxy whose fetch failed, or that an old fetch has put back to an older
// revision, stays so until its configuration changes: pilot-agent does not try
// again. A renewal is such a change, and invisible to Envoy. It is part of an
// output and of no revision.

const (
	// renewalAnnotation is `<revision> <count> <RFC 3339 time>` of an output's
	// last renewal.
	renewalAnnotation = "wasme.io/renewal"

	// reasonRenewed is that of the event about a renewal.
	reasonRenewed = "Renewed"

	// minRenewal is the time to the second renewal, doubled each time up to
	// maxRenewal.
	minRenewal = loadTimeout
	maxRenewal = 10 * time.Minute
	// maxRefused is how often what Envoy seems to refuse is renewed: a renewal
	// helps only when it was an old fetch.
	maxRefused = 3
)

// renewal of an output in a revision; the zero value is none.
type renewal struct {
	count int
	at    time.Time
}

// renewalOf reads the renewal that an output holds of a revision.
func renewalOf(object istio.Output, revision string) renewal {
	if object == nil {
		return renewal{}
	}
	parts := strings.Fields(object.GetAnnotations()[renewalAnnotation])
	if len(parts) != 3 || parts[0] != revision {
		return renewal{}
	}
	count, err := strconv.Atoi(parts[1])
	at, timeErr := time.Parse(time.RFC3339, parts[2])
	if err != nil || timeErr != nil {
		return renewal{}
	}
	return renewal{count: count, at: at}
}

// annotation is the renewal as an output keeps it.
func (n renewal) annotation(revision string) string {
	return fmt.Sprintf("%s %d %s", revision, n.count, n.at.UTC().Format(time.RFC3339))
}

// key is what a proxy's agent sees of the renewal; empty for none.
func (n renewal) key() string {
	if n.count == 0 {
		return ""
	}
	return strconv.Itoa(n.count)
}

// due is when the next renewal may come.
func (n renewal) due() time.Time {
	if n.count == 0 {
		return n.at
	}
	return n.at.Add(min(minRenewal<<min(n.count-1, 10), maxRenewal))
}

// renewable tells whether another renewal may help a target's pods.
func renewable(pods []podProof, last renewal) bool {
	return slices.ContainsFunc(pods, func(p podProof) bool {
		if !p.counts() || p.verdict.Proven() {
			return false
		}
		switch causeOf(p.verdict) {
		case wasmev1.ReasonFetchFailed:
			return true
		case wasmev1.ReasonOlderRevision, wasmev1.ReasonRefused:
			return last.count < maxRefused
		default:
			return false
		}
	})
}

// renew has the proxies of targets whose pods had their time fetch the module
// again, and says when to come for the next ones.
func (r *FilterDeploymentReconciler) renew(ctx context.Context, fd *wasmev1.FilterDeployment, p *pass) error {
	if p.waited < loadTimeout {
		return nil
	}
	now := r.Clock.Now()
	due := map[*target]renewal{}
	for i := range p.targets {
		t := &p.targets[i]
		last := renewalOf(p.existing[t.output], p.inForce.filter.Revision())
		if t.err != nil || !renewable(t.pods, last) {
			continue
		}
		if left := last.due().Sub(now); left > 0 {
			p.renewAgain = soonest(p.renewAgain, left)
			continue
		}
		due[t] = renewal{count: last.count + 1, at: now}
	}
	targets := slices.Collect(maps.Keys(due))
	workqueue.ParallelizeUntil(ctx, writers, len(targets), func(i int) {
		t := targets[i]
		renewed := r.programWorkload(ctx, fd, p.inForce, t.workload, p.existing, due[t])
		if t.reason, t.err = renewed.reason, renewed.err; t.err == nil {
			r.Recorder.Eventf(fd, nil, corev1.EventTypeWarning, reasonRenewed, "Reconcile", "%s: its pods do not run the revision; they are told to fetch the module again (%d)", t.workload.Key(), due[t].count)
		}
	})
	if len(due) > 0 {
		p.renewAgain = soonest(p.renewAgain, minRenewal)
	}
	return errors.Join(ctx.Err(), conflict(p.targets))
}

// soonest is the shorter of two waits, of which zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
