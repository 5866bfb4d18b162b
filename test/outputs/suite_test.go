// Package outputs holds what internal/render writes against a real istiod and
// real Envoys, without the operator: each output must do there what it says.
package outputs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

var (
	theMesh *mesh.Mesh
	admin   client.Client
	modules *filters.Server
)

func TestOutputs(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Outputs at a real Envoy")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	theMesh = meshtest.Start(ctx, "")
	admin = theMesh.Client()
	modules = meshtest.StartModuleServer()
}, NodeTimeout(meshtest.StartTimeout))

// served is a test filter that the module server has.
func served(ctx context.Context, filter string) wasmev1.ModuleStatus {
	GinkgoHelper()
	content := meshtest.Build(ctx, filter)
	modules.Serve(content)
	return resolved(content)
}

// resolved is what a test filter resolves to.
func resolved(module []byte) wasmev1.ModuleStatus {
	return wasmev1.ModuleStatus{SHA256: filters.SHA256(module), RootIDs: []string{filters.RootID}}
}

// deployment stands for a FilterDeployment: what is rendered for one target.
type deployment struct {
	name         string
	output       wasmev1.Output
	spec         wasmev1.FilterSpec
	distribution wasmev1.Distribution
	module       wasmev1.ModuleStatus
	target       workload.Target
	renewal      string
	// hashed: the usual name is another FilterDeployment's.
	hashed bool
}

// apply writes the output and removes it with the spec.
func (d deployment) apply(ctx context.Context) {
	GinkgoHelper()
	meshtest.Apply(ctx, admin, d.object())
}

func (d deployment) object() client.Object {
	GinkgoHelper()
	servers := render.Mesh{ClusterID: mesh.ClusterID, RootNamespace: mesh.RootNamespace, ModuleServerURL: modules.URL}
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

// namespaces is the number of namespaces that were used.
var namespaces atomic.Int32

// sidecar is a workload with one pod, in a namespace of its own.
func sidecar() mesh.Workload {
	namespace := fmt.Sprintf("outputs-%d", namespaces.Add(1))
	return mesh.Workload{Namespace: namespace, Name: "details-v1", Labels: map[string]string{"app": "details"}, Port: 9080}
}

// target is the workload of a pod.
func target(running *mesh.Running) workload.Target {
	w := running.Workload
	return workload.Target{Kind: string(w.Kind), Namespace: w.Namespace, Name: w.Name, Selector: w.Labels}
}

// httpFilters are the names of the HTTP filters of a pod's inbound traffic, by
// Envoy's own word.
func httpFilters(ctx context.Context, running *mesh.Running) func() ([]string, error) {
	return func() ([]string, error) {
		var dump struct {
			Configs []struct {
				Name        string `json:"name"`
				ActiveState struct {
					Listener json.RawMessage `json:"listener"`
				} `json:"active_state"`
			} `json:"configs"`
		}
		listeners := mesh.Fetch(ctx, running.AdminURL+"/config_dump?resource=dynamic_listeners")
		if err := json.Unmarshal(listeners, &dump); err != nil {
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
