package cost

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/emit"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const mebibyte = 1 << 20

// change changes what is asked for.
type change func(*wasmev1.FilterDeployment, *revision.Content)

// asking returns a FilterDeployment and its revision, with a module of 1 MiB.
func asking(t *testing.T, changes ...change) (*wasmev1.FilterDeployment, revision.Revision) {
	t.Helper()
	fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "hello"}, Spec: wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{
		Image: "r/a:v1", RootID: "root", Config: &wasmev1.Configuration{Raw: []byte(`{"a":1}`)},
	}}}
	content := revision.Content{Module: wasmev1.ModuleStatus{SHA256: strings.Repeat("1", 64), SizeBytes: new(int64(mebibyte))}}
	for _, c := range changes {
		c(fd, &content)
	}
	content.Filter, content.Output = fd.Spec.Filter, workload.IstioSpec(fd).Output
	asked, err := revision.New(client.ObjectKeyFromObject(fd), content)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return fd, asked
}

// inputOf is that of a FilterDeployment for workloads with so many pods.
func inputOf(fd *wasmev1.FilterDeployment, asked revision.Revision, pods map[string]int) emit.Input {
	in := emit.Input{FilterDeployment: fd, Asked: &asked, Outputs: rollout.Outputs{}, Mesh: render.Mesh{ClusterID: "Kubernetes", ModuleServerURL: "http://m"}}
	for _, name := range []string{"a", "b", "c", "d"} {
		count, known := pods[name]
		if !known {
			continue
		}
		target := rollout.Target{Target: workload.Target{Kind: "Deployment", Namespace: "n", Name: name, Selector: map[string]string{"app": name}}}
		for range count {
			target.Pods = append(target.Pods, rollout.Pod{Sidecar: true})
		}
		in.Targets = append(in.Targets, target)
	}
	return in
}

// holds has the output of a workload hold a revision.
func holds(in emit.Input, name, hash string) {
	in.Outputs[rollout.OutputKey{Kind: wasmev1.OutputEnvoyFilter, Name: name + "-hello.n"}] = rollout.Output{Workload: "Deployment/" + name, Revision: hash}
}

func immediate(fd *wasmev1.FilterDeployment, _ *revision.Content) {
	fd.Spec.Rollout = &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate}
}

func as(output wasmev1.Output) change {
	return func(fd *wasmev1.FilterDeployment, _ *revision.Content) {
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: output}
	}
}

