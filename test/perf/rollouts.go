package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// rolloutTimeout bounds the wait for a phase.
	rolloutTimeout = 5 * time.Minute
	// rolloutRequests are sent at least while rollouts go well and badly.
	rolloutRequests = 100_000
	// stagedRounds is how often each side changes the header.
	stagedRounds = 15
	// stagedBound is the time that a staged change may take more than an immediate one.
	stagedBound = 1.0
	// writesBound is how often one EnvoyFilter may be written in a rollout.
	writesBound = 3
	// stagedWorkloads have ten pods each.
	stagedWorkloads = 1000
)

// rollouts measures what staged rollouts, good and bad ones, cost those who ask.
func (p *perf) rollouts(ctx context.Context) error {
	c, started, err := startMesh(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	front, err := c.startFront()
	if err != nil {
		return err
	}
	defer func() { _ = front.Close() }()
	if _, err := c.StartOperator(ctx, mesh.OperatorOptions{ModuleServer: front.behind, Args: []string{"--module-server-url=" + front.URL}}); err != nil {
		return err
	}
	r := &stagedMesh{stagedCluster: stagedCluster{c}, mesh: started, front: front}
	for _, measure := range []func(context.Context, *perf) error{r.headers, r.requests, r.crashes} {
		if err := measure(ctx, p); err != nil {
			return err
		}
	}
	return p.stagedPods(ctx)
}

// stagedPods measures a staged rollout of another module over many pods, by stand-ins for
// sidecars.
func (p *perf) stagedPods(ctx context.Context) error {
	c, err := startPodsCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.StartOperator(ctx, c.operator); err != nil {
		return err
	}
	images := make([]string, 2)
	for i := range images {
		if images[i], err = c.push(ctx, fmt.Sprint("staged-", i)); err != nil {
			return err
		}
	}
	const namespace, each = "staged-pods", 10
	sets, err := c.createWorkloads(ctx, namespace, stagedWorkloads)
	if err != nil {
		return err
	}
	r := stagedCluster{c.cluster}
	fd := staged(filterDeployment(namespace, "hello", images[0], firstValue, nil), 0)
	if err := r.apply(ctx, fd); err != nil {
		return err
	}
	if err := c.startPods(ctx, sets, each); err != nil {
		return err
	}
	if err := c.awaitAllReady(ctx, stagedWorkloads, stagedWorkloads*each); err != nil {
		return err
	}
	took, err := stopwatch(func() error {
		return r.rollOut(ctx, fd, images[1], firstValue, wasmev1.RolloutComplete)
	})
	if err != nil {
		return err
	}
	p.table.add(row{
		name:     fmt.Sprintf("another module on %s workloads, %s pods, staged, bakeTime 0", thousands(stagedWorkloads), thousands(stagedWorkloads*each)),
		measured: fmt.Sprintf("%s, %d steps", took.Round(time.Millisecond), *fd.Status.Rollout.Step), beside: "-", value: took.Seconds(), unit: seconds,
	})
	return nil
}

// stagedCluster follows rollouts.
type stagedCluster struct{ *cluster }

// stagedMesh is a mesh whose sidecars fetch modules through a front.
type stagedMesh struct {
	stagedCluster
	mesh  *mesh.Mesh
	front *front
}

// front is before the module server, and can fail.
type front struct {
	*http.Server
	// URL is where sidecars ask, and behind the address (host:port) of the module server.
	URL, behind string
	fails       atomic.Bool
}

func (c *cluster) startFront() (*front, error) {
	own, err := c.FreeAddress()
	if err != nil {
		return nil, err
	}
	behind, err := c.FreeAddress()
	if err != nil {
		return nil, err
	}
	f := &front{URL: "http://" + own, behind: behind}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	f.Server = &http.Server{Addr: own, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.fails.Load() && r.Method == http.MethodGet {
			http.NotFound(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	})}
	go func() { _ = f.ListenAndServe() }()
	return f, nil
}

// pushTrap stores the filter that can crash. Those with another salt have another digest.
func (c *cluster) pushTrap(ctx context.Context, salt string) (image string, content []byte, err error) {
	if content, err = filters.Build(ctx, filters.Trap); err != nil {
		return "", nil, err
	}
	section := append([]byte{byte(len("salt"))}, "salt"+salt...)
	content = append(append(content, 0, byte(len(section))), section...)
	image, err = c.pushModule(ctx, "perf/trap:"+salt, content)
	return image, content, err
}

// start starts workloads in a namespace.
func (r *stagedMesh) start(ctx context.Context, namespace string, names ...string) ([]*mesh.Running, error) {
	running := make([]*mesh.Running, 0, len(names))
	for _, name := range names {
		w, err := r.mesh.StartWorkload(ctx, mesh.Workload{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}, Port: 9080, NativeSidecar: true})
		if err != nil {
			return nil, err
		}
		running = append(running, w)
	}
	return running, nil
}

