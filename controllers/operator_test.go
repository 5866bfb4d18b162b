package controllers

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/controllers/modulekeeper"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/module/signatures"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/peers"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/child"
	"github.com/wasme-io/wasme-operator/internal/preflight/pool"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/trust/online"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	// pollInterval is how old an answer of a registry gets, by the world's clock.
	pollInterval = time.Minute
	// bound is how long anything may take.
	bound = 20 * time.Second
)

// operator is a replica of the operator without its queues: the test calls
// Reconcile. All else is what the manager has: the cache with its transforms,
// the rights of the installation, the resolvers.
type operator struct {
	*filterdeployment.Reconciler
	keeper *modulekeeper.Reconciler
	cache  cache.Cache
	// stop ends it, and returns when nothing is written to its store any more.
	stop func()
	// woken has what the resolver of the reconciler, and that of the keeper, wake.
	woken, keeperWoken chan types.NamespacedName
	// turns has whose turn it is to have pods load.
	turns chan types.NamespacedName

	mu sync.Mutex
	// writes are the writes so far, such as `update EnvoyFilter details-v1-f`.
	writes []string
	// class that it looks after.
	class string
	// before is called before each write; its error is the write's.
	before func(write string) error
}

// operatorOptions are what flags set.
type operatorOptions struct {
	deniedNetworks  []netip.Prefix
	preloaded       *pull.Preloaded
	watchNamespaces []string
	class           string
	// blindCache does not tell the reconciler what comes in, as one that is behind.
	blindCache bool
	// sigstore is the TUF repository of policies that reference no trusted root.
	sigstore online.Options
	// run preflights a module.
	run func(context.Context, *os.File, int64, preflight.Filter) (preflight.Verdict, error)
}

// operatorOption changes an operator before it starts.
type operatorOption func(*operatorOptions)

func deniedNetworks(networks ...netip.Prefix) operatorOption {
	return func(options *operatorOptions) { options.deniedNetworks = networks }
}

// preloadedImages has the operator read images from a folder.
func preloadedImages(folder string) operatorOption {
	return func(options *operatorOptions) {
		var err error
		options.preloaded, err = pull.OpenPreloaded(folder)
		Expect(err).NotTo(HaveOccurred())
	}
}

func blindCache(options *operatorOptions) { options.blindCache = true }

// runChild preflights a module as the operator does.
var runChild = (&child.Runner{Command: []string{"/proc/self/exe", child.Name}, Limits: preflight.DefaultLimits}).Run

// running has modules preflighted by a function.
func running(run func(context.Context, *os.File, int64, preflight.Filter) (preflight.Verdict, error)) operatorOption {
	return func(options *operatorOptions) { options.run = run }
}

// trusting fetches the trusted root from a TUF repository.
func trusting(repository string, anchor []byte) operatorOption {
	return func(options *operatorOptions) {
		options.sigstore = online.Options{URL: repository, Anchor: anchor, Transport: http.DefaultTransport}
	}
}

func class(name string) operatorOption {
	return func(options *operatorOptions) { options.class = name }
}

func watchNamespaces(namespaces ...string) operatorOption {
	return func(options *operatorOptions) { options.watchNamespaces = namespaces }
}

