package render

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// fingerprintLength is that of a fingerprint, in hexadecimal digits.
const fingerprintLength = 8

// Fingerprint identifies how this version of the operator renders for a mesh: two
// that are the same render the same filters to the same outputs. It is made from
// samples, which use each part of what is rendered.
func (m Mesh) Fingerprint() string {
	sum := sha256.New()
	for _, s := range samples() {
		for _, spec := range s.render(m) {
			fmt.Fprintf(sum, "%s\n", spec)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:fingerprintLength]
}

// sample is a filter for a target.
type sample struct {
	filter Filter
	target workload.Target
}

// render returns all that can be rendered for it, as JSON.
func (s sample) render(mesh Mesh) []string {
	owner := types.NamespacedName{Namespace: s.target.Namespace, Name: "sample"}
	var specs []string
	add := func(spec json.Marshaler, err error) {
		if err != nil {
			specs = append(specs, err.Error()) // an output cannot carry it
			return
		}
		text, _ := spec.MarshalJSON() // what was made here can be encoded
		// The spaces of this encoding are random, one for each build.
		specs = append(specs, strings.ReplaceAll(string(text), " ", ""))
	}
	live, err := EnvoyFilter(mesh, owner, s.filter, s.target, "1")
	if err == nil {
		err = AddCanary(live, mesh, owner, &s.filter, s.target, s.filter, []string{"pod"})
	}
	if err == nil {
		err = AddStagingSlot(live, mesh, owner, s.filter, s.target, nil, "")
	}
	add(live, err)
	staging, err := StagingEnvoyFilter(mesh, owner, s.filter, s.target, "1")
	if err == nil {
		err = AddCanary(staging, mesh, owner, nil, s.target, s.filter, []string{"pod"})
	}
	add(staging, err)
	add(WasmPlugin(mesh, s.filter, s.target))
	add(TrafficExtension(mesh, s.filter, s.target))
	return specs
}

func samples() []sample {
	base := Filter{
		ID: "sample", ModuleSHA256: strings.Repeat("0", 2*sha256.Size), RootID: "root", Configuration: []byte(`{"a":[1,"b"]}`),
		PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload,
	}
	app := workload.Target{Kind: "Deployment", Namespace: "sample", Name: "app", Selector: map[string]string{"app": "app"}, PodLabels: map[string]string{"app": "app", "version": "v1"}}
	with := func(change func(*Filter)) Filter {
		changed := base
		change(&changed)
		return changed
	}
	return []sample{
		{base, app},
		{with(func(f *Filter) {
			f.PatchContext, f.FailStrategy, f.Configuration = wasmev1.PatchContextOutbound, wasmev1.FailOpen, nil
			f.Env = []wasmev1.EnvVar{{Name: "A", Value: new("a")}, {Name: "B", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}}}
			f.Place.Ports = []uint32{80, 443}
		}), app},
		{with(func(f *Filter) {
			f.PatchContext, f.FailStrategy = wasmev1.PatchContextAny, wasmev1.FailClosed
			f.Place.Position = wasmev1.Position{Before: "envoy.filters.http.cors"}
		}), app},
		{with(func(f *Filter) { f.Place.Position = wasmev1.Position{First: true} }), app},
		{with(func(f *Filter) {
			f.Place.Position = wasmev1.Position{Phase: wasmev1.PhaseAuthz}
			f.Registry = Registry{Image: "example.com/sample@sha256:" + strings.Repeat("0", 2*sha256.Size), PullSecret: "pull"}
		}), app},
		{with(func(f *Filter) { f.PatchContext = wasmev1.PatchContextGateway }), workload.Target{Kind: wasmev1.TargetKindGateway, Namespace: "sample", Name: "gateway"}},
		{base, workload.Target{Kind: wasmev1.TargetKindService, Namespace: "sample", Name: "service"}},
	}
}
