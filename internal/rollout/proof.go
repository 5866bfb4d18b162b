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
	// workload is the key of the one that it belongs to.
	workload string
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
	// tried says that no request passes the filter yet.
	tried bool
	// anchored says that the filter is placed beside another one of the pod's proxy.
	anchored bool
	verdict  dataplane.Verdict
}

// Verified reports whether the pod runs the revision in force, in listeners that are
// as istiod wants them.
func (p Proof) Verified() bool {
	return !p.waiting && p.verdict.Proven() && !p.verdict.StaleListeners
}

// Counts reports whether Ready waits for the pod.
func (p Proof) Counts() bool { return p.sidecar && (!p.young || p.Verified()) }

// unanswered reports whether Ready waits for the pod's first answer.
func (p Proof) unanswered() bool {
	return p.Counts() && !p.waiting && p.verdict.State == dataplane.StateUnknown
}

// silent reports whether the pod was asked, and does not answer.
func (p Proof) silent() bool {
	return p.Counts() && !p.waiting && p.verdict.State == dataplane.StateUnreachable
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
	case v.Proven():
		return wasmev1.ReasonListenerRefused
	case v.Fetch == dataplane.FetchFailed:
		return wasmev1.ReasonFetchFailed
	case v.State == dataplane.StateOtherRevision:
		return wasmev1.ReasonOlderRevision
	case v.Fetch == dataplane.FetchFailedBefore:
		return wasmev1.ReasonFetchFailed
	case v.Fetch == dataplane.FetchUnknown:
		return wasmev1.ReasonNotLoaded
	case v.Untried && p.anchored:
		return wasmev1.ReasonAnchorMissing
	case v.Untried:
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
		case wasmev1.ReasonFetchFailed, wasmev1.ReasonNotLoaded:
			return true
		case wasmev1.ReasonOlderRevision, wasmev1.ReasonRefused, wasmev1.ReasonListenerRefused:
			return renewals < maxRefused
		default:
			return false
		}
	})
}

// loadedVerdict is the table of Loaded. In its order:
//
//	no Ready pod                                 True     NoPods
//	one runs the revision and crashes            False    Crashing
//	some do not run it, none for LoadTimeout     Unknown  Loading
//	some do not, and at least one says why       False    the most frequent cause;
//	                                                      Stalled when it is refused, and no renewal is left
//	no Ready pod of a workload has a sidecar     False    NoSidecar
//	some run it in listeners that are old        Unknown  ListenerRefused
//	some do not, and none of them answers        Unknown  Unreachable
//	none counts yet                              True     NoPods
//	all that count run it                        True     Loaded, with the pods that have no sidecar,
//	                                                      and those that are tolerated
//
// The few that do not answer at all are tolerated (tolerable): they are not among
// those that do not run it. NoSidecar comes after what pods are still waited for
// with: once Loaded is False, they are not waited for any more.
func loadedVerdict(pods []Proof, output wasmev1.Output) condition.Verdict {
	if len(pods) == 0 {
		return condition.True(wasmev1.ReasonNoPods, "the workloads have no Ready pods; pods that start get the filter")
	}
	counted := count(pods, Proof.Counts)
	missing := filtered(pods, func(p Proof) bool { return p.Counts() && !p.Verified() })
	verified := counted - len(missing)
	silent := filtered(missing, Proof.silent)
	if tolerable(len(silent), verified, counted) {
		missing = filtered(missing, func(p Proof) bool { return !p.silent() })
	}
	overdue := filtered(missing, Proof.overdue)
	stale := filtered(overdue, func(p Proof) bool { return p.cause() == wasmev1.ReasonListenerRefused })
	explained := filtered(overdue, func(p Proof) bool {
		return p.cause() != wasmev1.ReasonUnreachable && p.cause() != wasmev1.ReasonListenerRefused
	})
	crashing := filtered(pods, func(p Proof) bool { return p.Counts() && p.Verified() && p.verdict.Crashing })
	injected := injectionOf(pods)
	switch {
	case len(crashing) > 0:
		return condition.False(wasmev1.ReasonCrashing, "the module crashes on requests in %d of %d pods (%s): see the logs of their sidecars", len(crashing), counted, podNames(crashing))
	case len(missing) > 0 && len(overdue) == 0:
		return condition.Unknown(wasmev1.ReasonLoading, "%d of %d pods run the revision", verified, counted)
	case len(explained) > 0:
		return missingVerdict(explained, len(overdue), counted)
	case len(injected.bare) > 0:
		return injected.verdict(len(pods))
	case len(stale) > 0:
		return condition.Unknown(wasmev1.ReasonListenerRefused, "%d of %d pods run the revision, but Envoy refused their newest listeners and keeps former ones (%s), in which filters that were deleted may still deny requests: fix what the sidecar's log says is refused, or restart the pods", len(stale), counted, podNames(stale))
	case len(missing) > 0:
		return condition.Unknown(wasmev1.ReasonUnreachable, "%d of %d pods do not answer at their sidecar's metrics port (%s): let the operator reach it, or turn verification off (--unverified-namespaces, or the annotation %s=false)", len(overdue), counted, podNames(overdue), wasmev1.VerifyPodsAnnotation)
	case counted == 0:
		return condition.True(wasmev1.ReasonNoPods, "all pods have just started, and get the filter%s", injected.note())
	}
	return condition.True(wasmev1.ReasonLoaded, "%d of %d pods run the filter%s%s%s", verified, counted, strength(output), silentNote(silent), injected.note())
}