// apply creates a FilterDeployment and waits until it is Ready, and complete when it is staged.
func (r stagedCluster) apply(ctx context.Context, fd *wasmev1.FilterDeployment) error {
	if err := r.admin.Create(ctx, fd); err != nil {
		return err
	}
	if fd.Spec.Rollout.Strategy == wasmev1.RolloutImmediate {
		return r.awaitReady(ctx, fd)
	}
	return r.awaitPhase(ctx, fd, "", wasmev1.RolloutComplete)
}

// awaitPhase waits until the rollout of another revision than before is so far.
func (r stagedCluster) awaitPhase(ctx context.Context, fd *wasmev1.FilterDeployment, before string, phase wasmev1.RolloutPhase) error {
	return poll(ctx, fmt.Sprintf("phase %s of FilterDeployment %s", phase, fd.Name), rolloutTimeout, func(ctx context.Context) (bool, error) {
		err := r.admin.Get(ctx, client.ObjectKeyFromObject(fd), fd)
		rollout := fd.Status.Rollout
		return err == nil && rollout != nil && rollout.To != before && rollout.Phase == phase, err
	})
}

// rollOut changes the image and the configuration, with one request, and waits until the
// rollout of that is so far.
func (r stagedCluster) rollOut(ctx context.Context, fd *wasmev1.FilterDeployment, image, configuration string, phase wasmev1.RolloutPhase) error {
	before := fd.Status.Rollout.To
	if err := r.update(ctx, fd, image, configuration); err != nil {
		return err
	}
	return r.awaitPhase(ctx, fd, before, phase)
}

func (r stagedCluster) update(ctx context.Context, fd *wasmev1.FilterDeployment, image, configuration string) error {
	patch := fmt.Appendf(nil, `{"spec":{"filter":{"image":%q,"config":%q}}}`, image, configuration)
	return r.admin.Patch(ctx, fd, client.RawPatch("application/merge-patch+json", patch))
}

// staged makes a FilterDeployment staged.
func staged(fd *wasmev1.FilterDeployment, bakeTime time.Duration) *wasmev1.FilterDeployment {
	fd.Spec.Rollout = &wasmev1.RolloutSpec{BakeTime: &metav1.Duration{Duration: bakeTime}}
	return fd
}

// headers compares how long a change takes to be seen, staged and at once.
func (r *stagedMesh) headers(ctx context.Context, p *perf) error {
	image, err := r.push(ctx, "")
	if err != nil {
		return err
	}
	var sides [2]side
	for i, namespace := range []string{"at-once", "in-steps"} {
		running, err := r.start(ctx, namespace, "app")
		if err != nil {
			return err
		}
		fd := filterDeployment(namespace, "hello", image, firstValue, nil)
		if i == 1 {
			fd = staged(fd, 0)
		}
		if err := r.apply(ctx, fd); err != nil {
			return err
		}
		sides[i] = side{url: running[0].URL, change: func(ctx context.Context, value string) error { return r.configure(ctx, fd, value) }}
	}
	var took [2]samples
	for i := range 2 * stagedRounds {
		which := (i/2 + i) % 2
		one, err := sides[which].timed(ctx, fmt.Sprint("header-", i))
		if err != nil {
			return err
		}
		took[which] = append(took[which], one)
	}
	p.table.add(row{
		name: "configuration changed to new header at Envoy, staged: more than at once", measured: took[1].String(), beside: "at once " + took[0].String(),
		value: (took[1].median() - took[0].median()).Seconds(), unit: "%.2f s", bound: atMost(stagedBound),
	})
	return nil
}

