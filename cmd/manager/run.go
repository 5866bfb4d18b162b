package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/controllers/modulekeeper"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/serve"
	"github.com/wasme-io/wasme-operator/internal/tracing"
	"github.com/wasme-io/wasme-operator/internal/version"
)

// copyTime is how long a replica may copy modules before it is ready without them.
const copyTime = time.Minute

// syncTimeout is how long a cache may take: as long as the API server is away.
// The module server keeps serving meanwhile, and /readyz reports it.
const syncTimeout = 24 * time.Hour

// The lease: one that its holder does not give up, because it crashed, is taken
// over within 12 s and two attempts, and a holder gives up what it cannot renew
// well before.
const (
	leaseDuration = 12 * time.Second
	renewDeadline = 8 * time.Second
	retryPeriod   = 2 * time.Second
)

// leaseOf returns the name of the lease that the replicas of an installation hold in turn.
func leaseOf(class string) string {
	return ownership.ManagedBy(class)
}

// run runs the operator until the context ends.
func run(ctx context.Context, opts options) error {
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&opts.log)))
	build := version.Read()
	ctrl.Log.Info("Starting the operator", "version", build.Version, "commit", build.Revision, "go", build.Go)
	stopTracing, err := opts.startTracing(ctx)
	if err != nil {
		return err
	}
	defer stopTracing()
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	// Writes are bounded by the number of workers; the API server's own fairness does the rest.
	config.QPS = -1
	// Each write of an EnvoyFilter is answered with the same warning.
	config.WarningHandlerWithContext = log.NewKubeAPIWarningLogger(log.KubeAPIWarningLoggerOptions{Deduplicate: true})
	modules, err := store.Open(opts.moduleStore, opts.moduleStoreBytes, clock.RealClock{})
	if err != nil {
		return err
	}
	from, err := opts.pull()
	if err != nil {
		return err
	}
	anchor, err := opts.anchor()
	if err != nil {
		return err
	}
	written := &filterdeployment.Written{}
	manager, err := newManager(config, opts, written)
	if err != nil {
		return err
	}
	// The server runs beside the manager and not in it: there it would wait for
	// the caches, and sidecars for it while the API server is away.
	group, ctx := errgroup.WithContext(ctx)
	added, err := controllers.Add(ctx, manager, opts.controllers(modules, from, anchor, written))
	if err != nil {
		return err
	}
	err = errors.Join(
		manager.AddReadyzCheck("modules", readiness(manager.GetCache(), added.ModuleKeeper)),
		metrics.Registry.Register(modules),
		metrics.Registry.Register(filterdeployment.NewStatusCollector(manager.GetClient(), added.FilterDeployments.Outputs, manager.Elected())),
	)
	if err != nil {
		return err
	}
	server, err := serve.New(opts.moduleServerAddress, modules, func(sha256 string) {
		if holder, held := modules.Holder(sha256); held {
			added.WakeKeeper(holder)
		}
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return server.Start(ctx) })
	group.Go(func() error { modules.Verify(ctx); return nil })
	group.Go(func() error { return manager.Start(ctx) })
	return group.Wait()
}

// startTracing has traces sent where --tracing-endpoint says, until stop is called.
func (o options) startTracing(ctx context.Context) (stop func(), err error) {
	if o.tracingEndpoint == "" {
		return func() {}, nil
	}
	if stop, err = tracing.Start(ctx, o.tracingEndpoint); err != nil {
		return nil, fmt.Errorf("starting traces (--tracing-endpoint): %w", err)
	}
	return stop, nil
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(wasmev1.AddToScheme(scheme))
	utilruntime.Must(istio.AddToScheme(scheme))
	return scheme
}

func newManager(config *rest.Config, opts options, written *filterdeployment.Written) (ctrl.Manager, error) {
	scheme := newScheme()
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Client: client.Options{FieldOwner: filterdeployment.FieldOwner},
		// To ask which kinds are namespaced would keep a replica that restarts
		// while the API server is away from serving modules.
		MapperProvider:                filterdeployment.NamespacedMapper(scheme),
		Cache:                         filterdeployment.CacheOptions(opts.watchNamespaces, opts.class, written),
		Metrics:                       metricsserver.Options{BindAddress: opts.metricsAddress},
		HealthProbeBindAddress:        opts.healthAddress,
		Controller:                    ctrlconfig.Controller{CacheSyncTimeout: syncTimeout},
		LeaderElection:                opts.leaderElect,
		LeaderElectionID:              leaseOf(opts.class),
		LeaderElectionNamespace:       opts.leaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 new(leaseDuration),
		RenewDeadline:                 new(renewDeadline),
		RetryPeriod:                   new(retryPeriod),
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the manager: %w", err)
	}
	return manager, manager.AddHealthzCheck("ping", healthz.Ping)
}

// readiness is that of a replica: its caches are complete, so that it knows
// what is named, and it has copied what is named from another replica, or had
// a minute for it. Once ready it stays so: an image that is gone from its
// registry must not take the module server away.
func readiness(informers cache.Cache, keeper *modulekeeper.Reconciler) healthz.Checker {
	begin := time.Now()
	var ready atomic.Bool
	return func(request *http.Request) error {
		if ready.Load() {
			return nil
		}
		if !informers.WaitForCacheSync(request.Context()) {
			return errors.New("the caches are not complete yet")
		}
		if !keeper.Complete(request.Context()) && time.Since(begin) < copyTime {
			return errors.New("modules are being copied")
		}
		ready.Store(true)
		return nil
	}
}