// onePodIn is of how many pods one need not answer: of many pods, some are always
// on nodes that are lost, or are about to be.
const onePodIn = 100

// tolerable reports whether Loaded may be True while so many pods do not answer:
// one at least may be silent beside those that run the revision.
func tolerable(silent, verified, counted int) bool {
	return verified > 0 && silent <= max(1, counted/onePodIn)
}

func silentNote(silent []Proof) string {
	if len(silent) == 0 {
		return ""
	}
	return fmt.Sprintf("; %d (%s) gave no answer at their sidecar's metrics port, which is tolerated for so few", len(silent), podNames(silent))
}

// injection says which workloads have pods without a sidecar.
type injection struct {
	// bare are the workloads none of whose Ready pods has one, and half those of
	// whose pods some have one: `<name>: <without> of <pods>`. All counts both,
	// and the others.
	bare, half []string
	all        int
}

// injectionOf takes the pods of one workload after those of another.
func injectionOf(pods []Proof) injection {
	var found injection
	for len(pods) > 0 {
		end := slices.IndexFunc(pods, func(p Proof) bool { return p.workload != pods[0].workload })
		if end < 0 {
			end = len(pods)
		}
		without := count(pods[:end], func(p Proof) bool { return !p.sidecar })
		switch {
		case without == end:
			found.bare = append(found.bare, pods[0].workload)
		case without > 0:
			found.half = append(found.half, fmt.Sprintf("%s: %d of %d", pods[0].workload, without, end))
		}
		found.all++
		pods = pods[end:]
	}
	return found
}

func (i injection) verdict(pods int) condition.Verdict {
	const fix = "have sidecars injected (label istio-injection=enabled on the namespace) and restart the pods"
	if len(i.bare) == i.all {
		return condition.False(wasmev1.ReasonNoSidecar, "none of %d Ready pods has a sidecar that could run the filter: %s", pods, fix)
	}
	return condition.False(wasmev1.ReasonNoSidecar, "%d of %d workloads have no Ready pod with a sidecar that could run the filter (%s): %s, or select other workloads", len(i.bare), i.all, condition.Enumerate(i.bare, ", ", asIs), fix)
}

// note counts the pods that have no sidecar beside others that have one.
func (i injection) note() string {
	if len(i.half) == 0 {
		return ""
	}
	return fmt.Sprintf("; Ready pods without a sidecar run nothing (%s)", condition.Enumerate(i.half, ", ", asIs))
}

func asIs(text string) string { return text }

// strength says what a proof is worth: only an EnvoyFilter's shows the revision
// and, with FailReload, crashes.
func strength(output wasmev1.Output) string {
	if output == wasmev1.OutputEnvoyFilter {
		return " in this revision"
	}
	return fmt.Sprintf("; a %s does not show in which revision", output)
}

// missingVerdict says why pods do not run the revision: those that say so, of all
// that do not run it, of all that count.
func missingVerdict(explained []Proof, missing, counted int) condition.Verdict {
	causes := map[string][]Proof{}
	for _, p := range explained {
		causes[p.cause()] = append(causes[p.cause()], p)
	}
	most := mostFrequent(causes)
	v := condition.False(most, "%d of %d pods do not run the revision; %d of them (%s) %s", missing, counted, len(causes[most]), podNames(causes[most]), causeText(most, causes[most][0].tried))
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

// causeText says what a reason means, and what helps. What is only tried costs no request.
func causeText(reason string, tried bool) string {
	if reason == wasmev1.ReasonFetchFailed && !tried {
		return "could not fetch the module and deny requests, or let them pass unfiltered with FailOpen" + fetchFix
	}
	return causeTexts[reason]
}

const fetchFix = ": let the pods reach the operator's module server (a NetworkPolicy may block it), or the registry with distribution Registry"

var causeTexts = map[string]string{
	wasmev1.ReasonFetchFailed:   "could not fetch the module" + fetchFix,
	wasmev1.ReasonOlderRevision: "keep running an older revision, because Envoy refused the new one (its configuration, root id or module) or istiod has not sent it: the sidecar's log says which",
	wasmev1.ReasonRefused:       "do not run the filter, because Envoy refused it (its configuration, root id or module), refused another Wasm filter of the pod, which holds up those after it, has no place for it (an HTTP listener, spec.filter.ports, spec.filter.position), or was not sent it by istiod: the sidecar's log says which",
	wasmev1.ReasonNotLoaded:     "do not run the filter, and their pilot-agents do not answer why: let the operator reach port 15020 of the pods, or read the sidecar's log",
	wasmev1.ReasonNoListener:    "have no HTTP listener for the filter, or istiod has not sent it: name the port http or http-… in a Service, add a Gateway resource for a gateway, and check spec.filter.ports and spec.filter.patchContext",
	wasmev1.ReasonAnchorMissing: "have no HTTP filter with the name in spec.filter.position, or no HTTP listener: add that filter, or change the position",
}

func podNames(pods []Proof) string {
	return condition.Enumerate(pods, ", ", func(p Proof) string { return p.name })
}

// filtered returns what is to be kept, which mostly is little.
func filtered[T any](things []T, keep func(T) bool) []T {
	var kept []T
	for _, thing := range things {
		if keep(thing) {
			kept = append(kept, thing)
		}
	}
	return kept
}

func count[T any](things []T, counts func(T) bool) int {
	found := 0
	for i := range things {
		if counts(things[i]) {
			found++
		}
	}
	return found
}
