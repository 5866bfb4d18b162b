package rollout

import (
	"cmp"
	"math"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Load is what pods load at one time.
type Load struct {
	Pods int
	// Bytes are those of the modules that they fetch.
	Bytes int64
}

// DefaultLimit is what the pods of all FilterDeployments may load at one time: a tag that
// moves must not have hundreds of namespaces fetch at once.
var DefaultLimit = Load{Pods: 8 * MaxLoadingPods, Bytes: 2 * fetchingBytes}

// Budget hands out what the pods of all FilterDeployments may load at one time. Of those
// that wait, the one goes first in whose namespace the fewest pods load; of two, the one
// that has waited longer. A workload that is larger than the limit goes when nothing else
// loads. Decisions that are made side by side may exceed the limit by what they take.
type Budget struct {
	limit Load

	mu      sync.Mutex
	loads   map[types.NamespacedName]Load
	waiting map[types.NamespacedName]turn
}

// turn is that of one that waits, and that has asked for it again.
type turn struct{ since, asked time.Time }

// turnRecheck is how often one that waits asks again. One that has not asked for several
// times as long does not keep others waiting.
const (
	turnRecheck = 10 * time.Second
	turnExpiry  = 6 * turnRecheck
)

// NewBudget returns one with a limit.
func NewBudget(limit Load) *Budget {
	return &Budget{limit: limit, loads: map[types.NamespacedName]Load{}, waiting: map[types.NamespacedName]turn{}}
}

// Share is what the Budget leaves to one FilterDeployment. The zero value is no limit.
type Share struct {
	// limit is that of all, and elsewhere what pods load for others.
	limit, elsewhere Load
	// yields says that another one goes first.
	yields bool
}

// Share returns what is left to a FilterDeployment.
func (b *Budget) Share(name types.NamespacedName, now time.Time) Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Share{limit: b.limit}
	for other, load := range b.loads {
		if other != name {
			s.elsewhere.Pods += load.Pods
			s.elsewhere.Bytes += load.Bytes
		}
	}
	own, waits := b.waiting[name]
	if !waits {
		own.since = now
	}
	for other, turn := range b.waiting {
		s.yields = s.yields || other != name && now.Sub(turn.asked) < turnExpiry && b.goesFirst(other, turn, name, own)
	}
	return s
}

// goesFirst reports whether the turn of one FilterDeployment comes before another's.
func (b *Budget) goesFirst(one types.NamespacedName, ones turn, other types.NamespacedName, others turn) bool {
	order := cmp.Or(
		cmp.Compare(b.loading(one.Namespace), b.loading(other.Namespace)),
		ones.since.Compare(others.since),
		cmp.Compare(one.String(), other.String()))
	return order < 0
}

// loading returns the number of pods of a namespace that load.
func (b *Budget) loading(namespace string) int {
	pods := 0
	for name, load := range b.loads {
		if name.Namespace == namespace {
			pods += load.Pods
		}
	}
	return pods
}

// Settle notes what a plan takes, and whether it waits for its turn. It returns the
// FilterDeployment whose turn may have come by that, and whether there is one.
func (b *Budget) Settle(name types.NamespacedName, plan *Plan, now time.Time) (next types.NamespacedName, found bool) {
	return b.settle(name, plan.Load, plan.awaitsTurn(), now)
}

// Forget is Settle for one that loads nothing any more.
func (b *Budget) Forget(name types.NamespacedName, now time.Time) (next types.NamespacedName, found bool) {
	return b.settle(name, Load{}, false, now)
}

func (b *Budget) settle(name types.NamespacedName, load Load, waits bool, now time.Time) (next types.NamespacedName, found bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.loads[name]
	b.loads[name] = load
	if load == (Load{}) {
		delete(b.loads, name)
	}
	own, waited := b.waiting[name]
	if waits {
		if !waited {
			own.since = now
		}
		own.asked = now
		b.waiting[name] = own
	} else {
		delete(b.waiting, name)
	}
	if load.Pods >= before.Pods && (waits || !waited) {
		return next, false // nobody has more room, or comes sooner
	}
	var first turn
	for other, turn := range b.waiting {
		if !found || b.goesFirst(other, turn, next, first) {
			next, first, found = other, turn, true
		}
	}
	return next, found && next != name
}

// pods returns how many pods with a module of that size the share has room for.
func (s Share) pods(module wasmev1.ModuleStatus) int {
	switch {
	case s.yields:
		return 0
	case s.limit == Load{} || s.elsewhere.Pods == 0:
		return math.MaxInt
	}
	return max(0, min(s.limit.Pods-s.elsewhere.Pods, int((s.limit.Bytes-s.elsewhere.Bytes)/moduleBytes(module))))
}