func startOperator(ctx context.Context, clock *testingclock.FakeClock, folder string, options ...operatorOption) *operator {
	GinkgoHelper()
	modules, err := store.Open(folder, store.DefaultBytes, clock)
	Expect(err).NotTo(HaveOccurred())
	flags := operatorOptions{run: runChild}
	for _, option := range options {
		option(&flags)
	}
	puller := pull.NewClient(pull.Options{DeniedNetworks: flags.deniedNetworks, Preloaded: flags.preloaded, Limits: module.DefaultLimits})

	o := &operator{class: flags.class, woken: make(chan types.NamespacedName, 1000), keeperWoken: make(chan types.NamespacedName, 1000), turns: make(chan types.NamespacedName, 1000)}
	reader, err := client.New(operatorConfig, client.Options{Scheme: operatorScheme})
	Expect(err).NotTo(HaveOccurred())
	running, stop := context.WithCancel(context.Background())
	var resolvers sync.WaitGroup
	o.stop = func() {
		stop()
		resolvers.Wait()
	}
	DeferCleanup(o.stop)
	written := &filterdeployment.Written{}
	cached := o.startCache(ctx, running, flags, written)
	resolver := func(woken chan types.NamespacedName) *resolve.Resolver {
		resolver := resolve.New(modules, puller, resolve.Options{
			PollInterval: pollInterval,
			Workers:      resolve.DefaultWorkers,
			Wake:         func(name types.NamespacedName) { woken <- name },
			Clock:        clock,
		})
		resolvers.Go(func() { _ = resolver.Start(running) })
		return resolver
	}
	alone, err := peers.New(running, nil, "", modules, func(types.NamespacedName) {})
	Expect(err).NotTo(HaveOccurred())
	preflights := pool.New(pool.Options{Open: modules.Open, Run: flags.run, Wake: func(name types.NamespacedName) { o.woken <- name }, Workers: 1})
	resolvers.Go(func() { _ = preflights.Start(running) })
	finds := resolver(o.woken)
	signed := signatures.New(puller, finds, func(name types.NamespacedName) { o.woken <- name })
	resolvers.Go(func() { _ = signed.Start(running) })
	if flags.sigstore.URL == "" { // without one, nothing is to be fetched
		flags.sigstore = online.Options{URL: "http://127.0.0.1:1", Anchor: []byte("{}"), Transport: http.DefaultTransport}
	}
	flags.sigstore.Clock = clock
	flags.sigstore.Wake = func() {
		_ = o.WakeAll(running, func(name types.NamespacedName) { o.woken <- name })
	}
	trusted := online.New(flags.sigstore)
	resolvers.Go(func() { _ = trusted.Start(running) })
	o.Reconciler = &filterdeployment.Reconciler{
		Preflights: preflights,
		Signatures: signed,
		Sigstore:   trusted,
		// The modules of most specs only look like modules.
		PreflightDefault: wasmev1.PreflightOff,
		Client:           cached,
		Reader:           reader,
		Finder:           source.Finder{Reader: reader, Values: source.NewValues(), Modules: finds},
		Store:            modules,
		Peers:            alone,
		Written:          written,
		Outputs:          servedOutputs(),
		Gateways:         outputkinds.NewGateways(nil),
		WatchNamespaces:  flags.watchNamespaces,
		Recorder:         recorder,
		Mesh:             render.Mesh{ClusterID: "Kubernetes", RootNamespace: "istio-system", ModuleServerURL: "http://modules.wasme-system:8090"},
		Budget:           rollout.NewBudget(rollout.DefaultLimit),
		Wake:             func(name types.NamespacedName) { o.turns <- name },
		RecheckInterval:  pollInterval,
		Clock:            clock,
	}
	o.Gateways.Assume(outputkinds.Served)
	o.keeper = &modulekeeper.Reconciler{Client: cached, Finder: source.Finder{Reader: reader, Values: source.NewValues(), Modules: resolver(o.keeperWoken)}, Store: modules, Peers: alone, RecheckInterval: pollInterval}
	return o
}

