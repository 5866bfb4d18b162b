package filterdeployment

import (
	"cmp"
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/pool"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/tracing"
)

// preflight is the second step: it has the module of a revision run before any proxy
// gets it, with the tests in its image and those that the spec names.
func (r *Reconciler) preflight(ctx context.Context, fd *wasmev1.FilterDeployment, asked *revision.Revision, tests *module.Tests) (found rollout.Preflight) {
	ctx, span := tracing.Begin(ctx, "Preflight")
	defer func() { tracing.EndStep(span, found.Verdict, nil) }()
	owner := client.ObjectKeyFromObject(fd)
	mode := cmp.Or(fd.Spec.Filter.Preflight, r.PreflightDefault)
	if mode == wasmev1.PreflightOff {
		r.Preflights.Forget(owner)
		return rollout.JudgePreflight(mode, &fd.Status, asked.Hash, nil, nil)
	}
	request := pool.Request{SHA256: asked.Module.SHA256, Filter: preflightFilter(asked)}
	if tests != nil {
		request.Filter.Tests = append(request.Filter.Tests, *tests)
	}
	if named := fd.Spec.Filter.PreflightTests; named != nil {
		content, err := r.Finder.PreflightTests(ctx, fd.Namespace, named.ConfigMap)
		if err != nil {
			return rollout.PreflightAwaits(mode, &fd.Status, asked.Hash, moduleVerdict(err))
		}
		request.Filter.Tests = append(request.Filter.Tests, module.Tests{Name: named.ConfigMap.Key, Content: content})
	}
	if verdict, known := r.Preflights.Known(request); known {
		r.Preflights.Forget(owner)
		return rollout.JudgePreflight(mode, &fd.Status, asked.Hash, verdict, nil)
	}
	if before, found := rollout.PreflightedBefore(&fd.Status, asked.Hash); found {
		return before
	}
	result := r.Preflights.Ask(owner, request)
	return rollout.JudgePreflight(mode, &fd.Status, asked.Hash, result.Result, result.Err)
}

// preflightFilter returns what a run of a revision depends on. How the filter is called,
// and where, is no part of it: the same module and configuration are run once.
func preflightFilter(asked *revision.Revision) preflight.Filter {
	filter := preflight.Filter{
		RootID: asked.Rendered.RootID, KnownRootIDs: asked.Module.RootIDs, Configuration: asked.Rendered.Configuration,
	}
	for _, variable := range asked.Rendered.Env {
		if variable.ValueFrom != nil {
			filter.HostEnvironment = append(filter.HostEnvironment, variable.Name)
			continue
		}
		if filter.Environment == nil {
			filter.Environment = map[string]string{}
		}
		filter.Environment[variable.Name] = *variable.Value
	}
	return filter
}
