package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
)

// LoadTimeout is how long pods may take to run a revision: the 20 s that a fetch
// may take, and 10 s. A pod that became Ready after the others ran the revision
// does not count for as long, unless it runs it too.
const LoadTimeout = 30 * time.Second

// Proof is what is known of one Ready pod: whether it runs the revision that it
// is to run and, if not, why.
type Proof struct {
	name    string
	sidecar bool
	// age is the time since it became Ready.
	age time.Duration
	// young says that it is no older than its siblings' proof, and not yet
	// expected to run the revision.
	young bool
	// waiting says that its output waits, and verdict is on the revision before.
	waiting bool
	// waited is how long the operator has waited for it.
	waited time.Duration
	// spent says that what it seems to refuse is not renewed any more.
	spent bool
	// anchored says that the filter is placed beside another one of the pod's proxy.
	anchored bool
	verdict  dataplane.Verdict
}

// Verified reports whether the pod runs the revision in force.
func (p Proof) Verified() bool { return !p.waiting && p.verdict.Proven() }

// Counts reports whether Ready waits for the pod.
func (p Proof) Counts() bool { return p.sidecar && (!p.young || p.Verified()) }

// unanswered reports whether Ready waits for the pod's first answer.
func (p Proof) unanswered() bool {
	return p.Counts() && !p.waiting && p.verdict.State == dataplane.StateUnknown
}

// overdue reports whether the pod has not run the revision in time.
func (p Proof) overdue() bool { return !p.waiting && p.waited >= LoadTimeout }

// deadline returns how long it is until more is known of the pod without its
// saying so; zero for never.
func (p Proof) deadline() time.Duration {
	switch {
	case !p.sidecar || p.Verified() || p.waiting:
		return 0
	case p.young:
		return max(LoadTimeout-p.age, time.Second)
	case !p.overdue():
		return max(LoadTimeout-p.waited, time.Second)
	default:
		return 0
	}
}

// cause returns the reason why the pod does not run the revision.
func (p Proof) cause() string {
	v := p.verdict
	switch {
	case v.State == dataplane.StateUnknown, v.State == dataplane.StateUnreachable:
		return wasmev1.ReasonUnreachable
	case v.Fetch == dataplane.FetchFailed:
		return wasmev1.ReasonFetchFailed
	case v.State == dataplane.StateOtherRevision:
		return wasmev1.ReasonOlderRevision
	case v.Fetch == dataplane.FetchFailedBefore:
		return wasmev1.ReasonFetchFailed
	case v.Fetch == dataplane.FetchClean && v.Untried && p.anchored:
		return wasmev1.ReasonAnchorMissing
	case v.Fetch == dataplane.FetchClean && v.Untried:
		return wasmev1.ReasonNoListener
	default:
		return wasmev1.ReasonRefused
	}
}

// stuck returns the pods that did not run the revision in time and that another
// renewal may help.
func stuck(pods []Proof, renewals int) []Proof {
	return filtered(pods, func(p Proof) bool {
		if !p.Counts() || p.Verified() || !p.overdue() {
			return false
		}
		switch p.cause() {
		case wasmev1.ReasonFetchFailed:
			return true
		case wasmev1.ReasonOlderRevision, wasmev1.ReasonRefused:
			return renewals < maxRefused
		default:
			return false
		}
	})
}

