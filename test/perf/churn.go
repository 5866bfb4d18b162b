package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	churnNamespace = "churn"
	churnWorkloads = 5000
	churnFilters   = 10 // on each workload
	churnPods      = 10 // per workload
	// churnShare of the pods is replaced each minute, and churnTime is how long.
	churnShare = 0.01
	churnTime  = time.Minute
	// statusInterval is the least time between two writes of one status that pods cause.
	statusInterval = 5 * time.Second
	// churnBound is the share of a processor that the operator may take.
	churnBound = 0.5
)

const churnWhat = "10 FilterDeployments on each of 5,000 workloads, 50,000 pods, 1 % of them replaced in a minute"

// churn measures what the operator does while pods come and go: its processor time,
// its memory, and how often it writes a status.
func (p *perf) churn(ctx context.Context) error {
	c, err := startPodsCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	sets, err := c.populateChurn(ctx)
	if err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	if err := c.programChurn(ctx); err != nil {
		return err
	}
	if err := c.startPods(ctx, sets, churnPods); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	operator, err := c.StartOperator(ctx, c.operator)
	if err != nil {
		return err
	}
	if err := c.awaitAllReady(ctx, churnWorkloads, churnWorkloads*churnPods); err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return err
	}
	return p.replacePods(ctx, c, operator, sets)
}

// populateChurn creates the workloads and FilterDeployments, and returns the ReplicaSets.
func (c *podsCluster) populateChurn(ctx context.Context) ([]*appsv1.ReplicaSet, error) {
	image, err := c.push(ctx, "")
	if err != nil {
		return nil, err
	}
	sets, err := c.createWorkloads(ctx, churnNamespace, churnWorkloads)
	if err != nil {
		return nil, err
	}
	for i := range churnFilters {
		fd := filterDeployment(churnNamespace, fmt.Sprint("filter-", i), image, fmt.Sprint("number ", i), nil)
		if err := c.admin.Create(ctx, fd); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// createWorkloads creates a namespace with so many workloads, and returns their ReplicaSets.
func (c *podsCluster) createWorkloads(ctx context.Context, namespace string, count int) ([]*appsv1.ReplicaSet, error) {
	if err := c.createNamespace(ctx, namespace); err != nil {
		return nil, err
	}
	if err := c.awaitServiceAccount(ctx, namespace); err != nil {
		return nil, err
	}
	begin := time.Now()
	sets := make([]*appsv1.ReplicaSet, count)
	err := parallel(ctx, creators, count, func(ctx context.Context, i int) error {
		workload := deployment(namespace, fmt.Sprint("app-", i), nil)
		if err := c.admin.Create(ctx, workload); err != nil {
			return err
		}
		var err error
		sets[i], err = c.createReplicaSet(ctx, workload)
		return err
	})
	progress("%d workloads created in %s", count, time.Since(begin).Round(time.Second))
	return sets, err
}

// programChurn has an operator write all outputs before there are pods, which would get
// them in waves.
func (c *podsCluster) programChurn(ctx context.Context) error {
	operator, err := c.StartOperator(ctx, c.operator)
	if err != nil {
		return err
	}
	if err := c.awaitAllReady(ctx, churnWorkloads, 0); err != nil {
		return err
	}
	return operator.Stop()
}

// startPods creates so many pods of each workload.
func (c *podsCluster) startPods(ctx context.Context, sets []*appsv1.ReplicaSet, each int) error {
	begin := time.Now()
	err := parallel(ctx, creators, len(sets), func(ctx context.Context, i int) error {
		for pod := range each {
			if err := c.startPod(ctx, sets[i], i*each+pod); err != nil {
				return err
			}
		}
		return nil
	})
	progress("%d pods created in %s", len(sets)*each, time.Since(begin).Round(time.Second))
	return err
}

// startPod creates the pod with this number, of a Deployment's ReplicaSet.
func (c *podsCluster) startPod(ctx context.Context, set *appsv1.ReplicaSet, number int) error {
	workload := deployment(set.Namespace, strings.TrimSuffix(set.Name, "-"+templateHash), nil)
	return c.pods.createPodOf(ctx, c.cluster, number, workload, set)
}

// replacePods replaces pods one by one, at an even pace, and adds the rows.
func (p *perf) replacePods(ctx context.Context, c *podsCluster, operator *mesh.Operator, sets []*appsv1.ReplicaSet) error {
	begun, err := c.processorTimeOf("operator")
	if err != nil {
		return err
	}
	writesBefore, err := operatorsWrites(ctx, operator)
	if err != nil {
		return err
	}
	all := churnWorkloads * churnPods
	replaced := int(churnShare * float64(all))
	next := time.NewTicker(churnTime / time.Duration(replaced))
	defer next.Stop()
	for i := range replaced {
		set := sets[i*len(sets)/replaced]
		if err := c.replacePod(ctx, set, i*len(sets)/replaced*churnPods, all+i); err != nil {
			return err
		}
		<-next.C
	}
	ended, err := c.processorTimeOf("operator")
	if err != nil {
		return err
	}
	writesAfter, err := operatorsWrites(ctx, operator)
	if err != nil {
		return err
	}
	used := (ended - begun).Seconds() / churnTime.Seconds()
	p.table.add(row{name: "processors in use, " + churnWhat, measured: fmt.Sprintf("%.1f s in %s", (ended - begun).Seconds(), churnTime), beside: "-", value: used, unit: "%.2f", bound: atMost(churnBound)})
	writes := writesAfter - writesBefore
	p.table.add(row{name: "writes of a status, " + churnWhat, measured: fmt.Sprintf("%.0f writes", writes), beside: fmt.Sprintf("one a FilterDeployment and %s", statusInterval), value: writes / churnFilters / (churnTime.Seconds() / statusInterval.Seconds()), unit: ratio, bound: atMost(1)})
	now, most, err := c.resident("operator")
	if err != nil {
		return err
	}
	p.table.add(row{name: "memory, " + churnWhat, measured: fmt.Sprintf("%.0f MiB, peak %.0f MiB", now, most), beside: "-", value: most, unit: mebibytes})
	return nil
}

func (c *podsCluster) replacePod(ctx context.Context, set *appsv1.ReplicaSet, old, number int) error {
	gone := injectedPod(set, set.Spec.Template, 0)
	gone.Name = podName(set, old)
	if err := c.admin.Delete(ctx, gone, client.GracePeriodSeconds(0)); err != nil {
		return err
	}
	return c.startPod(ctx, set, number)
}

// processorTimeOf is what a process of the cluster used of processors so far.
func (c *cluster) processorTimeOf(name string) (time.Duration, error) {
	pid, err := c.pidOf(name)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the times of %s: %w", name, err)
	}
	// proc(5): after the command, in brackets, utime and stime are the 12th and 13th.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const perSecond = 100 // USER_HZ
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the times of %s: %w", name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// createReplicaSet creates the ReplicaSet of a Deployment: without one, its pods would
// be garbage.
func (c *cluster) createReplicaSet(ctx context.Context, of *appsv1.Deployment) (*appsv1.ReplicaSet, error) {
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: of.Namespace, Name: of.Name + "-" + templateHash, Labels: of.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(of, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Selector: of.Spec.Selector, Template: of.Spec.Template},
	}
	return set, c.admin.Create(ctx, set)
}
