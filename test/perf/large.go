package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	largeNamespace = "large"
	largeFilters   = 4000 // a GiB of configuration, twice what the container may take
	// largeCreators is the number of large objects created at once.
	largeCreators = 8
	// limitBound in MiB is the limit of the operator's container in config/manager.
	limitBound = 512
)

// large measures the memory of the operator with as much configuration as a cluster can
// hold: as it comes, and as the operator starts with all of it there.
func (p *perf) large(ctx context.Context) error {
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	address, err := c.FreeAddress()
	if err != nil {
		return err
	}
	options := mesh.OperatorOptions{Name: "operator", ModuleServer: address}
	operator, err := c.StartOperator(ctx, options)
	if err != nil {
		return err
	}
	if err := c.populateLarge(ctx); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	if err := p.memoryOfLarge(ctx, c, "as they come"); err != nil {
		return err
	}
	if err := operator.Stop(); err != nil {
		return err
	}
	if _, err := c.StartOperator(ctx, options); err != nil {
		return err
	}
	return p.memoryOfLarge(ctx, c, "started with them there")
}

// populateLarge creates the FilterDeployments and waits until their revisions are kept.
func (c *cluster) populateLarge(ctx context.Context) error {
	image, err := c.push(ctx, "")
	if err != nil {
		return err
	}
	if err := c.createNamespace(ctx, largeNamespace); err != nil {
		return err
	}
	begin := time.Now()
	text := strings.Repeat("x", wasmev1.MaxConfigurationBytes-32)
	err = parallel(ctx, largeCreators, largeFilters, func(ctx context.Context, i int) error {
		return c.admin.Create(ctx, filterDeployment(largeNamespace, fmt.Sprint("filter-", i), image, fmt.Sprint(i, text), nil))
	})
	if err != nil {
		return err
	}
	progress("%d FilterDeployments created in %s", largeFilters, time.Since(begin).Round(time.Second))
	return poll(ctx, "all revisions", scaleTimeout, func(ctx context.Context) (bool, error) {
		if err := pause(ctx, 2*time.Second); err != nil {
			return false, err
		}
		kept := &metav1.PartialObjectMetadataList{}
		kept.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("ControllerRevisionList"))
		err := c.admin.List(ctx, kept, client.InNamespace(largeNamespace))
		return len(kept.Items) == largeFilters, err
	})
}

func (p *perf) memoryOfLarge(ctx context.Context, c *cluster, when string) error {
	if err := settle(ctx); err != nil {
		return err
	}
	now, most, err := c.resident("operator")
	if err != nil {
		return err
	}
	p.table.add(row{
		name:     fmt.Sprintf("memory, %s FilterDeployments with %d KiB of configuration each, %s", thousands(largeFilters), wasmev1.MaxConfigurationBytes>>10, when),
		measured: fmt.Sprintf("%.0f MiB, peak %.0f MiB", now, most),
		beside:   "-",
		value:    most,
		unit:     mebibytes,
		bound:    atMost(limitBound),
	})
	return nil
}
