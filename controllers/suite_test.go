package controllers

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/preflight/child"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// Shared by all specs. Each has a namespace, a registry and an operator of its
// own (newWorld).
var (
	controlPlane *mesh.ControlPlane
	// operatorScheme has the operator's own types of Istio's kinds in place of Istio's.
	operatorScheme = runtime.NewScheme()
	// user is a client with every right, and without a cache.
	user client.Client
	// live reads with every right what the operator has in its cache.
	live client.Client
	// operatorConfig has the rights of the operator's installation, and no others.
	operatorConfig *rest.Config
	recorder       events.EventRecorder
	istioCRDs      string
)

// TestMain runs a module instead of the specs in the processes that preflights start.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == child.Name {
		if err := child.Main(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Controllers")
}

var _ = BeforeSuite(func(ctx context.Context) {
	ctrl.SetLogger(GinkgoLogr)
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, istio.AddToScheme, wasmev1.AddToScheme} {
		Expect(add(operatorScheme)).To(Succeed())
	}
	var err error
	controlPlane, err = mesh.StartControlPlane(ctx, mesh.Options{Log: GinkgoWriter})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() error { return controlPlane.Stop() })

	istioCRDs, err = binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
	Expect(err).NotTo(HaveOccurred())
	Expect(controlPlane.InstallCRDs(istioCRDs)).To(Succeed())
	Expect(controlPlane.InstallGatewayAPI(ctx)).To(Succeed())
	Expect(controlPlane.InstallOperator(ctx)).To(Succeed())

	config := controlPlane.Admin()
	config.WarningHandler = rest.NoWarnings{}
	user, err = mesh.NewClient(config)
	Expect(err).NotTo(HaveOccurred())
	live, err = client.New(config, client.Options{Scheme: operatorScheme})
	Expect(err).NotTo(HaveOccurred())
	operatorConfig, err = controlPlane.As(ctx, "wasme-system", "wasme-operator")
	Expect(err).NotTo(HaveOccurred())
	operatorConfig.QPS = -1
	clients, err := kubernetes.NewForConfig(operatorConfig)
	Expect(err).NotTo(HaveOccurred())
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: clients.EventsV1()})
	Expect(broadcaster.StartRecordingToSinkWithContext(context.Background())).To(Succeed())
	DeferCleanup(broadcaster.Shutdown)
	recorder = broadcaster.NewRecorder(operatorScheme, "wasme-operator")
})

// world is what a spec has for itself.
type world struct {
	namespace string
	registry  *registry.Registry
	// clock is the resolvers': a test sets it forward instead of waiting.
	clock *testingclock.FakeClock
	// store is the folder of the operator's modules.
	store string
	*operator
}

func newWorld(ctx context.Context, options ...registry.Option) *world {
	GinkgoHelper()
	images, err := registry.Start(options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(images.Close)
	w := &world{
		namespace: newNamespace(ctx),
		registry:  images,
		clock:     testingclock.NewFakeClock(metav1.Now().Time),
		store:     GinkgoT().TempDir(),
	}
	w.operator = startOperator(ctx, w.clock, w.store)
	return w
}

// restart ends the operator and starts another one with the same modules.
func (w *world) restart(ctx context.Context) {
	GinkgoHelper()
	w.stop()
	w.operator = startOperator(ctx, w.clock, w.store)
}

func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "spec-"}}
	Expect(user.Create(ctx, namespace)).To(Succeed())
	return namespace.Name
}

// rootID is the root id in the images that push makes.
const rootID = "add_header_root_id"

// push stores an image and returns its reference. Its module differs by the text.
func (w *world) push(ctx context.Context, path, text string) string {
	GinkgoHelper()
	return w.pushModule(ctx, path, registry.Module{Bytes: wasmModule(text), RootIDs: []string{rootID}})
}

func (w *world) pushModule(ctx context.Context, path string, content registry.Module) string {
	GinkgoHelper()
	image, err := registry.Image(registry.WasmeArtifact, content)
	Expect(err).NotTo(HaveOccurred())
	reference, err := w.registry.Push(ctx, path, image)
	Expect(err).NotTo(HaveOccurred())
	return reference
}

// wasmModule is the smallest module that the operator takes, with a custom
// section that holds the text.
func wasmModule(text string) []byte {
	named := func(name string) []byte {
		return append(binary.AppendUvarint(nil, uint64(len(name))), name...)
	}
	section := func(id byte, parts ...[]byte) []byte {
		content := slices.Concat(parts...)
		return append(binary.AppendUvarint([]byte{id}, uint64(len(content))), content...)
	}
	return slices.Concat([]byte("\x00asm\x01\x00\x00\x00"),
		section(7, []byte{1}, named("proxy_abi_version_0_2_1"), []byte{0, 0}),
		section(0, named("text"), []byte(text)))
}
