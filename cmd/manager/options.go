package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/clock"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/cloud"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/child"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/tracing"
)

// options are the flags of the manager.
type options struct {
	version                 bool
	leaderElect             bool
	leaderElectionNamespace string
	metricsAddress          string
	healthAddress           string
	moduleServerAddress     string
	moduleServerURL         string
	peers                   stringList
	moduleStore             string
	moduleStoreBytes        int64
	watchNamespaces         stringList
	class                   string
	rootNamespace           string
	allowRootNamespace      bool
	clusterID               string
	verifyPods              bool
	unverifiedNamespaces    stringList
	pollInterval            time.Duration
	deniedNetworks          networkList
	allowedRegistries       stringList
	allowedSources          stringList
	legacyPullSecrets       bool
	cloudCredentials        stringList
	preloadedImages         string
	limits                  module.Limits
	tufURL                  string
	tufRoot                 string
	preflight               preflightMode
	preflightLimits         preflight.Limits
	workers                 int
	tracingEndpoint         string
	log                     zap.Options
}

func parseOptions(flags *flag.FlagSet, args []string) (options, error) {
	opts := options{deniedNetworks: pull.DefaultDeniedNetworks, limits: module.DefaultLimits, preflight: preflightMode(wasmev1.PreflightEnforce), preflightLimits: preflight.DefaultLimits}
	if flags.Lookup(ctrlconfig.KubeconfigFlagName) == nil {
		ctrlconfig.RegisterFlags(flags)
	}
	flags.BoolVar(&opts.version, "version", false, "show the version of the manager and exit")
	bindServing(flags, &opts)
	bindMesh(flags, &opts)
	bindModules(flags, &opts)
	bindPreflight(flags, &opts)
	bindTrust(flags, &opts)
	opts.log.BindFlags(flags)
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	return opts, opts.validate()
}

