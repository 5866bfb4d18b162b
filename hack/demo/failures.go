package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/util/wait"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
)

// preflight gives the module a configuration that it refuses. The operator's own run of it
// finds that.
func (d *demo) preflight(ctx context.Context) error {
	found, tried, err := d.refuse(ctx, bookinfoYAML(d.hello, filters.RefusedConfiguration, wasmev1.PreflightEnforce), wasmev1.ReasonConfigurationRefused)
	if err != nil {
		return err
	}
	d.printf("   tried by no proxy; %d requests meanwhile, %d failed\n", found.requests, found.failed)
	if len(tried) > 0 || found.failed > 0 {
		return fmt.Errorf("%d workloads tried the configuration, and %d requests failed", len(tried), found.failed)
	}
	return nil
}

// refuse gives bookinfo what its module refuses, and returns what became of requests
// meanwhile, and the workloads that have tried it.
func (d *demo) refuse(ctx context.Context, yaml, reason string) (found traffic, tried []string, err error) {
	before, err := d.refusals(ctx)
	if err != nil {
		return traffic{}, nil, err
	}
	if found, err = d.fail(ctx, yaml, reason, "goodbye"); err != nil {
		return traffic{}, nil, err
	}
	after, err := d.refusals(ctx)
	if err != nil {
		return traffic{}, nil, err
	}
	for i, workload := range d.bookinfo {
		if after[i] > before[i] {
			tried = append(tried, workload.Workload.Name)
		}
	}
	return found, tried, nil
}

// rollOutRefused gives the module a configuration that it refuses, which the operator does
// not try first. One workload does, beside the one that serves.
func (d *demo) rollOutRefused(ctx context.Context) error {
	found, tried, err := d.refuse(ctx, bookinfoYAML(d.hello, filters.RefusedConfiguration, wasmev1.PreflightOff), wasmev1.ReasonRolledBack)
	if err != nil {
		return err
	}
	d.printf("   tried by %s only; %d requests meanwhile, %d failed\n", strings.Join(tried, ", "), found.requests, found.failed)
	if len(tried) != 1 || found.failed > 0 {
		return fmt.Errorf("%d workloads tried the configuration, and %d requests failed", len(tried), found.failed)
	}
	second := d.bookinfo[0].Workload
	second.Replica = 1
	started, err := d.startWorkload(ctx, second)
	if err != nil {
		return err
	}
	if err := d.awaitHeader(ctx, started, "goodbye"); err != nil {
		return err
	}
	d.printf("   and its new pod answers hello: goodbye\n")
	d.bookinfo = append(d.bookinfo, started)
	return nil
}

// crash updates to a module that works until it gets a request that it crashes on.
func (d *demo) crash(ctx context.Context) error {
	found, err := d.fail(ctx, bookinfoYAML(d.trap, "fixed", wasmev1.PreflightEnforce), wasmev1.ReasonRolledBack, "fixed")
	if err != nil {
		return err
	}
	d.printf("   %d requests meanwhile, %d of them with the header that crashes it; %d failed\n", found.requests, found.crashing, found.failed)
	if found.failed == 0 || found.failed > found.crashing {
		return fmt.Errorf("%d requests failed", found.failed)
	}
	for _, workload := range d.bookinfo {
		if err := d.awaitHeader(ctx, workload, "fixed"); err != nil {
			return err
		}
	}
	return nil
}

// traffic counts requests, those with the header x-crash, and those that were not
// answered with 200 and the header hello.
type traffic struct{ requests, crashing, failed int }

// fail gives bookinfo what ends with this reason, and returns what became of requests
// meanwhile, which are to be answered with this header.
func (d *demo) fail(ctx context.Context, yaml, reason, want string) (traffic, error) {
	asking, stop := context.WithCancel(ctx)
	asked := make(chan traffic, 1)
	go func() { asked <- d.ask(asking, want) }()
	err := d.applyYAML(ctx, yaml)
	if err == nil {
		err = d.showFailure(ctx, "bookinfo", name, reason)
	}
	stop()
	return <-asked, err
}

// refusals are the numbers of updates that each Envoy of bookinfo has refused.
func (d *demo) refusals(ctx context.Context) ([]int, error) {
	counts := make([]int, 0, len(d.bookinfo))
	for _, workload := range d.bookinfo {
		refused, err := workload.RefusedUpdates(ctx)
		if err != nil {
			return nil, err
		}
		counts = append(counts, refused)
	}
	return counts, nil
}

// ask sends requests to bookinfo until the context ends.
func (d *demo) ask(ctx context.Context, want string) traffic {
	var sent traffic
	wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) {
		round, place := sent.requests/len(d.bookinfo), sent.requests%len(d.bookinfo)
		headers := http.Header{}
		if round%crashEvery == crashEvery-1 {
			headers.Set("x-crash", "yes")
		}
		status, header, err := get(ctx, d.bookinfo[place].URL, headers)
		if ctx.Err() != nil {
			return
		}
		sent.requests++
		sent.crashing += len(headers)
		if err != nil || status != http.StatusOK || header != want {
			sent.failed++
		}
	}, pause)
	return sent
}
