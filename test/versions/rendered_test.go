package versions

import (
	"net/http"

	. "github.com/onsi/gomega"
	"google.golang.org/protobuf/types/known/structpb"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

var (
	loaded        = dataplane.Verdict{State: dataplane.StateLoaded}
	otherRevision = dataplane.Verdict{State: dataplane.StateOtherRevision}
)

// filter is a filter as the operator would render it.
type filter struct {
	*spec
	render.Filter
	serverURL string // of the module server
}

func (s *spec) filter(module, configuration string) *filter {
	f := &filter{spec: s, serverURL: s.moduleServer().URL, Filter: render.Filter{
		ID: "hello", ModuleSHA256: filters.SHA256(s.modules[module]), RootID: filters.RootID,
		PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload,
	}}
	if configuration != "" {
		f.Configuration = []byte(configuration)
	}
	return f
}

// write writes the filter's EnvoyFilter and returns the name of its plugin. Edits
// change what the operator would write.
func (f *filter) write(edits ...func(vmConfig map[string]any)) (plugin string) {
	f.t.Helper()
	w := f.app.Workload
	owner := types.NamespacedName{Namespace: f.namespace, Name: "hello"}
	target := workload.Target{Kind: string(w.Kind), Namespace: w.Namespace, Name: w.Name, Selector: w.Labels}
	rendered, err := render.EnvoyFilter(
		render.Mesh{ClusterID: mesh.ClusterID, RootNamespace: mesh.RootNamespace, ModuleServerURL: f.serverURL},
		owner, f.Filter, target, "",
	)
	f.Expect(err).NotTo(HaveOccurred())
	extension := rendered.ConfigPatches[0].Patch
	content := extension.Value.AsMap()
	vm := content["typed_config"].(map[string]any)["config"].(map[string]any)["vm_config"].(map[string]any)
	for _, edit := range edits {
		edit(vm)
	}
	extension.Value, err = structpb.NewStruct(content)
	f.Expect(err).NotTo(HaveOccurred())
	object := &networkingv1alpha3.EnvoyFilter{}
	rendered.DeepCopyInto(&object.Spec)
	f.apply(object)
	return render.PluginName(owner, target, f.Revision())
}

func refusedFirstLoad(s *spec) {
	f := s.filter(filters.Hello, filters.RefusedConfiguration)
	s.Expect(s.verdict("wasm_filter.none@0").Proven()).To(BeFalse(), "the prober looks from the start")
	refused := f.write()
	s.untilRefused(refused, 0)
	s.eventuallyAnswers(answer{Status: http.StatusForbidden})
	s.verdict(refused)
	s.lookAgain()
	s.Expect(s.verdict(refused)).To(Equal(dataplane.Verdict{State: dataplane.StateNotLoaded}))

	f.Configuration = []byte("fixed")
	fixed := f.write()
	s.eventuallyVerdict(fixed, loaded)
	s.eventuallyAnswers(ok("fixed"))
	s.eventuallyVerdict(refused, otherRevision)
}

func refusedUpdate(s *spec) {
	f := s.filter(filters.Hello, "good")
	good := f.write()
	s.eventuallyVerdict(good, loaded)
	s.eventuallyAnswers(ok("good"))

	f.Configuration = []byte(filters.RefusedConfiguration)
	load := s.startLoad()
	refused := f.write()
	s.Expect(s.verdict(refused)).To(Equal(otherRevision))
	s.untilRefused(refused, 0)
	s.lookAgain()
	s.Expect(s.verdict(refused)).To(Equal(otherRevision))
	s.Expect(load.stop()).To(HaveEach(ok("good")))
	s.eventuallyVerdict(good, loaded)

	f.Configuration = []byte("better")
	better := f.write()
	s.eventuallyVerdict(better, loaded)
	s.eventuallyAnswers(ok("better"))
	s.eventuallyVerdict(good, otherRevision)
}

func crash(s *spec) {
	plugin := s.filter(filters.Trap, "").write()
	s.eventuallyVerdict(plugin, loaded)
	s.eventuallyAnswers(ok("world"))
	s.Expect(s.metrics()).To(ContainSubstring(row("reload_success", plugin) + "0"))

	s.Expect(s.ask("x-crash", "yes").Status).To(Equal(http.StatusServiceUnavailable))
	s.eventuallyAnswers(ok("world"))
	s.Expect(s.metrics()).To(ContainSubstring(row("reload_success", plugin) + "1"))
	s.lookAgain()
	s.Expect(s.verdict(plugin)).To(Equal(dataplane.Verdict{State: dataplane.StateLoaded, Crashing: true}))
}

func environment(s *spec) {
	f := s.filter(filters.Environ, "")
	variable := func(value string) []wasmev1.EnvVar { return []wasmev1.EnvVar{{Name: "GREETING", Value: &value}} }
	f.Env = variable("before")
	s.eventuallyVerdict(f.write(), loaded)
	s.eventuallyAnswers(ok("GREETING=before"))

	f.Env = variable("after")
	s.eventuallyVerdict(f.write(), loaded)
	s.eventuallyAnswers(ok("GREETING=after"))

	f.Env = variable("last")
	s.eventuallyVerdict(f.write(func(vm map[string]any) { vm["vm_id"] = "one for all" }), loaded)
	s.eventuallyAnswers(ok("GREETING=last"))
	f.Env = variable("later")
	s.eventuallyVerdict(f.write(func(vm map[string]any) { vm["vm_id"] = "one for all" }), loaded)
	if s.envoy.renewsEnvironment {
		s.Expect(s.ask()).To(Equal(ok("GREETING=later")))
	} else {
		s.Expect(s.ask()).To(Equal(ok("GREETING=last")), "the metrics show the new revision, yet its VM is the old one")
	}
}
