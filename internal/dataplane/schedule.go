package dataplane

import (
	"hash/maphash"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// A pod with an open verdict is asked after minRetry, then after twice the
	// time, up to maxRetry, and each time up to a fifth later.
	minRetry    = 250 * time.Millisecond
	maxRetry    = 15 * time.Second
	retryJitter = 0.2

	// A pod of which all is proven is asked once per period: such that there is
	// one probe in perPod over all pods, but within these bounds.
	minPeriod = 30 * time.Second
	maxPeriod = 5 * time.Minute
	perPod    = 25 * time.Millisecond
)

// laneOf: those that answer slowly, or not at all, wait with their likes, and so
// does who needs pilot-agent, which waits for the app's own metrics.
func (p *Prober) laneOf(known *pod) *lane {
	if known.slow || len(known.unexplained()) > 0 {
		return p.patient
	}
	return p.quick
}

// plan has the pod asked after a delay, instead of when it was planned before.
func (p *Prober) plan(known *pod, delay time.Duration) {
	known.due = time.Now().Add(delay)
	p.laneOf(known).queue.AddAfter(known.UID, delay)
}

// planNext has a pod that was asked just now asked again.
func (p *Prober) planNext(known *pod) {
	if known.settled() {
		known.attempts = 0
		p.plan(known, untilTurn(time.Now(), period(len(p.pods)), p.turn(known.UID)))
		return
	}
	p.plan(known, retryDelay(known.attempts))
	known.attempts++
}

// retryDelay is the delay after so many probes since the last change.
func retryDelay(attempts int) time.Duration {
	delay := minRetry
	for range attempts {
		if delay *= 2; delay >= maxRetry {
			delay = maxRetry
			break
		}
	}
	return wait.Jitter(delay, retryJitter)
}

// period is the time in which all of the pods are asked once.
func period(pods int) time.Duration {
	return min(max(time.Duration(pods)*perPod, minPeriod), maxPeriod)
}

// turn is a pod's own moment in every period, from 0 to 1: whatever made pods
// be asked at the same time, they spread out at once.
func (p *Prober) turn(uid types.UID) float64 {
	return float64(maphash.String(p.seed, string(uid))) / math.MaxUint64
}

// untilTurn is the time until the next period that has gone on for its part turn.
func untilTurn(now time.Time, period time.Duration, turn float64) time.Duration {
	at := time.Duration(turn * float64(period))
	since := time.Duration(now.UnixNano()) % period
	if at <= since {
		at += period
	}
	return at - since
}
