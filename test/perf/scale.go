package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	scaleNamespaces = 10
	scaleFilters    = 100 // per namespace
	scaleWorkloads  = 10  // per FilterDeployment

	scaleTimeout = 15 * time.Minute
	// memoryBound in MiB is what the manager may ever have resident.
	memoryBound = 200
)

// scaleWhat is what the operator holds and looks after.
const scaleWhat = "1,000 FilterDeployments, 10,000 workloads and pods"

// scale measures what the operator holds and does with 1,000 FilterDeployments
// over 10,000 workloads, each with a pod: its memory, as all of that is created
// under it and as it starts with all of it there, and what it writes and asks
// while nothing changes.
func (p *perf) scale(ctx context.Context) error {
	c, err := startPodsCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	operator, err := c.StartOperator(ctx, c.operator)
	if err != nil {
		return err
	}
	if err := c.populate(ctx); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	if err := p.memory(ctx, c.cluster, "as they come"); err != nil {
		return err
	}
	if err := operator.Stop(); err != nil {
		return err
	}
	asked := c.pods.count()
	if operator, err = c.StartOperator(ctx, c.operator); err != nil {
		return err
	}
	err = poll(ctx, "all pods to be asked", patience, func(context.Context) (bool, error) {
		return asked().pods == scaleNamespaces*scaleFilters*scaleWorkloads, nil
	})
	if err != nil {
		return err
	}
	if err := p.memory(ctx, c.cluster, "started with them there"); err != nil {
		return err
	}
	if err := p.writesOfStart(ctx, operator); err != nil {
		return err
	}
	asked = c.pods.count()
	if err := p.writesWhenIdle(ctx, c.cluster, operator); err != nil {
		return err
	}
	counted := asked()
	p.table.add(row{
		name:     "requests to sidecars meanwhile",
		measured: fmt.Sprintf("%d requests, %d pods", counted.requests, counted.pods),
		beside:   "right after a start some pods are asked sooner than once in a round",
		value:    counted.perSecond(),
		unit:     "%.1f a second",
	})
	return nil
}

// podsCluster is a cluster with Pods, whose sidecars are stand-ins.
type podsCluster struct {
	*cluster
	pods *podsMesh
	// operator has the same address after a restart, since it appears in the outputs,
	// and no leader election, so that every write of it counts.
	operator mesh.OperatorOptions
}

// startPodsCluster starts a cluster without an operator. The caller calls stop.
func startPodsCluster(ctx context.Context) (*podsCluster, error) {
	started, err := startCluster(ctx)
	if err != nil {
		return nil, err
	}
	c := &podsCluster{cluster: started, operator: mesh.OperatorOptions{Name: "operator"}}
	c.operator.ModuleServer, err = c.FreeAddress()
	if err == nil {
		c.pods, err = startPodsMesh(ctx, c.Admin())
	}
	if err != nil {
		c.cluster.stop()
		return nil, err
	}
	return c, nil
}

func (c *podsCluster) stop() {
	c.pods.Close()
	c.cluster.stop()
}

// populate creates it all and waits until every FilterDeployment is Ready.
func (c *podsCluster) populate(ctx context.Context) error {
	image, err := c.push(ctx, "")
	if err != nil {
		return err
	}
	for i := range scaleNamespaces {
		if err := c.createNamespace(ctx, fmt.Sprint("scale-", i)); err != nil {
			return err
		}
		if err := c.awaitServiceAccount(ctx, fmt.Sprint("scale-", i)); err != nil {
			return err
		}
	}
	filters := scaleNamespaces * scaleFilters
	begin := time.Now()
	err = parallel(ctx, creators, filters*scaleWorkloads, func(ctx context.Context, i int) error {
		namespace, group := fmt.Sprint("scale-", i%scaleNamespaces), fmt.Sprint("g-", i/scaleNamespaces%scaleFilters)
		workload := deployment(namespace, fmt.Sprint("app-", i), map[string]string{"group": group})
		if err := c.admin.Create(ctx, workload); err != nil {
			return err
		}
		return c.pods.createPod(ctx, c.cluster, i, workload)
	})
	if err != nil {
		return err
	}
	progress("%d workloads and pods created in %s", filters*scaleWorkloads, time.Since(begin).Round(time.Second))
	err = parallel(ctx, creators, filters, func(ctx context.Context, i int) error {
		namespace, group := fmt.Sprint("scale-", i%scaleNamespaces), fmt.Sprint("g-", i/scaleNamespaces)
		labels := map[string]wasmev1.LabelValue{"group": wasmev1.LabelValue(group)}
		return c.admin.Create(ctx, filterDeployment(namespace, "filter-"+group, image, group, labels))
	})
	if err != nil {
		return err
	}
	return c.awaitAllReady(ctx, scaleWorkloads, scaleWorkloads)
}

// awaitAllReady waits until every FilterDeployment is Ready, on so many workloads and pods.
func (c *cluster) awaitAllReady(ctx context.Context, workloads, pods int64) error {
	begin := time.Now()
	err := poll(ctx, "all FilterDeployments", scaleTimeout, func(ctx context.Context) (bool, error) {
		if err := pause(ctx, 2*time.Second); err != nil { // a listing is work for the API server
			return false, err
		}
		var list wasmev1.FilterDeploymentList
		if err := c.admin.List(ctx, &list); err != nil {
			return false, err
		}
		waits := slices.ContainsFunc(list.Items, func(fd wasmev1.FilterDeployment) bool {
			return !isReady(&fd) || *fd.Status.Summary.Programmed != workloads || *fd.Status.Summary.PodsLoaded != pods
		})
		return !waits, nil
	})
	progress("all Ready after %s", time.Since(begin).Round(time.Second))
	return err
}

