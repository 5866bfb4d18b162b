// Package controllers adds the operator's controllers to a manager: the one that makes
// the mesh what FilterDeployments say (filterdeployment), and the one with which each
// replica keeps the modules that are named (modulekeeper).
package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/controllers/modulekeeper"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/controllers/waker"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/module/signatures"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/peers"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/pool"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/trust/online"
)

// recheckInterval is the longest time between two looks at a FilterDeployment:
// its pull Secret is not watched.
const recheckInterval = 5 * time.Minute

// preflightWorkers is the number of modules that are run at once: each takes memory of the
// operator's own limit.
const preflightWorkers = 1

// Options are what the controllers need beside the manager.
type Options struct {
	Store *store.Store
	// Written is the one that the manager's cache was made with.
	Written *filterdeployment.Written
	Pull    pull.Options
	// PollInterval is how often an image is asked for.
	PollInterval time.Duration
	// Peers are the URLs of the module servers of all replicas.
	Peers []string
	// AllowedSources are those that modules may come from; empty for all.
	AllowedSources    source.Sources
	LegacyPullSecrets bool
	Mesh              render.Mesh
	// AllowRootNamespace lets filters in the mesh's root namespace reach every namespace.
	AllowRootNamespace bool
	// WatchNamespaces are those that the cache has; empty for all.
	WatchNamespaces []string
	// VerifyPods says that pods are asked what they run, but for those of UnverifiedNamespaces.
	VerifyPods           bool
	UnverifiedNamespaces []string
	// Preflight says what follows from the run of a module where the spec does not, and Run
	// runs one (child.Runner).
	Preflight wasmev1.Preflight
	Run       func(context.Context, *os.File, int64, preflight.Filter) (preflight.Verdict, error)
	// SigstoreURL is that of the TUF repository with the trusted root of policies that
	// reference none, and SigstoreAnchor its root.json; empty for the public instance.
	SigstoreURL    string
	SigstoreAnchor []byte
	// Workers is the number of FilterDeployments reconciled at once.
	Workers int
}

// Controllers are those of one replica.
type Controllers struct {
	FilterDeployments *filterdeployment.Reconciler
	ModuleKeeper      *modulekeeper.Reconciler
	// WakeKeeper has the module keeper look at a ControllerRevision.
	WakeKeeper func(types.NamespacedName)
}

// Add adds the controllers to a manager. Each has a resolver of its own, which wakes
// it. Both pull through one puller into one store. The context ends what asks the peers.
func Add(ctx context.Context, manager ctrl.Manager, opts Options) (*Controllers, error) {
	kinds, err := discovery.NewDiscoveryClientForConfig(manager.GetConfig())
	if err != nil {
		return nil, fmt.Errorf("setting up discovery: %w", err)
	}
	filterDeployments, revisions := &waker.Waker{}, &waker.Waker{}
	replicas, err := peers.New(ctx, opts.Peers, opts.Mesh.ModuleServerURL, opts.Store, filterDeployments.Wake)
	if err != nil {
		return nil, fmt.Errorf("setting up the peers (--peers): %w", err)
	}
	puller, values := pull.NewClient(opts.Pull), source.NewValues()
	finder := func(wakes *waker.Waker) source.Finder {
		options := resolve.Options{PollInterval: opts.PollInterval, Workers: resolve.DefaultWorkers, Wake: wakes.Wake, Clock: clock.RealClock{}}
		resolver := resolve.New(opts.Store, puller, options)
		return source.Finder{Reader: manager.GetAPIReader(), Modules: resolver, Values: values, Allowed: opts.AllowedSources, LegacyPullSecrets: opts.LegacyPullSecrets}
	}
	modules := finder(filterDeployments)
	reconciler := &filterdeployment.Reconciler{
		Client:               manager.GetClient(),
		Reader:               manager.GetAPIReader(),
		Finder:               modules,
		Store:                opts.Store,
		Preflights:           pool.New(pool.Options{Open: opts.Store.Open, Run: opts.Run, Wake: filterDeployments.Wake, Workers: preflightWorkers}),
		PreflightDefault:     opts.Preflight,
		Signatures:           signatures.New(puller, modules.Modules, filterDeployments.Wake),
		Peers:                replicas,
		Written:              opts.Written,
		Outputs:              outputkinds.New(kinds),
		Gateways:             outputkinds.NewGateways(kinds),
		Recorder:             manager.GetEventRecorder("wasme-operator"),
		Mesh:                 opts.Mesh,
		AllowRootNamespace:   opts.AllowRootNamespace,
		WatchNamespaces:      opts.WatchNamespaces,
		UnverifiedNamespaces: sets.New(opts.UnverifiedNamespaces...),
		Budget:               rollout.NewBudget(rollout.DefaultLimit),
		Wake:                 filterDeployments.Wake,
		RecheckInterval:      min(opts.PollInterval, recheckInterval),
		Clock:                clock.RealClock{},
	}
	reconciler.Sigstore = newSigstore(ctx, opts, puller.Transport(), reconciler, filterDeployments)
	if opts.VerifyPods {
		if err := addProber(manager, reconciler, filterDeployments); err != nil {
			return nil, err
		}
	}
	keeper := &modulekeeper.Reconciler{
		Client:          manager.GetClient(),
		Finder:          finder(revisions),
		Store:           opts.Store,
		Peers:           replicas,
		RecheckInterval: min(opts.PollInterval, recheckInterval),
	}
	return &Controllers{reconciler, keeper, revisions.Wake}, errors.Join(
		manager.Add(reconciler.Finder.Modules),
		manager.Add(reconciler.Preflights),
		manager.Add(reconciler.Signatures),
		manager.Add(reconciler.Sigstore),
		manager.Add(keeper.Finder.Modules),
		reconciler.SetupWithManager(manager, filterDeployments, opts.Workers),
		keeper.SetupWithManager(manager, revisions),
	)
}

// newSigstore returns the trusted root of policies that reference none.
func newSigstore(ctx context.Context, opts Options, transport http.RoundTripper, reconciler *filterdeployment.Reconciler, wakes *waker.Waker) *online.Root {
	wake := func() {
		if err := reconciler.WakeAll(ctx, wakes.Wake); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "Waking all FilterDeployments for a new trusted root")
		}
	}
	return online.New(online.Options{URL: opts.SigstoreURL, Anchor: opts.SigstoreAnchor, Transport: transport, Wake: wake, Clock: clock.RealClock{}})
}

// addProber has the pods of FilterDeployments asked what they run.
func addProber(manager ctrl.Manager, reconciler *filterdeployment.Reconciler, wakes *waker.Waker) error {
	reconciler.Prober = dataplane.New(func(name types.NamespacedName) { wakes.WakeAfter(name, reconciler.PodDelay(name)) })
	if err := manager.Add(reconciler.Prober); err != nil {
		return fmt.Errorf("adding the prober: %w", err)
	}
	return nil
}
