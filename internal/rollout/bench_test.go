package rollout

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// settled returns the state of a FilterDeployment whose outputs are in place, and whose
// pods run the filter.
func settled(b *testing.B, workloads, pods, configuration int) State {
	b.Helper()
	s := State{
		Owner: types.NamespacedName{Namespace: "ns", Name: "hello"}, Generation: 1, Distributed: true,
		Outputs: Outputs{}, Now: noon,
	}
	bytes := int64(1 << 20)
	asked, err := revision.New(s.Owner, revision.Content{
		Filter: wasmev1.FilterSpec{ID: "f", RootID: "root", Config: &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", strings.Repeat("c", configuration))}},
		Module: wasmev1.ModuleStatus{SHA256: strings.Repeat("a", 64), SizeBytes: &bytes},
	})
	if err != nil {
		b.Fatal(err)
	}
	s.Asked, s.History = &asked, []revision.Revision{asked}
	for i := range workloads {
		t := Target{Target: workload.Target{Kind: "Deployment", Namespace: "ns", Name: fmt.Sprint("w", i), Selector: map[string]string{"app": fmt.Sprint("w", i)}}}
		for j := range pods {
			address := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)})
			seen := dataplane.Seen{Plugin: render.PluginName(s.Owner, t.Target, asked.Hash), Verdict: dataplane.Verdict{State: dataplane.StateLoaded}}
			t.Pods = append(t.Pods, Pod{Name: fmt.Sprintf("w%d-%d", i, j), ReadySince: noon.Add(-time.Hour), Sidecar: true, Address: dataplane.Pod{UID: types.UID(address.String()), Address: address}, Seen: seen})
		}
		s.Targets = append(s.Targets, t)
		key := OutputKey{Kind: wasmev1.OutputEnvoyFilter, Name: render.Name(t.Target, asked.Rendered.ID)}
		s.Outputs[key] = Output{Revision: asked.Hash, Workload: "Deployment/" + t.Name, Generation: 1}
	}
	return s
}

// BenchmarkSettledPass decides twice, as a pass does in which nothing changes: what is
// due, and what follows once that is as planned.
func BenchmarkSettledPass(b *testing.B) {
	for _, size := range []struct{ workloads, pods, configuration int }{{100, 2, 100}, {5000, 10, 100}, {5000, 10, 256 << 10}} {
		b.Run(fmt.Sprintf("%d workloads of %d pods, %d bytes", size.workloads, size.pods, size.configuration), func(b *testing.B) {
			state := settled(b, size.workloads, size.pods, size.configuration)
			b.ReportAllocs()
			for b.Loop() {
				for i := range state.Targets {
					state.Targets[i].Attempt = nil
				}
				plan := Decide(state)
				for _, place := range plan.Due(state) {
					state.Targets[place].Attempt = &Attempt{Output: plan.Workloads[place].Output, Fetch: plan.Workloads[place].Fetch}
				}
				plan = Decide(state)
				plan.Expectations()
			}
		})
	}
}
