package undo

import (
	"encoding/json"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// kept returns a revision that the operator keeps under a number.
func kept(t *testing.T, number int64, content revision.Content) revision.Revision {
	t.Helper()
	if content.Module.SHA256 == "" {
		content.Module.SHA256 = "00"
	}
	content.Module.SizeBytes = new(int64(1))
	data, err := json.Marshal(content)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	object := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "r"}, Data: runtime.RawExtension{Raw: data}, Revision: number}
	known, err := revision.Decode(object)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return known
}

func image(reference, digest string, config string) revision.Content {
	return revision.Content{
		Filter: wasmev1.FilterSpec{Image: reference, RootID: "root", Config: &wasmev1.Configuration{Raw: []byte(config)}},
		Module: wasmev1.ModuleStatus{ManifestDigest: digest},
	}
}

func asking(filter wasmev1.FilterSpec) *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "hello"}, Spec: wasmev1.FilterDeploymentSpec{Filter: filter}}
}

func TestFind(t *testing.T) {
	g := NewWithT(t)
	history := []revision.Revision{kept(t, 2, image("r/a:v2", "", `"b"`)), kept(t, 1, image("r/a:v1", "", `"a"`))}
	g.Expect(Find(history, "1")).To(Equal(&history[1]))
	g.Expect(Find(history, history[0].Hash)).To(Equal(&history[0]))
	_, err := Find(history, "7")
	g.Expect(err).To(MatchError("finding revision 7: it was not kept: choose one of 2, 1"))
	_, err = Find(nil, "7")
	g.Expect(err).To(MatchError("finding revision 7: the operator has kept no revision yet"))
}

func TestPrevious(t *testing.T) {
	first, second, third := image("r/a:v1", "sha256:1", `"a"`), image("r/a:v1", "sha256:1", `"b"`), image("r/a:v1", "sha256:1", `"c"`)
	history := []revision.Revision{kept(t, 3, third), kept(t, 2, second), kept(t, 1, first)}
	moved := image("r/a:v1", "sha256:2", `"c"`)
	moved.Module.SHA256 = "11"
	for _, row := range []struct {
		name    string
		asks    revision.Content
		from    string
		history []revision.Revision
		want    int64
	}{
		{"is the one before that of the spec", third, "", history, 2},
		{"is the last good one, even if another one is newer", third, history[2].Hash, history, 1},
		{"is the newest where the spec was never resolved", image("r/a:v9", "", `"c"`), "", history, 3},
		{"is the last good one where the spec was never resolved", image("r/a:v9", "", `"c"`), history[1].Hash, history, 2},
		{"is the newest other one where the last good one was not kept", third, "99999999", history, 2},
		{"is what the tag had before", moved, "", append([]revision.Revision{kept(t, 4, moved)}, history...), 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			fd := asking(row.asks.Filter)
			fd.Status.Rollout = &wasmev1.RolloutStatus{From: row.from, To: "x"}
			found, err := Previous(fd, row.history)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(found.Object.Revision).To(Equal(row.want))
		})
	}
	t.Run("is none where the operator has kept no other one", func(t *testing.T) {
		_, err := Previous(asking(third.Filter), history[:1])
		NewWithT(t).Expect(err).To(MatchError("undoing the rollout of hello: the operator has kept no revision but the one that the spec asks for: change the spec yourself"))
	})
	t.Run("does not mind what a revision leaves out", func(t *testing.T) {
		g := NewWithT(t)
		url := kept(t, 2, revision.Content{Filter: wasmev1.FilterSpec{URL: "https://h/m.wasm?key=1", SHA256: "00", RootID: "root", Config: &wasmev1.Configuration{Raw: []byte(`"a"`)}}})
		fd := asking(url.Filter)
		fd.Spec.Filter.URL, fd.Spec.Filter.Preflight = "https://h/m.wasm?key=2", wasmev1.PreflightWarn
		fd.Spec.Filter.Config, fd.Spec.Filter.ConfigFrom = nil, &wasmev1.ConfigurationSource{}
		_, err := Previous(fd, []revision.Revision{url})
		g.Expect(err).To(HaveOccurred())
	})
	t.Run("has another kind of output", func(t *testing.T) {
		fd := asking(third.Filter)
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: wasmev1.OutputWasmPlugin}
		found, err := Previous(fd, history)
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		NewWithT(t).Expect(found.Object.Revision).To(Equal(int64(3)))
	})
}

func TestTo(t *testing.T) {
	t.Run("brings back the filter, and keeps how it is tried", func(t *testing.T) {
		g := NewWithT(t)
		old := image("r/a:v1", "sha256:1", `"a"`)
		old.Output, old.Distribution = wasmev1.OutputWasmPlugin, wasmev1.DistributionRegistry
		old.Filter.Config.Raw = []byte(`{"a":1}`)
		old.Module.ManifestDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
		history := []revision.Revision{kept(t, 2, image("r/a:v2", "sha256:2", `"b"`)), kept(t, 1, old)}
		fd := asking(history[0].Filter)
		fd.Spec.Filter.Preflight = wasmev1.PreflightWarn
		change, err := To(fd, &history[1], history)
		g.Expect(err).NotTo(HaveOccurred())
		want := *old.Filter.DeepCopy()
		want.Preflight = wasmev1.PreflightWarn
		g.Expect(change).To(Equal(Change{Filter: want, Output: wasmev1.OutputWasmPlugin, Distribution: wasmev1.DistributionRegistry}))
	})
	t.Run("references an image whose tag has moved by its digest", func(t *testing.T) {
		g := NewWithT(t)
		const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
		history := []revision.Revision{kept(t, 2, image("r.io/a:v1", "sha256:2", `"a"`)), kept(t, 1, image("r.io/a:v1", digest, `"a"`))}
		change, err := To(asking(history[0].Filter), &history[1], history)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(change.Filter.Image).To(Equal("r.io/a@" + digest))
		g.Expect(change.Notes).To(ConsistOf("the tag of r.io/a:v1 has another image since: spec.filter.image references the former one by its digest"))
	})
	t.Run("has the content of a configuration in place of its source", func(t *testing.T) {
		g := NewWithT(t)
		history := []revision.Revision{kept(t, 1, image("r/a:v1", "sha256:1", `"a"`))}
		fd := asking(wasmev1.FilterSpec{Image: "r/a:v2", ConfigFrom: &wasmev1.ConfigurationSource{}})
		change, err := To(fd, &history[0], history)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(change.Filter.ConfigFrom).To(BeNil())
		g.Expect(change.Notes).To(ConsistOf(ContainSubstring("configFrom is gone")))
	})
	t.Run("keeps the query of a URL that stays", func(t *testing.T) {
		g := NewWithT(t)
		history := []revision.Revision{kept(t, 1, revision.Content{Filter: wasmev1.FilterSpec{URL: "https://h/m.wasm", SHA256: "00", RootID: "root"}})}
		change, err := To(asking(wasmev1.FilterSpec{URL: "https://h/m.wasm?key=2"}), &history[0], history)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(change.Filter.URL).To(Equal("https://h/m.wasm?key=2"))
	})
	t.Run("refuses a revision with fields of a newer operator", func(t *testing.T) {
		g := NewWithT(t)
		known := kept(t, 1, image("r/a:v1", "sha256:1", `"a"`))
		known.Object.Data.Raw = []byte(`{"filter":{"image":"r/a:v1","newField":1},"module":{"reference":"","sha256":"00","sizeBytes":1}}`)
		_, err := To(asking(known.Filter), &known, nil)
		g.Expect(err).To(MatchError(And(ContainSubstring("newField"), HaveSuffix("update wasme"))))
	})
}