// memory adds a row with what the operator's process has resident, and had at most.
func (p *perf) memory(ctx context.Context, c *cluster, when string) error {
	if err := settle(ctx); err != nil {
		return err
	}
	now, most, err := c.resident("operator")
	if err != nil {
		return err
	}
	p.table.add(row{
		name:     "memory, " + scaleWhat + ", " + when,
		measured: fmt.Sprintf("%.0f MiB, peak %.0f MiB", now, most),
		beside:   "-",
		value:    most,
		unit:     mebibytes,
		bound:    atMost(memoryBound),
	})
	return nil
}

// pidOf finds a process of the cluster.
func (c *cluster) pidOf(name string) (int, error) {
	content, err := os.ReadFile(filepath.Join(c.Folder(), "run", name+".json"))
	if err != nil {
		return 0, fmt.Errorf("finding the process: %w", err)
	}
	var record struct{ PID int }
	if err := json.Unmarshal(content, &record); err != nil {
		return 0, fmt.Errorf("finding the process: %w", err)
	}
	return record.PID, nil
}

// resident reads VmRSS and VmHWM of a process of the cluster, in MiB.
func (c *cluster) resident(name string) (now, most float64, err error) {
	pid, err := c.pidOf(name)
	if err != nil {
		return 0, 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("reading the memory of %s: %w", name, err)
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "VmRSS:":
			now, err = strconv.ParseFloat(fields[1], 64)
		case "VmHWM:":
			most, err = strconv.ParseFloat(fields[1], 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("reading %q: %w", line, err)
		}
	}
	return now / 1024, most / 1024, nil
}

// writesOfStart adds a row with what the operator wrote since it started with
// all of it there.
func (p *perf) writesOfStart(ctx context.Context, operator *mesh.Operator) error {
	writes, err := operatorsWrites(ctx, operator)
	if err != nil {
		return err
	}
	p.table.add(row{
		name:     "writes of a start with them there",
		measured: fmt.Sprintf("%.0f by the operator", writes),
		beside:   "-",
		value:    writes,
		unit:     count,
		bound:    atMost(0),
	})
	return nil
}

// writesWhenIdle counts the operator's writes in a window, and says of which
// resources the API server saw writes, of whatever user.
func (p *perf) writesWhenIdle(ctx context.Context, c *cluster, operator *mesh.Operator) error {
	progress("counting writes for %s", p.idle)
	begun, err := operatorsWrites(ctx, operator)
	if err != nil {
		return err
	}
	before, err := c.writesByResource(ctx)
	if err != nil {
		return err
	}
	if err := pause(ctx, p.idle); err != nil {
		return err
	}
	ended, err := operatorsWrites(ctx, operator)
	if err != nil {
		return err
	}
	after, err := c.writesByResource(ctx)
	if err != nil {
		return err
	}
	p.table.add(row{
		name:     fmt.Sprintf("writes in %s, %s", p.idle, scaleWhat),
		measured: fmt.Sprintf("%.0f by the operator", ended-begun),
		beside:   "by all users, Leases aside: " + difference(before, after),
		value:    ended - begun,
		unit:     count,
		bound:    atMost(0),
	})
	return nil
}

// operatorsWrites is what the operator itself counts.
func operatorsWrites(ctx context.Context, operator *mesh.Operator) (float64, error) {
	text, err := operatorsMetrics(ctx, operator)
	if err != nil {
		return 0, err
	}
	reads, all, sum := sumBy(text, "rest_client_requests_total", "method"), 0, 0.0
	for method, requests := range reads {
		all += int(requests)
		if isWrite(method) {
			sum += requests
		}
	}
	if all == 0 {
		return 0, fmt.Errorf("the operator's metrics at %s count no requests at all", operator.MetricsURL)
	}
	return sum, nil
}

// operatorsMetrics is the page of the operator's metrics.
func operatorsMetrics(ctx context.Context, operator *mesh.Operator) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, operator.MetricsURL, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("reading the operator's metrics: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("reading the operator's metrics: %w", err)
	}
	return string(text), nil
}

func isWrite(method string) bool {
	return slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, method)
}

// writesByResource are the API server's counts, Leases aside.
func (c *cluster) writesByResource(ctx context.Context) (map[string]float64, error) {
	clients, err := kubernetes.NewForConfig(c.Admin())
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	text, err := clients.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	var writes []string
	for line := range strings.Lines(string(text)) {
		if isWrite(label(line, "verb")) {
			writes = append(writes, line)
		}
	}
	counts := sumBy(strings.Join(writes, ""), "apiserver_request_total", "resource")
	delete(counts, "leases")
	return counts, nil
}

// difference names what has grown.
func difference(before, after map[string]float64) string {
	var parts []string
	for name, value := range after {
		if grown := value - before[name]; grown != 0 {
			parts = append(parts, fmt.Sprintf("%.0f %s", grown, name))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// sumBy adds up a metric, in Prometheus's text format, by one of its labels.
func sumBy(text, metric, by string) map[string]float64 {
	sums := map[string]float64{}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, metric+"{") {
			continue
		}
		line = strings.TrimSpace(line)
		if value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64); err == nil {
			sums[label(line, by)] += value
		}
	}
	return sums
}

// label is the value of a label in a line of Prometheus's text format.
func label(line, name string) string {
	match := regexp.MustCompile(`[{,]` + name + `="([^"]*)"`).FindStringSubmatch(line)
	if match == nil {
		return ""
	}
	return match[1]
}