func TestChangeOfAWorkload(t *testing.T) {
	config := func(fd *wasmev1.FilterDeployment, _ *revision.Content) {
		fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{"a":2}`)}
	}
	module := func(_ *wasmev1.FilterDeployment, c *revision.Content) { c.Module.SHA256 = strings.Repeat("2", 64) }
	settings := func(fd *wasmev1.FilterDeployment, _ *revision.Content) { fd.Spec.Filter.RootID = "other" }
	priority := func(fd *wasmev1.FilterDeployment, _ *revision.Content) { fd.Spec.Filter.Priority = new(int32(5)) }
	open := func(fd *wasmev1.FilterDeployment, _ *revision.Content) {
		fd.Spec.Filter.FailStrategy = wasmev1.FailOpen
	}
	closed := func(fd *wasmev1.FilterDeployment, _ *revision.Content) {
		fd.Spec.Filter.FailStrategy = wasmev1.FailClosed
	}
	const fetch = 2 * mebibyte
	for _, row := range []struct {
		name   string
		before []change
		after  []change
		pods   int
		want   Kind
		bytes  int64
		drains int
	}{
		{"is none when nothing changes", nil, nil, 2, "", 0, 0},
		{"is a configuration", nil, []change{config}, 2, Configuration, 0, 0},
		{"is a module, which pods fetch", nil, []change{module, config}, 2, Module, fetch, 0},
		{"is other settings of the module", nil, []change{settings}, 2, Settings, 0, 0},
		{"is how it fails", nil, []change{closed}, 2, Settings, 0, 0},
		{"is a place, for which connections drain", nil, []change{priority, module}, 2, Place, 0, 1},
		{"is a place where it opens up on failure", nil, []change{open}, 2, Place, 0, 1},
		{"is a place by another kind of object", nil, []change{as(wasmev1.OutputWasmPlugin)}, 2, Place, 0, 1},
		{"costs nothing without pods", nil, []change{module}, 0, Module, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			_, before := asking(t, row.before...)
			fd, after := asking(t, row.after...)
			in := inputOf(fd, after, map[string]int{"a": row.pods})
			holds(in, "a", before.Hash)
			changes := Changes(in, emit.Objects(in), []revision.Revision{before})
			if row.want == "" {
				g.Expect(changes).To(BeEmpty())
				return
			}
			g.Expect(changes).To(Equal([]Change{{Workload: "a", Kind: row.want, From: before.Hash, To: after.Hash, Pods: row.pods, Fetches: row.bytes > 0, Bytes: row.bytes, Drains: row.drains}}))
		})
	}
}

func TestFirstRevision(t *testing.T) {
	for _, row := range []struct {
		name   string
		asks   []change
		drains int
	}{
		{"drains twice when it is tried first", nil, 2},
		{"drains once at once", []change{immediate}, 1},
		{"drains once where nothing is tried", []change{as(wasmev1.OutputWasmPlugin)}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			fd, asked := asking(t, row.asks...)
			in := inputOf(fd, asked, map[string]int{"a": 3})
			NewWithT(t).Expect(Changes(in, emit.Objects(in), nil)).To(Equal([]Change{{Workload: "a", Kind: Added, To: asked.Hash, Pods: 3, Fetches: true, Bytes: 3 * mebibyte, Drains: row.drains}}))
		})
	}
}

func TestOtherChanges(t *testing.T) {
	t.Run("to a revision that was not kept", func(t *testing.T) {
		fd, asked := asking(t)
		in := inputOf(fd, asked, map[string]int{"a": 1})
		holds(in, "a", "99999999")
		NewWithT(t).Expect(Changes(in, emit.Objects(in), nil)).To(ConsistOf(And(HaveField("Kind", Unknown), HaveField("Bytes", int64(mebibyte)))))
	})
	t.Run("to what another version renders", func(t *testing.T) {
		fd, asked := asking(t)
		in := inputOf(fd, asked, map[string]int{"a": 1, "b": 1})
		for name, fingerprint := range map[string]string{"a": "00000000+slot", "b": in.Mesh.Fingerprint() + "+slot"} {
			in.Outputs[rollout.OutputKey{Kind: wasmev1.OutputEnvoyFilter, Name: name + "-hello.n"}] = rollout.Output{Workload: "Deployment/" + name, Revision: asked.Hash, Rendering: rollout.Rendering{Fingerprint: fingerprint}}
		}
		NewWithT(t).Expect(Changes(in, emit.Objects(in), nil)).To(ConsistOf(And(HaveField("Kind", Rendering), HaveField("Workload", "a"))))
	})
	t.Run("to workloads that are not selected any more", func(t *testing.T) {
		fd, asked := asking(t)
		in := inputOf(fd, asked, map[string]int{"a": 1})
		holds(in, "a", asked.Hash)
		holds(in, "z", asked.Hash)
		holds(in, "y", asked.Hash)
		NewWithT(t).Expect(Changes(in, emit.Objects(in), nil)).To(Equal([]Change{
			{Workload: "y", Kind: Removed, From: asked.Hash, Drains: 1}, {Workload: "z", Kind: Removed, From: asked.Hash, Drains: 1},
		}))
	})
	t.Run("to a workload that cannot run it", func(t *testing.T) {
		fd, asked := asking(t, as(wasmev1.OutputWasmPlugin))
		in := inputOf(fd, asked, map[string]int{"a": 1})
		in.Targets[0].Selector = nil
		changes := Changes(in, emit.Objects(in), nil)
		NewWithT(t).Expect(changes).To(ConsistOf(And(HaveField("Kind", Refused), HaveField("Err", HaveOccurred()), HaveField("Bytes", int64(0)))))
		NewWithT(t).Expect(StepsOf(in, changes)).To(BeZero())
	})
}

func TestSteps(t *testing.T) {
	large := func(_ *wasmev1.FilterDeployment, c *revision.Content) {
		c.Module.SizeBytes = new(int64(256 * mebibyte))
	}
	fewPods := func(fd *wasmev1.FilterDeployment, _ *revision.Content) {
		fd.Spec.Rollout = &wasmev1.RolloutSpec{MaxPods: new(int32(3))}
	}
	four := map[string]int{"a": 3, "b": 2, "c": 0, "d": 1}
	for _, row := range []struct {
		name          string
		asks          []change
		pods          map[string]int
		first         string
		others, waves int
	}{
		{"begin with the workload with the fewest pods", nil, four, "d", 3, 1},
		{"have one workload only", nil, map[string]int{"a": 3}, "a", 0, 0},
		{"begin with a workload without pods where there is no other", nil, map[string]int{"c": 0}, "c", 0, 0},
		{"are bounded by maxPods", []change{fewPods}, four, "d", 3, 2},
		{"are bounded by what pods fetch", []change{large}, four, "d", 3, 2},
		{"are waves without a first one at once", []change{immediate, large}, four, "", 4, 3},
		{"let a large workload go alone", []change{immediate}, map[string]int{"a": 300, "b": 1, "c": 1}, "", 3, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			fd, asked := asking(t, row.asks...)
			in := inputOf(fd, asked, row.pods)
			steps := StepsOf(in, Changes(in, emit.Objects(in), nil))
			g.Expect(steps.Staged).To(Equal(row.first != ""))
			g.Expect(steps.First.Workload).To(Equal(row.first))
			g.Expect([]int{steps.Others, steps.Waves}).To(Equal([]int{row.others, row.waves}))
		})
	}
	t.Run("are one for a configuration at once", func(t *testing.T) {
		fd, asked := asking(t, immediate)
		in := inputOf(fd, asked, nil)
		changes := []Change{{Kind: Configuration, Pods: 300}, {Kind: Configuration, Pods: 300}}
		NewWithT(t).Expect(StepsOf(in, changes)).To(Equal(Steps{Others: 2, Waves: 1}))
	})
}
