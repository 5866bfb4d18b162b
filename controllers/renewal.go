package controllers

import (
	"context"
	"errors"
	"fmt"
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
	// fetchAnnotation is `<revision> <renewals> <RFC 3339 time>` of the last fetch
	// that an output asked for.
	fetchAnnotation = "wasme.io/fetch"

	// pushAnnotation is the number of renewals of a WasmPlugin or a
	// TrafficExtension. istiod pushes when an annotation changes whose name has
	// "istio.io" in it; it then tells the agents of the object's new version.
	pushAnnotation = "wasme.io/renewal.istio.io"

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

// fetch is what an output last had its pods fetch; the zero value is nothing.
type fetch struct {
	// revision that needed it, and how often it was renewed since.
	revision string
	renewals int
	at       time.Time
}

// fetchOf reads what an output keeps.
func fetchOf(object istio.Output) fetch {
	parts := strings.Fields(object.GetAnnotations()[fetchAnnotation])
	if len(parts) != 3 {
		return fetch{}
	}
	renewals, err := strconv.Atoi(parts[1])
	at, timeErr := time.Parse(time.RFC3339, parts[2])
	if err != nil || timeErr != nil {
		return fetch{}
	}
	return fetch{revision: parts[0], renewals: renewals, at: at}
}

// annotation is the fetch as an output keeps it.
func (f fetch) annotation() string {
	return fmt.Sprintf("%s %d %s", f.revision, f.renewals, f.at.UTC().Format(time.RFC3339))
}

// renewedFor is how often the fetch of a revision was renewed.
func (f fetch) renewedFor(revision string) int {
	if f.revision != revision {
		return 0
	}
	return f.renewals
}

// renewal is what a proxy's agent sees of the renewals; empty for none.
func (f fetch) renewal(revision string) string {
	if renewals := f.renewedFor(revision); renewals > 0 {
		return strconv.Itoa(renewals)
	}
	return ""
}

// renewalWait is the time from so many renewals to the next.
func renewalWait(renewals int) time.Duration {
	if renewals == 0 {
		return 0
	}
	return min(minRenewal<<min(renewals-1, 10), maxRenewal)
}

// stuck are the pods of a target that had their time and that another renewal
// may help.
func stuck(pods []podProof, renewals int) []podProof {
	return slices.DeleteFunc(slices.Clone(pods), func(p podProof) bool {
		if !p.counts() || p.proven() || !p.overdue() {
			return true
		}
		switch p.cause() {
		case wasmev1.ReasonFetchFailed:
			return false
		case wasmev1.ReasonOlderRevision, wasmev1.ReasonRefused:
			return renewals >= maxRefused
		default:
			return true
		}
	})
}

// renew has the proxies of targets whose pods had their time fetch the module
// again, as many at once as may load, and says when to come for the next ones.
func (r *FilterDeploymentReconciler) renew(ctx context.Context, fd *wasmev1.FilterDeployment, p *pass) error {
	if p.inForce == nil {
		return nil
	}
	now, content := r.Clock.Now(), p.inForce.hash
	var due []*target
	for i := range p.targets {
		t := &p.targets[i]
		renewals := t.fetch.renewedFor(content)
		pods := stuck(t.pods, renewals)
		if t.err != nil || len(pods) == 0 {
			continue
		}
		left := t.fetch.at.Add(renewalWait(renewals)).Sub(now)
		switch {
		case left > 0 && left <= maxRenewal: // else a clock was wrong
			p.again = soonest(p.again, left)
		case waiting(p.targets) == 0 && p.wave.admit(len(pods)): // new modules first
			due = append(due, t)
		default:
			p.again = soonest(p.again, minRenewal)
		}
	}
	workqueue.ParallelizeUntil(ctx, writers, len(due), func(i int) {
		t := due[i]
		renewed := fetch{revision: content, renewals: t.fetch.renewedFor(content) + 1, at: now}
		r.programTarget(ctx, fd, p, t, renewed)
	})
	if len(due) > 0 {
		p.again = soonest(p.again, minRenewal)
		r.recordRenewals(fd, due)
	}
	return errors.Join(ctx.Err(), conflict(p.targets))
}

// recordRenewals is one event, however many workloads there are, of the first
// time that they are renewed.
func (r *FilterDeploymentReconciler) recordRenewals(fd *wasmev1.FilterDeployment, due []*target) {
	renewed := slices.DeleteFunc(due, func(t *target) bool { return t.err != nil || t.fetch.renewals > 1 })
	if len(renewed) == 0 {
		return
	}
	names := enumerate(renewed, ", ", func(t *target) string { return t.workload.Key() })
	r.Recorder.Eventf(fd, nil, corev1.EventTypeWarning, reasonRenewed, "Reconcile", "%s", eventNote("pods do not run the revision, and are told to fetch the module again, now and then: "+names))
}

// soonest is the shorter of two waits, of which zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
