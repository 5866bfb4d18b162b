// Package outputs holds what internal/render writes against a real istiod and
// real Envoys, without the operator: each output must do there what it says.
package outputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// patience bounds the wait for a change to arrive at a proxy.
	patience = 30 * time.Second
	poll     = 20 * time.Millisecond
)

var (
	theMesh *mesh.Mesh
	admin   client.Client
	modules *moduleServer
)

func TestOutputs(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Outputs at a real Envoy")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	theMesh, err = mesh.Start(ctx, mesh.Options{Log: GinkgoWriter})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(theMesh.Stop()).To(Succeed()) })
	scheme := runtime.NewScheme()
	Expect(networking.AddToScheme(scheme)).To(Succeed())
	Expect(extensions.AddToScheme(scheme)).To(Succeed())
	admin, err = client.New(theMesh.Admin(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	modules = newModuleServer()
	DeferCleanup(modules.server.Close)
}, NodeTimeout(30*time.Minute)) // the first time on a machine everything is built

// moduleServer stands for the operator's: it serves modules by their digest.
type moduleServer struct {
	server *httptest.Server
	mu     sync.Mutex
	held   map[string][]byte
}

func newModuleServer() *moduleServer {
	m := &moduleServer{held: map[string][]byte{}}
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		content, found := m.held[r.URL.Path]
		m.mu.Unlock()
		if !found {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(content))
	}))
	return m
}

func (m *moduleServer) serve(content []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[module.Path(digest(content))] = content
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// build is a test filter, and what it resolved to.
func build(ctx context.Context, filter string) ([]byte, wasmev1.ModuleStatus) {
	GinkgoHelper()
	content, err := filters.Build(ctx, filter)
	Expect(err).NotTo(HaveOccurred())
	return content, wasmev1.ModuleStatus{SHA256: digest(content), RootIDs: []string{filters.RootID}}
}

// served is a test filter that the module server has.
func served(ctx context.Context, filter string) wasmev1.ModuleStatus {
	GinkgoHelper()
	content, status := build(ctx, filter)
	modules.serve(content)
	return status
}

// deployment stands for a FilterDeployment: what is rendered for one target.
type deployment struct {
	name         string
	output       wasmev1.Output
	spec         wasmev1.FilterSpec
	distribution wasmev1.Distribution
	module       wasmev1.ModuleStatus
	target       render.Target
	renewal      string
	// hashed: the usual name is another FilterDeployment's.
	hashed bool
}

// apply writes the output and removes it with the spec.
func (d deployment) apply(ctx context.Context) {
	GinkgoHelper()
	object := d.object()
	live := object.DeepCopyObject().(client.Object)
	if err := admin.Get(ctx, client.ObjectKeyFromObject(object), live); err == nil {
		object.SetResourceVersion(live.GetResourceVersion())
		Expect(admin.Update(ctx, object)).To(Succeed())
		return
	}
	Expect(admin.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(admin.Delete(ctx, object))).To(Succeed()) })
}

func (d deployment) object() client.Object {
	GinkgoHelper()
	servers := render.Mesh{ClusterID: mesh.ClusterID, RootNamespace: mesh.RootNamespace, ModuleServerURL: modules.server.URL}
	owner := types.NamespacedName{Namespace: d.target.Namespace, Name: d.name}
	filter, err := render.NewFilter(owner, d.spec, d.distribution, d.module)
	Expect(err).NotTo(HaveOccurred())
	meta := metav1.ObjectMeta{Namespace: d.target.Namespace, Name: render.Name(d.target, filter.ID)}
	if d.hashed {
		meta.Name = render.HashedName(owner, d.target, filter.ID)
	}
	switch d.output {
	case wasmev1.OutputEnvoyFilter:
		spec, err := render.EnvoyFilter(servers, owner, filter, d.target, d.renewal)
		Expect(err).NotTo(HaveOccurred())
		object := &networking.EnvoyFilter{ObjectMeta: meta}
		spec.DeepCopyInto(&object.Spec)
		return object
	case wasmev1.OutputWasmPlugin:
		spec, err := render.WasmPlugin(servers, filter, d.target)
		Expect(err).NotTo(HaveOccurred())
		object := &extensions.WasmPlugin{ObjectMeta: meta}
		spec.DeepCopyInto(&object.Spec)
		return object
	default:
		spec, err := render.TrafficExtension(servers, filter, d.target)
		Expect(err).NotTo(HaveOccurred())
		object := &extensions.TrafficExtension{ObjectMeta: meta}
		spec.DeepCopyInto(&object.Spec)
		return object
	}
}

