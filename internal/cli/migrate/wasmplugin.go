package migrate

import (
	"slices"

	extensions "istio.io/api/extensions/v1alpha1"
	typeapi "istio.io/api/type/v1beta1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

var failStrategies = map[extensions.FailStrategy]wasmev1.FailStrategy{
	extensions.FailStrategy_FAIL_CLOSE:  wasmev1.FailClosed,
	extensions.FailStrategy_FAIL_OPEN:   wasmev1.FailOpen,
	extensions.FailStrategy_FAIL_RELOAD: wasmev1.FailReload,
}

var phases = map[extensions.PluginPhase]wasmev1.Phase{
	extensions.PluginPhase_AUTHN: wasmev1.PhaseAuthn,
	extensions.PluginPhase_AUTHZ: wasmev1.PhaseAuthz,
	extensions.PluginPhase_STATS: wasmev1.PhaseStats,
}

// readWasmPlugin reads what a WasmPlugin asks for. Its output stays a WasmPlugin: an
// EnvoyFilter has no phases, and another place among the filters of a proxy.
func readWasmPlugin(object istio.Output) *reading {
	r := &reading{output: wasmev1.OutputWasmPlugin}
	var spec extensions.WasmPlugin
	if err := spec.UnmarshalJSON(object.Content().Raw); err != nil {
		r.refuse("spec", "it cannot be read: %v", err)
		return r
	}
	r.selector = spec.GetSelector().GetMatchLabels()
	r.readReferences(append(spec.GetTargetRefs(), oneOrNone(spec.GetTargetRef())...))
	if spec.GetType() == extensions.PluginType_NETWORK {
		r.refuse("spec.type", "NETWORK is a filter of TCP connections, and a FilterDeployment one of HTTP requests: keep the WasmPlugin")
	}
	f := filter{plugin: object.GetName()}
	f.from(spec.GetUrl(), spec.GetSha256())
	f.spec.RootID = spec.GetPluginName()
	f.spec.FailStrategy = failStrategies[spec.GetFailStrategy()]
	if phase := phases[spec.GetPhase()]; phase != "" {
		f.spec.Position = &wasmev1.Position{Phase: phase}
	}
	if priority := spec.GetPriority().GetValue(); priority != 0 {
		f.spec.Priority = &priority
	}
	if config := spec.GetPluginConfig(); len(config.GetFields()) > 0 {
		f.spec.Config = jsonOf(config.AsMap())
	}
	if secret := spec.GetImagePullSecret(); secret != "" {
		f.spec.ImagePullOptions = &wasmev1.ImagePullOptions{PullSecret: secret}
	}
	if f.spec.Image != "" && spec.GetImagePullPolicy() == extensions.PullPolicy_IfNotPresent {
		f.spec.ImagePullPolicy = wasmev1.PullIfNotPresent
	}
	for _, variable := range spec.GetVmConfig().GetEnv() {
		f.addVariable(&r.document, "spec.vmConfig.env", variableOf(variable))
	}
	r.readTraffic(&f, spec.GetMatch())
	r.filters = []filter{f}
	return r
}

func oneOrNone(reference *typeapi.PolicyTargetReference) []*typeapi.PolicyTargetReference {
	if reference == nil {
		return nil
	}
	return []*typeapi.PolicyTargetReference{reference}
}

func variableOf(variable *extensions.EnvVar) wasmev1.EnvVar {
	if variable.GetValueFrom() == extensions.EnvValueSource_HOST {
		return fromHost(variable.GetName())
	}
	return wasmev1.EnvVar{Name: variable.GetName(), Value: new(variable.GetValue())}
}

// readTraffic reads which traffic passes the plugin: what any of the selectors matches.
func (r *reading) readTraffic(f *filter, selectors []*extensions.WasmPlugin_TrafficSelector) {
	if len(selectors) == 0 {
		f.spec.PatchContext = wasmev1.PatchContextAny
		return
	}
	var modes []typeapi.WorkloadMode
	all := false
	for _, selector := range selectors {
		mode := selector.GetMode()
		if mode == typeapi.WorkloadMode_UNDEFINED {
			mode = typeapi.WorkloadMode_CLIENT_AND_SERVER
		}
		if !slices.Contains(modes, mode) {
			modes = append(modes, mode)
		}
		all = all || len(selector.GetPorts()) == 0
		for _, port := range selector.GetPorts() {
			f.spec.Ports = append(f.spec.Ports, int32(port.GetNumber())) //nolint:gosec // the API server checks ports
		}
	}
	if all && len(f.spec.Ports) > 0 && len(modes) > 1 || !all && len(modes) > 1 {
		r.refuse("spec.match", "it has other ports for inbound than for outbound traffic: write one WasmPlugin for each first")
	}
	f.spec.Ports = distinct(f.spec.Ports)
	if all {
		f.spec.Ports = nil
	}
	switch {
	case len(modes) > 1 || modes[0] == typeapi.WorkloadMode_CLIENT_AND_SERVER:
		f.spec.PatchContext = wasmev1.PatchContextAny
	case modes[0] == typeapi.WorkloadMode_SERVER:
		f.spec.PatchContext = wasmev1.PatchContextInbound
	default:
		f.spec.PatchContext, f.client = wasmev1.PatchContextOutbound, true
	}
}

func distinct(ports []int32) []int32 {
	slices.Sort(ports)
	return slices.Compact(ports)
}