// loadedVerdict is the table of Loaded. In its order:
//
//	no Ready pod                                 True     NoPods
//	none of them has a sidecar                   False    NoSidecar
//	none of them counts yet                      True     NoPods
//	one runs the revision and crashes            False    Crashing
//	all that count run it                        True     Loaded
//	some do not, none of them for LoadTimeout    Unknown  Loading
//	some do not, and at least one says why       False    the most frequent cause;
//	                                                      Stalled when it is refused, and no renewal is left
//	some do not, and none of them answers        Unknown  Unreachable
func loadedVerdict(pods []Proof, output wasmev1.Output) condition.Verdict {
	if len(pods) == 0 {
		return condition.True(wasmev1.ReasonNoPods, "the workloads have no Ready pods; pods that start get the filter")
	}
	if !slices.ContainsFunc(pods, func(p Proof) bool { return p.sidecar }) {
		return condition.False(wasmev1.ReasonNoSidecar, "none of %d Ready pods has a sidecar that could run the filter: have sidecars injected (label istio-injection=enabled on the namespace) and restart the pods", len(pods))
	}
	counted := filtered(pods, Proof.Counts)
	if len(counted) == 0 {
		return condition.True(wasmev1.ReasonNoPods, "all pods have just started, and get the filter")
	}
	missing := filtered(counted, func(p Proof) bool { return !p.Verified() })
	overdue := filtered(missing, Proof.overdue)
	crashing := filtered(counted, func(p Proof) bool { return p.Verified() && p.verdict.Crashing })
	switch {
	case len(crashing) > 0:
		return condition.False(wasmev1.ReasonCrashing, "the module crashes on requests in %d of %d pods (%s): see the logs of their sidecars", len(crashing), len(counted), podNames(crashing))
	case len(missing) == 0:
		return condition.True(wasmev1.ReasonLoaded, "%d of %d pods run the filter%s", len(counted), len(counted), strength(output))
	case len(overdue) == 0:
		return condition.Unknown(wasmev1.ReasonLoading, "%d of %d pods run the revision", len(counted)-len(missing), len(counted))
	}
	return missingVerdict(overdue, len(counted))
}

// strength says what a proof is worth: only an EnvoyFilter's shows the revision
// and, with FailReload, crashes.
func strength(output wasmev1.Output) string {
	if output == wasmev1.OutputEnvoyFilter {
		return " in this revision"
	}
	return fmt.Sprintf("; a %s does not show in which revision", output)
}

// missingVerdict says why pods do not run the revision.
func missingVerdict(missing []Proof, counted int) condition.Verdict {
	causes := map[string][]Proof{}
	for _, p := range missing {
		causes[p.cause()] = append(causes[p.cause()], p)
	}
	unreachable := causes[wasmev1.ReasonUnreachable]
	delete(causes, wasmev1.ReasonUnreachable)
	if len(causes) == 0 {
		return condition.Unknown(wasmev1.ReasonUnreachable, "%d of %d pods do not answer at their sidecar's metrics port (%s): let the operator reach it, or run the operator with --verify-pods=false", len(unreachable), counted, podNames(unreachable))
	}
	most := mostFrequent(causes)
	v := condition.False(most, "%d of %d pods do not run the revision; %d of them (%s) %s", len(missing), counted, len(causes[most]), podNames(causes[most]), causeTexts[most])
	v.Stalled = (most == wasmev1.ReasonRefused || most == wasmev1.ReasonOlderRevision) &&
		!slices.ContainsFunc(causes[most], func(p Proof) bool { return !p.spent })
	return v
}

// mostFrequent returns the cause that most pods have; of two, the first by name.
func mostFrequent(causes map[string][]Proof) string {
	reasons := make([]string, 0, len(causes))
	for reason := range causes {
		reasons = append(reasons, reason)
	}
	return slices.MaxFunc(reasons, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(causes[a]), len(causes[b])), cmp.Compare(b, a))
	})
}

// causeTexts say what reasons mean, and what helps.
var causeTexts = map[string]string{
	wasmev1.ReasonFetchFailed:   "could not fetch the module and deny requests, or let them pass unfiltered with FailOpen: let the pods reach the operator's module server (a NetworkPolicy may block it), or the registry with distribution Registry",
	wasmev1.ReasonOlderRevision: "keep running an older revision, because Envoy refused the new one (its configuration, root id or module) or istiod has not sent it: the sidecar's log says which",
	wasmev1.ReasonRefused:       "do not run the filter, because Envoy refused it (its configuration, root id or module), refused another Wasm filter of the pod, which holds up those after it, or has no place for it (an HTTP listener, spec.filter.ports, spec.filter.position): the sidecar's log says which",
	wasmev1.ReasonNoListener:    "have no HTTP listener for the filter, or istiod has not sent it: name the port http or http-… in a Service, add a Gateway resource for a gateway, and check spec.filter.ports and spec.filter.patchContext",
	wasmev1.ReasonAnchorMissing: "have no HTTP filter with the name in spec.filter.position, or no HTTP listener: add that filter, or change the position",
}

func podNames(pods []Proof) string {
	return condition.Enumerate(pods, ", ", func(p Proof) string { return p.name })
}

func filtered[T any](things []T, keep func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(things), func(thing T) bool { return !keep(thing) })
}
