// Package dataplane finds out what pods really run. It asks each sidecar for its
// metrics, which needs neither exec nor port-forward nor any right in the cluster. A
// plugin that Envoy has loaded has rows there, under a name that contains the
// filter's revision.
//
// One Prober asks for all filters. Owners, which are FilterDeployments, call Expect
// with the plugin that each of their pods should run. They get the verdicts that are
// known, and are woken when one of them changes. A pod is asked once, however many
// filters it should run:
//
//   - While any verdict is open, it is asked soon after a change, and then less and
//     less often. A plugin counts as loaded once two answers in a row show it.
//   - When everything is verified, it is asked once per period. Each pod has its own
//     moment in the period, so that the load is even.
//
// Pods that do not answer must not delay those that do. Every pod is first asked in
// the quick lane, whose short time is enough for a sidecar that works. One that needs
// more time is asked again in the patient lane.
//
// In reading order: verdict.go holds what is said of a pod, and how it follows from
// the rows that the pod shows. text.go reads these rows from an answer. pod.go holds
// what is known of a pod from one answer to the next, and schedule.go says when it is
// asked again. scrape.go asks one sidecar, and prober.go runs it all. Only the last
// two do anything but compute.
package dataplane

import (
	"context"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
)

const (
	// quickTime is many times what a sidecar needs (2 ms), and patientTime is what one
	// can need on an overloaded node.
	quickTime   = 250 * time.Millisecond
	patientTime = 2 * time.Second
	// The quickWorkers ask pods that answer, faster than the machine can send requests.
	// The patientWorkers wait, which costs almost nothing, for about 128 dead pods a
	// second.
	quickWorkers   = 64
	patientWorkers = 256
)

// The ports at which Istio serves metrics unless a pod says otherwise.
const (
	// DefaultStatsPort is that of Envoy, the container port named http-envoy-prom.
	DefaultStatsPort = 15090
	// DefaultAgentPort is that of pilot-agent, which the annotation
	// status.sidecar.istio.io/port changes.
	DefaultAgentPort = 15020
)

// Pod says where a pod's sidecar can be asked.
type Pod struct {
	// UID of the pod.
	UID types.UID
	// Address is the pod's IP, v4 or v6, and never a name.
	Address netip.Addr
	// StatsPort is where its Envoy serves metrics; 0 means DefaultStatsPort.
	StatsPort uint16
	// AgentPort is where its pilot-agent serves metrics; 0 means DefaultAgentPort.
	AgentPort uint16
}

// Expectation is a plugin that a pod should run.
type Expectation struct {
	// Pod that should run it.
	Pod Pod
	// Plugin is the name of the plugin's configuration in Envoy: config.name,
	// `wasm_filter.<…>@<revision>`, or `<namespace>.<name>` for a WasmPlugin or
	// TrafficExtension. The latter has no revision, so any revision counts as loaded.
	Plugin string
	// Explain says that pilot-agent is asked, too, whenever the plugin is not there.
	// Verdict.Fetch is its answer.
	Explain bool
	// Watch says that the pod is asked each second, although it runs the plugin, whose
	// module may crash.
	Watch bool
	// Attempt counts how often istiod was made to send the plugin again, after which the
	// pod is asked soon.
	Attempt int
	// ProvedBefore says that pods proved the plugin before this process asked them: what
	// they refused before the first look is older than that.
	ProvedBefore bool
	// Count says which requests of the pod are counted.
	Count Count
}

// Prober asks pods what they run. Its methods can be called concurrently.
type Prober struct {
	wake           func(owner types.NamespacedName)
	scraper        *scraper
	quick, patient *lane
	seed           maphash.Seed

	mu     sync.Mutex
	pods   map[types.UID]*pod
	owners map[types.NamespacedName][]types.UID
	round  uint64
}

// lane is a queue of pods with its own workers.
type lane struct {
	queue workqueue.TypedDelayingInterface[types.UID]
	// workers is how many pods are asked at once, and patience how long each of them
	// has for an answer.
	workers  int
	patience time.Duration
	// asksAgents says that pilot-agents are asked for Envoys that do not answer.
	asksAgents bool
}

// New returns a Prober that asks no pod before it is started. It calls wake with an
// owner when a verdict on one of the owner's expectations has changed. wake must not block
// for long, and can call Expect.
func New(wake func(owner types.NamespacedName)) *Prober {
	return &Prober{
		wake:    wake,
		scraper: newScraper(),
		quick:   &lane{queue: workqueue.NewTypedDelayingQueue[types.UID](), workers: quickWorkers, patience: quickTime},
		patient: &lane{queue: workqueue.NewTypedDelayingQueue[types.UID](), workers: patientWorkers, patience: patientTime, asksAgents: true},
		seed:    maphash.MakeSeed(),
		pods:    map[types.UID]*pod{},
		owners:  map[types.NamespacedName][]types.UID{},
	}
}

// NeedLeaderElection returns true: only the replica that reconciles asks pods.
func (p *Prober) NeedLeaderElection() bool { return true }

// Start asks pods until ctx ends. It implements manager.Runnable.
func (p *Prober) Start(ctx context.Context) error {
	var workers sync.WaitGroup
	for _, l := range []*lane{p.quick, p.patient} {
		for range l.workers {
			workers.Go(func() {
				for p.work(ctx, l) {
				}
			})
		}
	}
	<-ctx.Done()
	p.quick.queue.ShutDown()
	p.patient.queue.ShutDown()
	workers.Wait()
	return nil
}

