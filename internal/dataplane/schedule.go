package dataplane

import (
	"hash/maphash"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// A pod with an open verdict is asked after minRetry, then after twice the time, and
	// so on up to maxRetry, each time up to a fifth later.
	minRetry    = 250 * time.Millisecond
	maxRetry    = 15 * time.Second
	retryJitter = 0.2

	// watchPeriod is the time between two questions to a pod that is watched.
	watchPeriod = time.Second

	// A pod of which everything is verified is asked once per period. The period is
	// perPod for each pod, within these bounds.
	minPeriod = 30 * time.Second
	maxPeriod = 5 * time.Minute
	perPod    = 25 * time.Millisecond
)

// laneOf returns the lane in which a pod is asked: the patient one for a pod that answers
// slowly or not at all, whose requests are counted, or whose pilot-agent must be asked,
// because that waits for the app's own metrics. There, a pilot-agent is asked for an Envoy that does not answer.
func (p *Prober) laneOf(known *pod) *lane {
	if known.slow || known.viaAgent || known.counts() || len(known.unexplained()) > 0 {
		return p.patient
	}
	return p.quick
}

// plan schedules the pod's next probe after a delay, and cancels an earlier plan.
func (p *Prober) plan(known *pod, delay time.Duration) {
	known.due = time.Now().Add(delay)
	p.laneOf(known).queue.AddAfter(known.UID, delay)
}

// planNext schedules the next probe of a pod that was asked just now.
func (p *Prober) planNext(known *pod) {
	switch {
	case known.settled() && known.watched():
		known.attempts = 0
		p.plan(known, wait.Jitter(watchPeriod, retryJitter))
	case known.settled():
		known.attempts = 0
		p.plan(known, untilTurn(time.Now(), period(len(p.pods)), p.turn(known.UID)))
	case known.unsure():
		p.plan(known, retryDelay(0)) // the next answer decides
		known.attempts++
	default:
		p.plan(known, retryDelay(known.attempts))
		known.attempts++
	}
}

// retryDelay returns the delay after this number of probes since the last change.
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

// period returns the time in which each of the pods is asked once.
func period(pods int) time.Duration {
	return min(max(time.Duration(pods)*perPod, minPeriod), maxPeriod)
}

// turn returns a pod's own moment in every period, from 0 to 1. So pods that were
// asked at the same time spread out in the next period.
func (p *Prober) turn(uid types.UID) float64 {
	return float64(maphash.String(p.seed, string(uid))) / math.MaxUint64
}

// untilTurn returns the time until a turn comes next, in this period or the following one.
func untilTurn(now time.Time, period time.Duration, turn float64) time.Duration {
	at := time.Duration(turn * float64(period))
	since := time.Duration(now.UnixNano()) % period
	if at <= since {
		at += period
	}
	return at - since
}