// startCache starts a cache and returns a client that reads from it, and whose
// writes are counted.
func (o *operator) startCache(ctx, running context.Context, flags operatorOptions, written *filterdeployment.Written) client.Client {
	GinkgoHelper()
	if flags.blindCache {
		written = &filterdeployment.Written{}
	}
	options := filterdeployment.CacheOptions(flags.watchNamespaces, flags.class, written)
	options.Scheme = operatorScheme
	var err error
	o.cache, err = cache.New(operatorConfig, options)
	Expect(err).NotTo(HaveOccurred())
	Expect(filterdeployment.IndexCache(ctx, o.cache)).To(Succeed())
	go func() { _ = o.cache.Start(running) }()
	for _, watched := range []client.Object{
		&wasmev1.FilterDeployment{}, &wasmev1.FilterPolicy{}, &wasmev1.ClusterFilterPolicy{}, &appsv1.Deployment{}, &appsv1.DaemonSet{}, &appsv1.StatefulSet{}, &appsv1.ControllerRevision{},
		&corev1.Pod{}, workload.NewService(), workload.NewGateway(), &istio.EnvoyFilter{}, &istio.WasmPlugin{}, &istio.TrafficExtension{},
	} {
		_, err := o.cache.GetInformer(ctx, watched, cache.BlockUntilSynced(false))
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(o.cache.WaitForCacheSync(ctx)).To(BeTrue())
	direct, err := client.NewWithWatch(operatorConfig, client.Options{Scheme: operatorScheme, Cache: &client.CacheOptions{Reader: o.cache}, FieldOwner: filterdeployment.FieldOwner})
	Expect(err).NotTo(HaveOccurred())
	return interceptor.NewClient(direct, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			return o.write("create", object, func() error { return c.Create(ctx, object, options...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
			return o.write("update", object, func() error { return c.Update(ctx, object, options...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			return o.write("patch", object, func() error { return c.Patch(ctx, object, patch, options...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption) error {
			return o.write("delete", object, func() error { return c.Delete(ctx, object, options...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, object client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			return o.write("patch "+name+" of", object, func() error { return c.SubResource(name).Patch(ctx, object, patch, options...) })
		},
	})
}

func (o *operator) write(verb string, object client.Object, do func() error) error {
	kind, err := apiutil.GVKForObject(object, operatorScheme)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s %s %s", verb, kind.Kind, object.GetName())
	o.mu.Lock()
	o.writes = append(o.writes, text)
	before := o.before
	o.mu.Unlock()
	if before != nil {
		if err := before(text); err != nil {
			return err
		}
	}
	return do()
}

// knowRevisions leaves the reconciler with these ControllerRevisions, as a cache
// does that is behind.
func (o *operator) knowRevisions(known appsv1.ControllerRevisionList) {
	o.Client = interceptor.NewClient(o.Client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if revisions, ok := list.(*appsv1.ControllerRevisionList); ok {
				known.DeepCopyInto(revisions)
				return nil
			}
			return c.List(ctx, list, options...)
		},
	})
}

// pass makes one pass over a FilterDeployment with whatever the cache has, and
// reads it again.
func (o *operator) pass(ctx context.Context, fd *wasmev1.FilterDeployment) (ctrl.Result, error) {
	GinkgoHelper()
	result, err := o.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(fd)})
	Expect(client.IgnoreNotFound(user.Get(ctx, client.ObjectKeyFromObject(fd), fd))).To(Succeed())
	return result, err
}

// reconcile makes one pass with a cache that is up to date.
func (o *operator) reconcile(ctx context.Context, fd *wasmev1.FilterDeployment) (ctrl.Result, error) {
	GinkgoHelper()
	o.catchUp(ctx, fd.Namespace)
	return o.pass(ctx, fd)
}

// settle makes passes until the module is known or refused and no write was
// based on an old version; it returns the error of the last pass.
func (o *operator) settle(ctx context.Context, fd *wasmev1.FilterDeployment) error {
	GinkgoHelper()
	for {
		result, err := o.reconcile(ctx, fd)
		switch {
		case result.RequeueAfter > 0 && result.RequeueAfter < time.Second: // waits for the cache
		case reasonOf(fd, wasmev1.ConditionModuleResolved) == wasmev1.ReasonResolving,
			reasonOf(fd, wasmev1.ConditionAdmitted) == wasmev1.ReasonVerifying,
			reasonOf(fd, wasmev1.ConditionPreflighted) == wasmev1.ReasonPreflighting:
			o.awaitAnswer(ctx, fd)
		default:
			return err
		}
	}
}

// answer has a registry asked again, later by the world's clock, waits for the
// answer to change and settles.
func (w *world) answer(ctx context.Context, fd *wasmev1.FilterDeployment) error {
	GinkgoHelper()
	w.askAgain(ctx, fd)
	w.awaitAnswer(ctx, fd)
	return w.settle(ctx, fd)
}

// askAgain makes what is known of all images too old, and failures due.
func (w *world) askAgain(ctx context.Context, fd *wasmev1.FilterDeployment) {
	GinkgoHelper()
	for len(w.woken) > 0 {
		<-w.woken
	}
	w.clock.Step(10 * time.Minute)
	_, _ = w.reconcile(ctx, fd) // asks; the answer comes later
}

func (o *operator) awaitAnswer(ctx context.Context, fd *wasmev1.FilterDeployment) {
	GinkgoHelper()
	Eventually(ctx, o.woken).WithTimeout(bound).Should(Receive(Equal(client.ObjectKeyFromObject(fd))))
}

// catchUp waits until the cache has what the API server has.
func (o *operator) catchUp(ctx context.Context, namespace string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		g.Expect(versions(ctx, g, o.cache, namespace, o.class)).To(Equal(versions(ctx, g, live, namespace, o.class)))
	}).WithTimeout(bound).Should(Succeed())
}

// versions are the versions of the objects in a namespace that the operator of a class watches.
func versions(ctx context.Context, g Gomega, reader client.Reader, namespace, class string) map[string]string {
	made := client.MatchingLabels{ownership.ManagedByLabel: ownership.ManagedBy(class)}
	ofClass, err := labels.Parse("!" + wasmev1.ClassLabel)
	if class != "" {
		ofClass, err = labels.Parse(wasmev1.ClassLabel + "=" + class)
	}
	g.Expect(err).NotTo(HaveOccurred())
	found := map[string]string{}
	list := func(list client.ObjectList, options ...client.ListOption) {
		g.Expect(reader.List(ctx, list, append([]client.ListOption{client.InNamespace(namespace)}, options...)...)).To(Succeed())
		g.Expect(apimeta.EachListItem(list, func(item runtime.Object) error {
			object := item.(client.Object)
			kind, err := apiutil.GVKForObject(item, operatorScheme)
			found[kind.Kind+" "+object.GetName()] = object.GetResourceVersion()
			return err
		})).To(Succeed())
	}
	list(&wasmev1.FilterDeploymentList{}, client.MatchingLabelsSelector{Selector: ofClass})
	list(&wasmev1.FilterPolicyList{})
	list(&wasmev1.ClusterFilterPolicyList{}, client.InNamespace(""))
	list(&corev1.PodList{})
	list(&appsv1.DeploymentList{})
	list(&appsv1.DaemonSetList{})
	list(&appsv1.StatefulSetList{})
	list(&appsv1.ControllerRevisionList{}, made)
	list(metadataList(workload.NewService()))
	list(metadataList(workload.NewGateway()))
	list(&istio.EnvoyFilterList{}, made)
	list(&istio.WasmPluginList{}, made)
	list(&istio.TrafficExtensionList{}, made)
	return found
}

// metadataList is an empty list of the metadata of objects like this.
func metadataList(like *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	kind := like.GroupVersionKind()
	kind.Kind += "List"
	list.SetGroupVersionKind(kind)
	return list
}

// intercept calls before ahead of each write; nil ends that.
func (o *operator) intercept(before func(write string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.before = before
}

// written returns the writes since it was called last.
func (o *operator) written() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	writes := o.writes
	o.writes = nil
	return writes
}