// requests counts what fails while rollouts go well and badly, what they write, and what
// the sidecar holds.
func (r *stagedMesh) requests(ctx context.Context, p *perf) error {
	running, err := r.start(ctx, "staged", "a", "b")
	if err != nil {
		return err
	}
	image, _, err := r.pushTrap(ctx, "first")
	if err != nil {
		return err
	}
	fd := staged(filterDeployment("staged", "trap", image, firstValue, nil), 0)
	if err := r.apply(ctx, fd); err != nil {
		return err
	}
	warm, _, err := r.pushTrap(ctx, "warm")
	if err != nil {
		return err
	}
	if err := r.rollOut(ctx, fd, warm, "warm", wasmev1.RolloutComplete); err != nil {
		return err
	}
	if err := r.oneRollout(ctx, p, fd, running); err != nil {
		return err
	}
	loads := []*stream{startLoad(ctx, running[0].URL), startLoad(ctx, running[1].URL)}
	rounds := 0
	for ; err == nil && loads[0].all.Load()+loads[1].all.Load() < rolloutRequests; rounds++ {
		err = r.goodAndBad(ctx, fd, fmt.Sprint("round-", rounds))
	}
	var all, failed int64
	for _, load := range loads {
		asked, lost := load.stop()
		all, failed = all+asked, failed+lost
	}
	if err != nil {
		return err
	}
	p.table.add(row{
		name:     fmt.Sprintf("requests failed over %d rounds of a refused configuration, a failed fetch and another module, staged", rounds),
		measured: fmt.Sprintf("%d of %d requests", failed, all), beside: "-", value: float64(failed), unit: count, bound: atMost(0),
	})
	return nil
}

// oneRollout brings another module to two workloads while nothing else happens.
func (r *stagedMesh) oneRollout(ctx context.Context, p *perf, fd *wasmev1.FilterDeployment, running []*mesh.Running) error {
	if err := settle(ctx); err != nil {
		return err
	}
	before, err := r.writesByResource(ctx)
	if err != nil {
		return err
	}
	rested, err := envoyMemory(running[0])
	if err != nil {
		return err
	}
	image, _, err := r.pushTrap(ctx, "measured")
	if err != nil {
		return err
	}
	watched, most := context.WithCancel(ctx)
	peak := make(chan float64, 1)
	go func() { peak <- highest(watched, running[0]) }()
	err = r.rollOut(ctx, fd, image, "measured", wasmev1.RolloutComplete)
	most()
	during := <-peak
	if err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return err
	}
	after, err := envoyMemory(running[0])
	if err != nil {
		return err
	}
	writes, err := r.writesByResource(ctx)
	if err != nil {
		return err
	}
	each := (writes["envoyfilters"] - before["envoyfilters"]) / float64(len(running))
	p.table.add(row{name: "writes of an EnvoyFilter in a staged rollout", measured: difference(before, writes), beside: "of all users, 2 workloads", value: each, unit: "%.1f", bound: atMost(writesBound)})
	p.table.add(row{name: "sidecar's memory after a staged rollout of another module", measured: fmt.Sprintf("%.0f MiB, at most %.0f meanwhile", after, during), beside: fmt.Sprintf("%.0f MiB before", rested), value: after / rested, unit: ratio})
	return nil
}

// highest is the most that a sidecar's Envoy has resident until the context ends, in MiB.
func highest(ctx context.Context, running *mesh.Running) float64 {
	most := 0.0
	for pause(ctx, 20*time.Millisecond) == nil {
		if now, err := envoyMemory(running); err == nil {
			most = max(most, now)
		}
	}
	return most
}

// envoyMemory is what a sidecar's Envoy has resident, in MiB.
func envoyMemory(running *mesh.Running) (float64, error) {
	folder := fmt.Sprintf("/pods/%s.%s/envoy/", running.Workload.Namespace, running.Pod)
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, command := range commands {
		content, err := os.ReadFile(command)
		if err != nil || !strings.Contains(string(content), folder) || strings.Contains(string(content), "pilot-agent") {
			continue
		}
		statm, err := os.ReadFile(filepath.Join(filepath.Dir(command), "statm"))
		if err != nil {
			return 0, err
		}
		var size, resident int
		if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
			return 0, fmt.Errorf("reading the memory of %s: %w", running.Pod, err)
		}
		return float64(resident*os.Getpagesize()) / (1 << 20), nil
	}
	return 0, fmt.Errorf("there is no Envoy of %s", running.Pod)
}

// goodAndBad rolls out another module, then a configuration that is refused, then a module
// that cannot be fetched.
func (r *stagedMesh) goodAndBad(ctx context.Context, fd *wasmev1.FilterDeployment, salt string) error {
	good, _, err := r.pushTrap(ctx, salt)
	if err != nil {
		return err
	}
	lost, _, err := r.pushTrap(ctx, salt+"-lost")
	if err != nil {
		return err
	}
	if err := r.rollOut(ctx, fd, good, salt, wasmev1.RolloutComplete); err != nil {
		return err
	}
	if err := r.rollOut(ctx, fd, good, filters.RefusedConfiguration, wasmev1.RolloutRolledBack); err != nil {
		return err
	}
	r.front.fails.Store(true)
	defer r.front.fails.Store(false)
	return r.rollOut(ctx, fd, lost, salt, wasmev1.RolloutRolledBack)
}
