package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensions "istio.io/api/extensions/v1alpha1"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// crashWorkloads have a filter each, and as many have it by hand.
	crashWorkloads = 6
	// crashEvery is of how many requests one crashes the module, and crashPause the time
	// between two requests to a workload.
	crashEvery, crashPause = 100, 20 * time.Millisecond
	// crashWindow is how long failed requests are counted.
	crashWindow = 40 * time.Second
	// crashShare is the share of the requests that fail by hand, and takeBackBound the time
	// in seconds from the first crash to the last good revision everywhere.
	crashShare, takeBackBound = 0.02, 5.0
)

// crashes compares how many requests fail because of a module that crashes on some of them:
// under the operator, and with a WasmPlugin by hand.
func (r *stagedMesh) crashes(ctx context.Context, p *perf) error {
	ours, theirs, fd, err := r.bothCrash(ctx)
	if err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	counting, stop := context.WithTimeout(ctx, crashWindow)
	defer stop()
	operated, raw := &crashLoad{}, &crashLoad{}
	var group errgroup.Group
	for _, w := range ours {
		group.Go(func() error { return operated.ask(counting, w.URL) })
	}
	for _, w := range theirs {
		group.Go(func() error { return raw.ask(counting, w.URL) })
	}
	back, err := r.untilTakenBack(ctx, fd, ours)
	if err != nil {
		return err
	}
	if err := group.Wait(); err != nil {
		return err
	}
	p.table.add(row{
		name:     fmt.Sprintf("requests failed in %s: a module that crashes on 1 of %d, %d workloads, staged", crashWindow, crashEvery, crashWorkloads),
		measured: operated.String(), beside: "a WasmPlugin by hand: " + raw.String(),
		value: float64(operated.failed) / float64(max(raw.failed, 1)), unit: "%.4fx", bound: atMost(crashShare),
	})
	p.table.add(row{
		name: "first crash to the last good revision everywhere", measured: fmt.Sprint(back.Sub(operated.first).Round(time.Millisecond)), beside: "-",
		value: back.Sub(operated.first).Seconds(), unit: seconds, bound: atMost(takeBackBound),
	})
	return nil
}

// bothCrash has two times as many workloads get a module that crashes: under the operator,
// and with a WasmPlugin by hand.
func (r *stagedMesh) bothCrash(ctx context.Context) (ours, theirs []*mesh.Running, fd *wasmev1.FilterDeployment, err error) {
	names := make([]string, 0, crashWorkloads)
	for i := range crashWorkloads {
		names = append(names, fmt.Sprint("app-", i))
	}
	if ours, err = r.start(ctx, "crash-staged", names...); err != nil {
		return nil, nil, nil, err
	}
	if theirs, err = r.start(ctx, "crash-by-hand", names...); err != nil {
		return nil, nil, nil, err
	}
	image, err := r.push(ctx, "")
	if err != nil {
		return nil, nil, nil, err
	}
	fd = staged(filterDeployment("crash-staged", "trap", image, firstValue, nil), 10*time.Second)
	if err := r.apply(ctx, fd); err != nil {
		return nil, nil, nil, err
	}
	trap, content, err := r.pushTrap(ctx, "crashes")
	if err != nil {
		return nil, nil, nil, err
	}
	// Its module is served from now on: the plugin by hand has the same source.
	if err := r.update(ctx, fd, trap, firstValue); err != nil {
		return nil, nil, nil, err
	}
	byHand := &extensions.WasmPlugin{ObjectMeta: metav1.ObjectMeta{Namespace: "crash-by-hand", Name: "trap"}}
	byHand.Spec.Url, byHand.Spec.Sha256 = r.front.URL+module.Path(filters.SHA256(content)), filters.SHA256(content)
	byHand.Spec.PluginName, byHand.Spec.Type = filters.RootID, apiextensions.PluginType_HTTP
	return ours, theirs, fd, r.admin.Create(ctx, byHand)
}

// untilTakenBack returns when all workloads answer with the last good revision again.
func (r *stagedMesh) untilTakenBack(ctx context.Context, fd *wasmev1.FilterDeployment, running []*mesh.Running) (time.Time, error) {
	if err := r.awaitPhase(ctx, fd, "", wasmev1.RolloutRolledBack); err != nil {
		return time.Time{}, err
	}
	for _, w := range running {
		if err := (side{url: w.URL}).awaitHeader(ctx, firstValue); err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

// crashLoad counts requests, and when the first one failed.
type crashLoad struct {
	mu          sync.Mutex
	all, failed int
	first       time.Time
}

// ask sends requests, some of which crash the module, until the context ends.
func (l *crashLoad) ask(ctx context.Context, url string) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for i := 1; pause(ctx, crashPause) == nil; i++ {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		if i%crashEvery == 0 {
			request.Header.Set("x-crash", "yes")
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if ctx.Err() != nil {
			break
		}
		l.count(err == nil && response.StatusCode == http.StatusOK)
		if err == nil {
			_ = response.Body.Close()
		}
	}
	return nil
}

func (l *crashLoad) count(answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all++
	if answered {
		return
	}
	if l.failed++; l.failed == 1 {
		l.first = time.Now()
	}
}

func (l *crashLoad) String() string { return fmt.Sprintf("%d of %d requests", l.failed, l.all) }
