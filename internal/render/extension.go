package render

import (
	"fmt"

	"google.golang.org/protobuf/types/known/wrapperspb"
	extensions "istio.io/api/extensions/v1alpha1"
	typeapi "istio.io/api/type/v1beta1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// modes holds the traffic of each patch context, in istiod's classes of listeners
// (workloadModeForListenerClass): inbound listeners, which include those of
// waypoints, are SERVER, and outbound listeners and those of gateways are CLIENT. So
// a filter for gateways also runs on what a sidecar sends, if a sidecar gets it.
// UNDEFINED is all traffic.
var modes = map[wasmev1.PatchContext]typeapi.WorkloadMode{
	wasmev1.PatchContextInbound:  typeapi.WorkloadMode_SERVER,
	wasmev1.PatchContextOutbound: typeapi.WorkloadMode_CLIENT,
	wasmev1.PatchContextGateway:  typeapi.WorkloadMode_CLIENT,
	wasmev1.PatchContextAny:      typeapi.WorkloadMode_UNDEFINED,
}

var phases = map[wasmev1.Phase]extensions.TrafficExtension_ExecutionPhase{
	"":                 extensions.TrafficExtension_UNSPECIFIED,
	wasmev1.PhaseAuthn: extensions.TrafficExtension_AUTHN,
	wasmev1.PhaseAuthz: extensions.TrafficExtension_AUTHZ,
	wasmev1.PhaseStats: extensions.TrafficExtension_STATS,
}

var failStrategies = map[wasmev1.FailStrategy]extensions.FailStrategy{
	wasmev1.FailReload: extensions.FailStrategy_FAIL_RELOAD,
	wasmev1.FailClosed: extensions.FailStrategy_FAIL_CLOSE,
	wasmev1.FailOpen:   extensions.FailStrategy_FAIL_OPEN,
}

// TrafficExtension renders the spec of the TrafficExtension that makes the proxies
// of one target run a filter. It also reaches every other workload whose pods have
// all labels that the target's selector asks for. It cannot say how long the module's VM waits
// after a crash under FailReload, which is a second, nor what happens to requests
// until the filter loads. The error says what is wrong with the target, or what part
// of the filter a TrafficExtension cannot carry.
func TrafficExtension(mesh Mesh, filter Filter, target workload.Target) (*extensions.TrafficExtension, error) {
	return trafficExtension(mesh, wasmev1.OutputTrafficExtension, filter, target)
}

// WasmPlugin renders the spec of the WasmPlugin that makes the proxies of one target
// run a filter. It reaches and carries the same as a TrafficExtension, since istiod
// turns it into one.
func WasmPlugin(mesh Mesh, filter Filter, target workload.Target) (*extensions.WasmPlugin, error) {
	extension, err := trafficExtension(mesh, wasmev1.OutputWasmPlugin, filter, target)
	if err != nil {
		return nil, err
	}
	wasm := extension.GetWasm()
	plugin := &extensions.WasmPlugin{
		Selector:        extension.Selector,
		TargetRefs:      extension.TargetRefs,
		Phase:           extensions.PluginPhase(extension.Phase), // the same numbers
		Priority:        extension.Priority,
		Url:             wasm.Url,
		Sha256:          wasm.Sha256,
		ImagePullSecret: wasm.ImagePullSecret,
		PluginName:      wasm.PluginName,
		PluginConfig:    wasm.PluginConfig,
		FailStrategy:    wasm.FailStrategy,
		VmConfig:        wasm.VmConfig,
	}
	for _, match := range extension.Match {
		plugin.Match = append(plugin.Match, &extensions.WasmPlugin_TrafficSelector{Mode: match.Mode, Ports: match.Ports})
	}
	return plugin, nil
}

func trafficExtension(mesh Mesh, output wasmev1.Output, filter Filter, target workload.Target) (*extensions.TrafficExtension, error) {
	if err := filter.checkCarried(output, target); err != nil {
		return nil, err
	}
	if err := checkWaypoint(target); err != nil {
		return nil, err
	}
	labels := selectorFor(target)
	if labels == nil && !target.IsReference() {
		return nil, fmt.Errorf("the selector of %s %s has no matchLabels, so a %s cannot select its pods: set spec.deployment.istio.output to EnvoyFilter", target.Kind, target.Name, output)
	}
	wasm, err := wasmConfig(mesh, filter)
	if err != nil {
		return nil, err
	}
	extension := &extensions.TrafficExtension{
		TargetRefs: referencesTo(target),
		Phase:      phases[filter.Place.Position.Phase],
		// A higher one runs earlier. Without a priority, the filter would run last.
		Priority:     wrapperspb.Int32(filter.Place.Priority),
		Match:        trafficSelectors(filter),
		FilterConfig: &extensions.TrafficExtension_Wasm{Wasm: wasm},
	}
	if labels != nil {
		extension.Selector = &typeapi.WorkloadSelector{MatchLabels: labels}
	}
	return extension, nil
}

func wasmConfig(mesh Mesh, filter Filter) (*extensions.WasmConfig, error) {
	config, err := filter.pluginConfig()
	if err != nil {
		return nil, err
	}
	url, sha256 := moduleSource(mesh, filter)
	return &extensions.WasmConfig{
		Url:             url,
		Sha256:          sha256,
		ImagePullSecret: filter.Registry.PullSecret,
		PluginName:      filter.RootID,
		PluginConfig:    config,
		FailStrategy:    failStrategies[filter.FailStrategy],
		VmConfig:        vmConfig(filter.Env),
	}, nil
}

func vmConfig(env []wasmev1.EnvVar) *extensions.VmConfig {
	if len(env) == 0 {
		return nil
	}
	config := &extensions.VmConfig{}
	for _, variable := range env {
		rendered := &extensions.EnvVar{Name: variable.Name}
		if variable.Value != nil {
			rendered.Value = *variable.Value
		} else {
			rendered.ValueFrom = extensions.EnvValueSource_HOST
		}
		config.Env = append(config.Env, rendered)
	}
	return config
}

// trafficSelectors returns nil for all traffic.
func trafficSelectors(filter Filter) []*extensions.TrafficSelector {
	mode := modes[filter.PatchContext]
	if mode == typeapi.WorkloadMode_UNDEFINED {
		return nil
	}
	selector := &extensions.TrafficSelector{Mode: mode}
	for _, port := range filter.Place.Ports {
		selector.Ports = append(selector.Ports, &typeapi.PortSelector{Number: port})
	}
	return []*extensions.TrafficSelector{selector}
}
