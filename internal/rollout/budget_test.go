package rollout

import (
	"math"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// hall is a budget with a clock, for FilterDeployments that load small modules.
type hall struct {
	*Budget
	Gomega
	now time.Time
}

func newHall(t *testing.T, pods int) *hall {
	t.Helper()
	return &hall{NewBudget(Load{Pods: pods, Bytes: 1 << 30}), NewWithT(t), time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
}

func one(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// room is how many pods one may have load.
func (h *hall) room(name types.NamespacedName) int {
	return h.Share(name, h.now).pods(wasmev1.ModuleStatus{SizeBytes: new(int64(1 << 20))})
}

// loads has pods of one load, and returns whose turn that brings; nobody is the zero value.
func (h *hall) loads(name types.NamespacedName, pods int) types.NamespacedName {
	next, _ := h.settle(name, Load{Pods: pods, Bytes: int64(pods) << 20}, false, h.now)
	return next
}

// waits has one wait for its turn while some of its pods load.
func (h *hall) waits(name types.NamespacedName, pods int) {
	h.now = h.now.Add(time.Second)
	_, found := h.settle(name, Load{Pods: pods, Bytes: int64(pods) << 20}, true, h.now)
	h.Expect(found).To(BeFalse(), "who begins to wait leaves nothing to others")
}

func TestTheBudgetLeavesWhatOthersDoNotTake(t *testing.T) {
	h := newHall(t, 100)
	a, b := one("a", "f"), one("b", "f")
	h.Expect(h.room(a)).To(Equal(math.MaxInt), "one alone has its own limit")
	h.loads(a, 60)
	h.Expect(h.room(a)).To(Equal(math.MaxInt))
	h.Expect(h.room(b)).To(Equal(40))
	h.loads(b, 50)
	h.Expect(h.room(one("c", "f"))).To(BeZero())
	h.Expect(h.Share(a, h.now).pods(wasmev1.ModuleStatus{SizeBytes: new(int64(512 << 20))})).To(Equal(1), "974 MiB are left")
	h.loads(a, 0)
	h.Expect(h.room(b)).To(Equal(math.MaxInt))
	h.Expect(h.Budget.loads).To(HaveLen(1), "nothing is kept of the others")
	h.Expect(Share{}.pods(wasmev1.ModuleStatus{})).To(Equal(math.MaxInt), "there is no budget")
}

func TestTurnsGoRoundTheNamespaces(t *testing.T) {
	h := newHall(t, 10)
	large, busy, quiet := one("large", "f"), one("busy", "g"), one("quiet", "f")
	h.loads(one("busy", "f"), 9)
	h.waits(busy, 0)
	h.waits(large, 0)
	h.Expect(h.room(large)).To(Equal(1), "nothing of its namespace loads")
	h.Expect(h.room(busy)).To(BeZero(), "it yields to large")
	h.waits(quiet, 0)
	h.Expect(h.room(quiet)).To(BeZero(), "it came later than large")
	h.Expect(h.room(one("new", "f"))).To(BeZero())

	h.Expect(h.loads(one("busy", "f"), 0)).To(Equal(busy), "it has waited for longest, and nothing loads")
	h.Expect(h.loads(busy, 5)).To(Equal(large), "its turn is over")
	h.Expect(h.loads(large, 5)).To(Equal(quiet))
	next, found := h.Forget(quiet, h.now)
	h.Expect(found).To(BeFalse(), "nobody waits, but %s is said to", next)
	h.Expect(h.Budget.waiting).To(BeEmpty())
}

func TestAllThatANamespaceLoadsCounts(t *testing.T) {
	h := newHall(t, 100)
	h.loads(one("busy", "f"), 3)
	h.loads(one("busy", "g"), 3)
	h.loads(one("other", "f"), 5)
	busy, other := one("busy", "h"), one("other", "h")
	h.waits(busy, 0)
	h.waits(other, 0)
	h.Expect(h.room(busy)).To(BeZero(), "it has waited for longer, but more of its namespace loads")
	h.Expect(h.room(other)).To(Equal(89))
}

func TestWhoWaitsForLongerGoesFirst(t *testing.T) {
	h := newHall(t, 10)
	h.loads(one("busy", "f"), 5)
	late, early := one("a", "f"), one("z", "f")
	h.waits(early, 0)
	h.waits(late, 0)
	h.waits(early, 0)
	h.Expect(h.room(early)).To(Equal(5))
	h.Expect(h.room(late)).To(BeZero())
}

func TestTheDefaultLimitLeavesRoomForLargeModules(t *testing.T) {
	b := NewBudget(DefaultLimit)
	now := time.Unix(1000, 0)
	b.settle(one("a", "f"), Load{Pods: 1, Bytes: 1 << 20}, false, now)
	if room := b.Share(one("b", "f"), now).pods(wasmev1.ModuleStatus{SizeBytes: new(int64(64 << 20))}); room < 1 {
		t.Errorf("there is room for %d pods", room)
	}
}

func TestOneThatIsGoneKeepsNobodyWaiting(t *testing.T) {
	h := newHall(t, 10)
	a, b := one("a", "f"), one("b", "f")
	h.loads(one("c", "f"), 5)
	h.waits(a, 0)
	h.waits(b, 0)
	h.Expect(h.room(b)).To(BeZero())
	h.Expect(h.room(a)).To(Equal(5), "it has waited for longer")
	h.now = h.now.Add(turnExpiry)
	h.Expect(h.room(b)).To(Equal(5), "a has not asked for its turn again")

	h.waits(a, 0)
	h.Expect(h.room(b)).To(BeZero())
	next, found := h.Forget(a, h.now)
	h.Expect(found).To(BeTrue())
	h.Expect(next).To(Equal(b))
	h.Expect(h.room(b)).To(Equal(5))
}

func TestAPlanTakesItsLoadFromTheBudget(t *testing.T) {
	h := newHall(t, 4)
	first, second := newStory(t), newStory(t)
	second.state.Owner.Namespace = "another"
	for _, s := range []*story{first, second} {
		s.state.Targets = []Target{target("a", 3)}
		s.asks("aa", 1<<20, "world")
	}
	pass := func(s *story) (types.NamespacedName, bool) {
		s.state.Share = h.Share(s.state.Owner, h.now)
		s.happens("")
		return h.Settle(s.state.Owner, &s.plan, h.now)
	}
	_, found := pass(first)
	h.Expect(found).To(BeFalse())
	h.Expect(first.plan.Load).To(Equal(Load{Pods: 3, Bytes: 3 << 20}))
	pass(second)
	h.Expect(second.plan.Load).To(Equal(Load{}))
	h.Expect(second.plan.Workloads[0].Phase).To(Equal(AwaitingTurn))
	h.Expect(second.plan.Again).To(Equal(turnRecheck))
	h.Expect(second.plan.Programmed.Reason).To(Equal(wasmev1.ReasonSpreading))

	first.see("a", 3, runs)
	next, _ := pass(first)
	h.Expect(next).To(Equal(second.state.Owner))
	pass(second)
	h.Expect(second.plan.Workloads[0].Phase).To(Equal(Programmed))
}
