package render

import (
	"errors"
	"fmt"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Check finds what is wrong with a spec before its module is known, what its
// output cannot carry included. The schema refuses most of it; objects that
// were stored under an older schema have not passed it, and no rule can see a
// configuration. The error names the field and what helps.
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
			return errNoImage
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
	given := 0
	for _, is := range []bool{spec.Image != "", spec.URL != "", spec.ConfigMap != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("the module comes from exactly one of spec.filter.image, spec.filter.url and spec.filter.configMap")
	case spec.URL != "" && spec.SHA256 == "":
		return errors.New("spec.filter.url needs spec.filter.sha256, the digest of the module that is meant")
	}
	return nil
}

// kindsOfTargets are targets of the kinds that a spec asks for.
func kindsOfTargets(istio wasmev1.IstioDeploymentSpec) []Target {
	if len(istio.TargetRefs) == 0 {
		return []Target{{}}
	}
	targets := make([]Target, 0, len(istio.TargetRefs))
	for _, reference := range istio.TargetRefs {
		targets = append(targets, Target{Kind: reference.Kind, Name: reference.Name})
	}
	return targets
}

// checkCarried says what of the filter an output cannot bring to a target.
func (f Filter) checkCarried(output wasmev1.Output, target Target) error {
	if err := f.checkTarget(target); err != nil {
		return err
	}
	switch output {
	case wasmev1.OutputEnvoyFilter:
		return f.checkEnvoyFilter(target)
	case wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension:
		return f.checkExtension(output)
	default:
		return fmt.Errorf("spec.deployment.istio.output is %q; use EnvoyFilter, WasmPlugin or TrafficExtension", output)
	}
}

// checkTarget says what no output can bring to a target. The proxy of a
// targetRef is a gateway, or a waypoint, whose filters stand where inbound
// traffic is and know no port (listener_waypoint.go of istiod).
func (f Filter) checkTarget(target Target) error {
	ports, gateway := len(f.Place.Ports) > 0, f.PatchContext == wasmev1.PatchContextGateway
	switch {
	case ports && f.PatchContext == wasmev1.PatchContextAny:
		return errors.New("spec.filter.ports: a port is another one on inbound and on outbound traffic; set spec.filter.patchContext to inbound, outbound or gateway")
	case !target.isReference():
		return nil
	case f.PatchContext == wasmev1.PatchContextOutbound:
		return errors.New("spec.filter.patchContext: what spec.deployment.istio.targetRefs name has no outbound traffic; use gateway for gateways, inbound for waypoints")
	case gateway && target.Kind == wasmev1.TargetKindService:
		return fmt.Errorf("spec.filter.patchContext: the proxy of Service %s is a waypoint; use inbound", target.Name)
	case ports && !gateway:
		return errors.New("spec.filter.ports: waypoints cannot tell ports apart; leave it out, or set spec.filter.patchContext to gateway for gateways")
	}
	return nil
}

// checkEnvoyFilter says what an EnvoyFilter cannot bring to a target. istiod
// matches its patches in sidecars and gateways, not in waypoints, and keeps a
// pull secret from nobody.
func (f Filter) checkEnvoyFilter(target Target) error {
	switch {
	case f.Place.Position.Phase != "":
		return errors.New("spec.filter.position.phase: an EnvoyFilter has no phases; say first, before or after, or set spec.deployment.istio.output to WasmPlugin or TrafficExtension")
	case target.Kind == wasmev1.TargetKindService:
		return fmt.Errorf("spec.deployment.istio.targetRefs: the proxy of Service %s is a waypoint, which takes no EnvoyFilter; set spec.deployment.istio.output to WasmPlugin or TrafficExtension", target.Name)
	case target.isReference() && f.PatchContext != wasmev1.PatchContextGateway:
		return errors.New("spec.deployment.istio.targetRefs: an EnvoyFilter reaches gateways, not waypoints; set spec.filter.patchContext to gateway, or spec.deployment.istio.output to WasmPlugin or TrafficExtension")
	case f.Registry.PullSecret != "":
		return errors.New("spec.filter.imagePullOptions.pullSecret: an EnvoyFilter would show the credential to all who read it; use distribution Served, or set spec.deployment.istio.output to WasmPlugin or TrafficExtension")
	}
	return nil
}

// checkExtension says what a WasmPlugin or a TrafficExtension cannot bring to
// any target.
func (f Filter) checkExtension(output wasmev1.Output) error {
	if position := f.Place.Position; position.First || position.Before != "" || position.After != "" {
		return fmt.Errorf("spec.filter.position: a %s has no place but phases; say phase, or set spec.deployment.istio.output to EnvoyFilter", output)
	}
	if _, err := f.pluginConfig(); err != nil {
		return fmt.Errorf("spec.filter.config: a %s cannot carry it: %w, or set spec.deployment.istio.output to EnvoyFilter", output, err)
	}
	return nil
}
