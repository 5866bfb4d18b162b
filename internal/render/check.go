package render

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rules"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Check returns what is wrong with a spec before its module is known, including what
// its output cannot carry. The schema refuses most of it, but objects that were stored
// under an older schema have not passed it, and no rule can see a configuration. The
// error names the field and the fix, and is a rules.Rule where the schema has the
// same rule.
func Check(spec wasmev1.FilterDeploymentSpec) error {
	filter, err := readFilter(spec.Filter)
	if err != nil {
		return err
	}
	if err := checkSource(spec.Filter); err != nil {
		return err
	}
	var istio wasmev1.IstioDeploymentSpec
	if spec.Deployment.Istio != nil {
		istio = *spec.Deployment.Istio
	}
	if istio.Distribution == wasmev1.DistributionRegistry {
		if spec.Filter.Image == "" {
			return rules.RegistryWithoutImage
		}
		if len(spec.Filter.ImagePullOptions.SecretNames()) > 1 {
			return rules.SeveralPullSecrets
		}
		filter.Registry.PullSecret = pullSecret(spec.Filter)
	}
	for _, target := range kindsOfTargets(istio) {
		if err := filter.checkCarried(orDefault(istio.Output, wasmev1.OutputEnvoyFilter), target); err != nil {
			return err
		}
	}
	return nil
}

func checkSource(spec wasmev1.FilterSpec) error {
	if spec.ID != "" && len(validation.IsDNS1123Subdomain(spec.ID)) > 0 {
		return rules.InvalidID
	}
	given := 0
	for _, set := range []bool{spec.Image != "", spec.URL != "", spec.ConfigMap != nil} {
		if set {
			given++
		}
	}
	switch {
	case given != 1:
		return rules.NotOneSource
	case spec.URL != "" && spec.SHA256 == "":
		return rules.URLWithoutDigest
	}
	return nil
}

// kindsOfTargets returns targets with the kinds that a spec asks for.
func kindsOfTargets(istio wasmev1.IstioDeploymentSpec) []workload.Target {
	if len(istio.TargetRefs) == 0 {
		return []workload.Target{{}}
	}
	targets := make([]workload.Target, 0, len(istio.TargetRefs))
	for _, reference := range istio.TargetRefs {
		targets = append(targets, workload.Target{Kind: reference.Kind, Name: reference.Name})
	}
	return targets
}

// checkCarried returns what of the filter an output cannot bring to a target.
func (f Filter) checkCarried(output wasmev1.Output, target workload.Target) error {
	if err := f.checkTarget(target); err != nil {
		return err
	}
	switch output {
	case wasmev1.OutputEnvoyFilter:
		return f.checkEnvoyFilter(target)
	case wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension:
		return f.checkExtension(output)
	default:
		return fmt.Errorf("spec.deployment.istio.output is %q: use EnvoyFilter, WasmPlugin or TrafficExtension", output)
	}
}

// checkTarget returns what no output can bring to a target. The proxy of a targetRef is
// a gateway or a waypoint. The filters of a waypoint are those of inbound traffic, and
// match no port (listener_waypoint.go of istiod).
func (f Filter) checkTarget(target workload.Target) error {
	ports, gateway := len(f.Place.Ports) > 0, f.PatchContext == wasmev1.PatchContextGateway
	switch {
	case ports && f.PatchContext == wasmev1.PatchContextAny:
		return rules.PortsOfAllTraffic
	case !target.IsReference():
		return nil
	case f.PatchContext == wasmev1.PatchContextOutbound:
		return rules.OutboundOfTargetRef
	case gateway && target.Kind == wasmev1.TargetKindService:
		return rules.GatewayTrafficOfService
	case ports && !gateway:
		return rules.PortsOfWaypoint
	}
	return nil
}

// checkEnvoyFilter returns what an EnvoyFilter cannot bring to a target. It can reach a
// gateway or a waypoint, each in its own way, but no single Service of a waypoint. It
// hides a pull secret from nobody.
func (f Filter) checkEnvoyFilter(target workload.Target) error {
	switch {
	case f.Place.Position.Phase != "":
		return rules.PhaseInEnvoyFilter
	case target.Kind == wasmev1.TargetKindService:
		return rules.ServiceInEnvoyFilter
	case target.IsReference() && f.PatchContext == wasmev1.PatchContextAny:
		return rules.AllTrafficInEnvoyFilter
	case len(target.Name) > validation.LabelValueMaxLength && target.IsReference():
		return fmt.Errorf("no pod can have the label %s with the name of Gateway %s: choose a name of at most %d characters", workload.GatewayLabel, target.Name, validation.LabelValueMaxLength)
	case f.Registry.PullSecret != "":
		return rules.PullSecretInEnvoyFilter
	}
	return nil
}

// checkExtension returns what a WasmPlugin or a TrafficExtension cannot bring to any
// target.
func (f Filter) checkExtension(output wasmev1.Output) error {
	if position := f.Place.Position; position.First || position.Before != "" || position.After != "" {
		return rules.PositionWithoutPhase
	}
	if _, err := f.pluginConfig(); err != nil {
		return fmt.Errorf("spec.filter.config: a %s cannot carry %w, or set spec.deployment.istio.output to EnvoyFilter", output, err)
	}
	return nil
}