// Expect replaces the expectations of an owner, which has at most one for each pod and
// filter, and returns what is known of them, in their order. It asks no pod itself and never
// blocks on anything remote. Pods that are no longer in any owner's expectations are
// forgotten, and an owner without expectations as well.
func (p *Prober) Expect(owner types.NamespacedName, expectations []Expectation) []Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	former := p.owners[owner]
	p.round++
	now := time.Now()
	verdicts := make([]Verdict, 0, len(expectations))
	uids := make([]types.UID, 0, len(expectations))
	for _, expected := range expectations {
		w := p.expect(owner, expected, now)
		w.round = p.round
		verdicts = append(verdicts, w.verdict)
		uids = append(uids, expected.Pod.UID)
	}
	for _, uid := range former {
		p.release(owner, uid)
	}
	if p.owners[owner] = uids; len(uids) == 0 {
		delete(p.owners, owner)
	}
	return verdicts
}

// Seen is what is known of a pod, as one owner asked for it.
type Seen struct {
	// Plugin is what the owner expected of the pod when it asked last; empty when
	// it never did, or the pod has another address now.
	Plugin string
	// Verdict is on that plugin.
	Verdict Verdict
	// Window is what was counted beside it, if its Expectation had a Count.
	Window Window
	// Other is what the owner expected of the pod beside it; nil for nothing.
	Other *Seen
}

// On returns the verdict on a plugin: the zero value when only others were expected.
func (s Seen) On(plugin string) Verdict { return s.of(plugin).Verdict }

// Beside returns what was counted beside a plugin: the zero value for nothing.
func (s Seen) Beside(plugin string) Window { return s.of(plugin).Window }

func (s Seen) of(plugin string) Seen {
	for known := &s; known != nil; known = known.Other {
		if known.Plugin == plugin {
			return *known
		}
	}
	return Seen{}
}

// Seen returns what is known of pods that the owner asked for, in their order.
// It changes nothing.
func (p *Prober) Seen(owner types.NamespacedName, pods []Pod) []Seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := make([]Seen, len(pods))
	for i, at := range pods {
		known := p.pods[at.UID]
		if known != nil && known.Pod == at {
			seen[i] = known.seenBy(owner)
		}
	}
	return seen
}

// expect takes over one expectation, and has the pod asked soon if something about it is new.
func (p *Prober) expect(owner types.NamespacedName, expected Expectation, now time.Time) *watch {
	known := p.pods[expected.Pod.UID]
	if known == nil {
		known = &pod{Pod: expected.Pod}
		p.pods[expected.Pod.UID] = known
	}
	w := known.watchOf(owner, expected.Plugin)
	if w == nil {
		w = &watch{owner: owner}
		known.watches = append(known.watches, w)
	}
	moved, news := known.moveTo(expected.Pod), w.want(expected)
	if moved || news {
		known.attempts = 0
		w.verdict = known.verdictOn(w, now)
		if !known.running {
			p.plan(known, retryDelay(0))
		}
	}
	return w
}

// release drops an expectation that an owner had before, and that this round of Expect did
// not repeat.
func (p *Prober) release(owner types.NamespacedName, uid types.UID) {
	known := p.pods[uid]
	if known == nil {
		return
	}
	known.watches = slices.DeleteFunc(known.watches, func(w *watch) bool {
		return w.owner == owner && w.round != p.round
	})
	if len(known.watches) == 0 {
		delete(p.pods, uid)
	}
}

// work asks one pod of a lane. It returns false when the lane has shut down.
func (p *Prober) work(ctx context.Context, l *lane) bool {
	uid, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(uid)
	if j := p.begin(uid, l); j != nil {
		p.end(ctx, j, p.scraper.look(ctx, j))
	}
	return true
}

// job is a pod that a worker of a lane asks.
type job struct {
	pod  *pod
	lane *lane
	// at is where the pod was when the worker began.
	at Pod
	// explain holds the plugins whose absence pilot-agent can explain.
	explain []string
	// viaAgent says that its pilot-agent answered for its Envoy before.
	viaAgent bool
	// counts says that the pod's requests are counted.
	counts bool
}

// begin returns nil when nobody expects anything of the pod any more, when it is being
// asked already, or when it is to be asked later or in the other lane.
func (p *Prober) begin(uid types.UID, l *lane) *job {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.pods[uid]
	if known == nil || known.running {
		return nil
	}
	right, early := p.laneOf(known), time.Until(known.due)
	if right != l || early > 0 {
		// A queue keeps the earlier of two times, and a pod that was forgotten or that
		// changed lanes is still in its queue.
		right.queue.AddAfter(uid, early)
		return nil
	}
	known.running = true
	return &job{pod: known, lane: l, at: known.Pod, explain: known.unexplained(), viaAgent: known.viaAgent, counts: known.counts()}
}

// end records what a worker saw and wakes the owners for whom it changes something.
func (p *Prober) end(ctx context.Context, j *job, s sight) {
	if ctx.Err() != nil {
		return
	}
	for owner := range p.record(j, s) {
		p.wake(owner)
	}
}

// record returns the owners to wake, and plans the pod's next probe.
func (p *Prober) record(j *job, s sight) sets.Set[types.NamespacedName] {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := j.pod
	if p.pods[known.UID] != known {
		return nil
	}
	known.running = false
	if known.Pod != j.at {
		p.plan(known, retryDelay(0))
		return nil
	}
	known.slow = s.failure != "" || s.took > quickTime
	now := time.Now()
	known.see(s, now)
	woken := known.judge(now)
	known.count(s.traffic)
	if s.failure == "" && (woken.Len() > 0 || known.unsure()) {
		known.attempts = 0
	}
	p.planNext(known)
	return woken
}