func bindServing(flags *flag.FlagSet, opts *options) {
	flags.BoolVar(&opts.leaderElect, "leader-elect", false, "let one of several replicas reconcile; every replica serves modules")
	flags.StringVar(&opts.leaderElectionNamespace, "leader-election-namespace", "", "namespace of the lease; default: the namespace that the manager runs in")
	flags.StringVar(&opts.metricsAddress, "metrics-bind-address", ":8080", "address of the metrics; 0 for none")
	flags.StringVar(&opts.healthAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	flags.StringVar(&opts.moduleServerAddress, "module-server-bind-address", ":8082", "address of the module server")
	flags.Var(&opts.peers, "peers", "comma-separated URLs of the module servers of all replicas; a host name stands for all of its addresses")
	flags.IntVar(&opts.workers, "max-concurrent-reconciles", 8, "FilterDeployments reconciled at once")
	flags.StringVar(&opts.tracingEndpoint, "tracing-endpoint", "", "URL of a collector that takes OpenTelemetry traces by OTLP over HTTP, such as http://collector.observability:4318; the variables OTEL_* set the sampler, headers and attributes; default: no traces")
}

func bindMesh(flags *flag.FlagSet, opts *options) {
	flags.StringVar(&opts.moduleServerURL, "module-server-url", "http://wasme-modules.wasme-system.svc.cluster.local", "URL at which sidecars reach the module server; it goes into EnvoyFilters")
	flags.Var(&opts.watchNamespaces, "watch-namespaces", "comma-separated namespaces to look after; default: all")
	flags.StringVar(&opts.class, "class", "", "look after the FilterDeployments whose label wasme.io/class has this value; default: those without the label")
	flags.StringVar(&opts.rootNamespace, "istio-root-namespace", "istio-system", "the mesh's root namespace, whose objects reach every namespace")
	flags.BoolVar(&opts.allowRootNamespace, "allow-root-namespace", false, "allow filters in the root namespace other than those of selected gateways")
	flags.BoolVar(&opts.verifyPods, "verify-pods", true, "ask the sidecars of pods, at their metrics port, what they run; false where the operator cannot reach them")
	flags.Var(&opts.unverifiedNamespaces, "unverified-namespaces", "comma-separated namespaces whose FilterDeployments are not verified, because the operator cannot reach their pods; default: none")
	flags.StringVar(&opts.clusterID, "cluster-id", "Kubernetes", "the cluster's name in the mesh, as its proxies report it in CLUSTER_ID")
}

func bindModules(flags *flag.FlagSet, opts *options) {
	flags.StringVar(&opts.moduleStore, "module-store", "/var/lib/wasme/modules", "directory that modules are kept in")
	flags.Int64Var(&opts.moduleStoreBytes, "module-store-max-bytes", 2<<30, "bytes that the module store may hold")
	flags.DurationVar(&opts.pollInterval, "image-poll-interval", 5*time.Minute, "how often an image is asked for, to notice a tag that moved")
	flags.Var(&opts.deniedNetworks, "denied-networks", "comma-separated networks (CIDR) in which no registry may be")
	flags.Var(&opts.allowedRegistries, "allowed-registries", "comma-separated hosts of the registries that images may come from; default: all")
	flags.Var(&opts.allowedSources, "allowed-sources", "comma-separated sources that modules may come from (image, url, configMap); default: all")
	flags.BoolVar(&opts.legacyPullSecrets, "legacy-pull-secrets", false, "let pull Secrets with username and password go without the annotation "+pull.RegistryAnnotation)
	flags.Var(&opts.cloudCredentials, "cloud-credentials", "comma-separated clouds (ecr, gcr, acr) whose registries are asked with the identity of the operator's pod, for images of every namespace without a pull Secret; default: none")
	flags.StringVar(&opts.preloadedImages, "preloaded-images", "", "directory with images that are read without their registries, for every namespace: an OCI image layout, or several in its subdirectories; default: none")
	flags.Int64Var(&opts.limits.ManifestBytes, "max-manifest-bytes", opts.limits.ManifestBytes, "largest manifest of an image")
	flags.Int64Var(&opts.limits.LayerBytes, "max-layer-bytes", opts.limits.LayerBytes, "largest sum of an image's layers, as sent and unpacked")
	flags.Int64Var(&opts.limits.ModuleBytes, "max-module-bytes", opts.limits.ModuleBytes, "largest module")
	flags.IntVar(&opts.limits.ArchiveEntries, "max-archive-entries", opts.limits.ArchiveEntries, "largest number of files in an image's layers")
}

func bindPreflight(flags *flag.FlagSet, opts *options) {
	flags.Var(&opts.preflight, "preflight", "what follows when the operator runs a module and finds a fault, where spec.filter.preflight does not say: Enforce keeps it from all proxies, Warn reports it, Off runs none")
	flags.DurationVar(&opts.preflightLimits.Time, "preflight-timeout", opts.preflightLimits.Time, "how long the operator compiles and runs a module before any proxy does; running it takes 10s of that at most")
	flags.Int64Var(&opts.preflightLimits.MemoryBytes, "preflight-memory-bytes", opts.preflightLimits.MemoryBytes, "memory that a module may have while the operator runs it; compiling takes up to 512 MiB besides")
}

func bindTrust(flags *flag.FlagSet, opts *options) {
	flags.StringVar(&opts.tufURL, "tuf-url", "", "URL of the TUF repository with the trusted root of Sigstore, for policies that reference none; default: that of the public instance")
	flags.StringVar(&opts.tufRoot, "tuf-root", "", "file with the root.json of --tuf-url, with which all that is fetched from there is verified")
}

// preflightMode is a flag whose value is a spec.filter.preflight.
type preflightMode wasmev1.Preflight

func (m *preflightMode) String() string { return string(*m) }

func (m *preflightMode) Set(text string) error {
	modes := []preflightMode{preflightMode(wasmev1.PreflightEnforce), preflightMode(wasmev1.PreflightWarn), preflightMode(wasmev1.PreflightOff)}
	if !slices.Contains(modes, preflightMode(text)) {
		return errors.New("use Enforce, Warn or Off")
	}
	*m = preflightMode(text)
	return nil
}

// controllers returns what the controllers are told of the flags.
func (o options) controllers(modules *store.Store, from pull.Options, anchor []byte, written *filterdeployment.Written) controllers.Options {
	return controllers.Options{
		SigstoreURL:          o.tufURL,
		SigstoreAnchor:       anchor,
		Store:                modules,
		Written:              written,
		Pull:                 from,
		PollInterval:         o.pollInterval,
		Peers:                o.peers,
		AllowedSources:       source.Sources(o.allowedSources),
		LegacyPullSecrets:    o.legacyPullSecrets,
		Mesh:                 render.Mesh{ClusterID: o.clusterID, RootNamespace: o.rootNamespace, ModuleServerURL: o.moduleServerURL},
		AllowRootNamespace:   o.allowRootNamespace,
		WatchNamespaces:      o.watchNamespaces,
		VerifyPods:           o.verifyPods,
		UnverifiedNamespaces: o.unverifiedNamespaces,
		Workers:              o.workers,
		Preflight:            wasmev1.Preflight(o.preflight),
		Run:                  o.runner().Run,
	}
}

// anchor reads the file of --tuf-root; nil for none.
func (o options) anchor() ([]byte, error) {
	if o.tufRoot == "" {
		return nil, nil
	}
	content, err := os.ReadFile(o.tufRoot)
	if err != nil {
		return nil, fmt.Errorf("--tuf-root: %w", err)
	}
	return content, nil
}

// pull returns where images come from.
func (o options) pull() (pull.Options, error) {
	from := pull.Options{
		DeniedNetworks:    o.deniedNetworks,
		AllowedRegistries: o.allowedRegistries,
		Proxy:             http.ProxyFromEnvironment,
		Limits:            o.limits,
	}
	var err error
	if o.preloadedImages != "" {
		if from.Preloaded, err = pull.OpenPreloaded(o.preloadedImages); err != nil {
			return from, fmt.Errorf("--preloaded-images: %w", err)
		}
	}
	if len(o.cloudCredentials) > 0 {
		if from.Cloud, err = cloud.New(o.cloudCredentials, clock.RealClock{}); err != nil {
			return from, fmt.Errorf("--cloud-credentials: %w", err)
		}
	}
	return from, nil
}

// runner runs modules in children of this process.
func (o options) runner() *child.Runner {
	return &child.Runner{Command: []string{"/proc/self/exe", child.Name}, Limits: o.preflightLimits}
}

// The bounds of --preflight-memory-bytes: a Go module takes 4 MiB, and proxies give none
// more than 1 GiB.
const (
	minPreflightMemory = 16 << 20
	maxPreflightMemory = 1 << 30
)

func (o options) validate() error {
	server, err := url.Parse(o.moduleServerURL)
	if err != nil || server.Host == "" || server.Scheme != "http" && server.Scheme != "https" {
		return fmt.Errorf("--module-server-url %q must be an http or https URL with a host", o.moduleServerURL)
	}
	if o.tracingEndpoint != "" {
		if err := tracing.CheckEndpoint(o.tracingEndpoint); err != nil {
			return fmt.Errorf("--tracing-endpoint %w", err)
		}
	}
	if o.pollInterval <= 0 {
		return errors.New("--image-poll-interval must be positive")
	}
	if _, err := source.ParseSources(o.allowedSources); err != nil {
		return fmt.Errorf("--allowed-sources: %w", err)
	}
	if (o.tufURL == "") != (o.tufRoot == "") {
		return errors.New("--tuf-url and --tuf-root go together: set both or neither")
	}
	if problems := validation.IsValidLabelValue(ownership.ManagedBy(o.class)); len(problems) > 0 {
		return fmt.Errorf("--class %q cannot be part of a label: %s", o.class, strings.Join(problems, "; "))
	}
	if o.preflightLimits.Time < time.Second {
		return errors.New("--preflight-timeout must be at least 1s")
	}
	if o.preflightLimits.MemoryBytes < minPreflightMemory || o.preflightLimits.MemoryBytes > maxPreflightMemory {
		return fmt.Errorf("--preflight-memory-bytes must be between %d and %d", minPreflightMemory, maxPreflightMemory)
	}
	if o.workers < 1 {
		return errors.New("--max-concurrent-reconciles must be at least 1")
	}
	return nil
}

// stringList is a flag with comma-separated values.
type stringList []string

func (l *stringList) String() string { return strings.Join(*l, ",") }

func (l *stringList) Set(text string) error {
	*l = nil
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

// networkList is a flag with comma-separated networks.
type networkList []netip.Prefix

func (l *networkList) String() string {
	parts := make([]string, 0, len(*l))
	for _, network := range *l {
		parts = append(parts, network.String())
	}
	return strings.Join(parts, ",")
}

func (l *networkList) Set(text string) error {
	var parts stringList
	if err := parts.Set(text); err != nil {
		return err
	}
	*l = nil
	for _, part := range parts {
		network, err := netip.ParsePrefix(part)
		if err != nil {
			return fmt.Errorf("%q is no network; write it as 10.0.0.0/8: %w", part, err)
		}
		*l = append(*l, network)
	}
	return nil
}