// run starts a workload that ends with the spec.
func run(ctx context.Context, workload mesh.Workload) *mesh.Running {
	GinkgoHelper()
	running, err := theMesh.StartWorkload(ctx, workload)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(running.Stop(ctx)).To(Succeed()) })
	return running
}

// namespaces is the number of namespaces that were used.
var namespaces atomic.Int32

// sidecar is a workload with one pod, in a namespace of its own.
func sidecar() mesh.Workload {
	namespace := fmt.Sprintf("outputs-%d", namespaces.Add(1))
	return mesh.Workload{Namespace: namespace, Name: "details-v1", Labels: map[string]string{"app": "details"}, Port: 9080}
}

// target is the workload of a pod.
func target(running *mesh.Running) render.Target {
	w := running.Workload
	return render.Target{Kind: string(w.Kind), Namespace: w.Namespace, Name: w.Name, PodLabels: w.Labels}
}

// answer is what came back for one request. A response passes the filters in
// the reverse order of the request's, so the header that comes last is of the
// filter that comes first.
type answer struct {
	Status int
	Hello  []string
}

func asking(ctx context.Context, url string, headers ...string) func() answer {
	return func() answer {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return answer{}
		}
		for i := 0; i+1 < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		request.Host = request.Header.Get("Host")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return answer{}
		}
		defer func() { _ = response.Body.Close() }()
		return answer{response.StatusCode, response.Header.Values("hello")}
	}
}

// eventuallySays waits until a pod's inbound traffic has these headers.
func eventuallySays(ctx context.Context, running *mesh.Running, hello ...string) {
	GinkgoHelper()
	Eventually(asking(ctx, running.URL), patience, poll).Should(Equal(answer{http.StatusOK, hello}))
}

// httpFilters are the names of the HTTP filters of a pod's inbound traffic, by
// Envoy's own word.
func httpFilters(ctx context.Context, running *mesh.Running) func() ([]string, error) {
	return func() ([]string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, running.AdminURL+"/config_dump?resource=dynamic_listeners", http.NoBody)
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		defer func() { _ = response.Body.Close() }()
		var dump struct {
			Configs []struct {
				Name        string `json:"name"`
				ActiveState struct {
					Listener json.RawMessage `json:"listener"`
				} `json:"active_state"`
			} `json:"configs"`
		}
		if err := json.NewDecoder(response.Body).Decode(&dump); err != nil {
			return nil, fmt.Errorf("reading the listeners: %w", err)
		}
		for _, config := range dump.Configs {
			if strings.HasSuffix(config.Name, fmt.Sprintf("_%d", running.Workload.Port)) {
				return namesOf(config.ActiveState.Listener)
			}
		}
		return nil, fmt.Errorf("no listener for port %d", running.Workload.Port)
	}
}

// namesOf are the names of the HTTP filters of a listener.
func namesOf(text json.RawMessage) ([]string, error) {
	var listener struct {
		FilterChains []struct {
			Filters []struct {
				TypedConfig struct {
					HTTPFilters []struct {
						Name string `json:"name"`
					} `json:"http_filters"`
				} `json:"typed_config"`
			} `json:"filters"`
		} `json:"filter_chains"`
	}
	if err := json.Unmarshal(text, &listener); err != nil {
		return nil, fmt.Errorf("reading a listener: %w", err)
	}
	var names []string
	for _, chain := range listener.FilterChains {
		for _, filter := range chain.Filters {
			for _, httpFilter := range filter.TypedConfig.HTTPFilters {
				names = append(names, httpFilter.Name)
			}
		}
	}
	return names, nil
}
