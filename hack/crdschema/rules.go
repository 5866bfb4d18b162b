package main

// What the rules are made of. Optional chaining would be shorter; API servers
// know it from 1.30, and the operator asks for 1.29.
const (
	hasIstio = `has(self.deployment) && has(self.deployment.istio)`
	// otherOutput: not an EnvoyFilter.
	otherOutput = `(` + hasIstio + ` && has(self.deployment.istio.output) && self.deployment.istio.output != 'EnvoyFilter')`
	// noTargetRefs: workloads are selected.
	noTargetRefs = `(!has(self.deployment) || !has(self.deployment.istio) || !has(self.deployment.istio.targetRefs) || size(self.deployment.istio.targetRefs) == 0)`
	// served: not from the registry.
	served = `(!has(self.deployment) || !has(self.deployment.istio) || !has(self.deployment.istio.distribution) || self.deployment.istio.distribution == 'Served')`

	gateway   = `(has(self.filter.patchContext) && self.filter.patchContext == 'gateway')`
	noPorts   = `(!has(self.filter.ports) || size(self.filter.ports) == 0)`
	hasPlace  = `has(self.filter.position)`
	hasPhase  = `has(self.filter.position.phase)`
	hasSecret = `(has(self.filter.imagePullOptions) && has(self.filter.imagePullOptions.pullSecret) && size(self.filter.imagePullOptions.pullSecret) > 0)`
)

// specRule is what must be true of a spec, and what the API server says when it
// is not, about the field at the path. internal/render says the same of objects
// that were stored before there was the rule.
type specRule struct{ expression, message, path string }

var specRules = []specRule{
	{
		`!` + hasPlace + ` || !` + hasPhase + ` || ` + otherOutput,
		"an EnvoyFilter has no phases: say first, before or after, or set deployment.istio.output to WasmPlugin or TrafficExtension",
		".filter.position",
	},
	{
		`!` + hasPlace + ` || ` + hasPhase + ` || !` + otherOutput,
		"only an EnvoyFilter can say first, before or after: say phase, or leave deployment.istio.output out",
		".filter.position",
	},
	{
		noTargetRefs + ` || ` + otherOutput + ` || ` + gateway,
		"an EnvoyFilter reaches gateways, not waypoints: set filter.patchContext to gateway, or deployment.istio.output to WasmPlugin or TrafficExtension",
		".deployment.istio.targetRefs",
	},
	{
		noTargetRefs + ` || !has(self.filter.patchContext) || self.filter.patchContext != 'outbound'`,
		"what targetRefs name has no outbound traffic: set patchContext to gateway for gateways, to inbound for waypoints",
		".filter.patchContext",
	},
	{
		noTargetRefs + ` || !` + gateway + ` || self.deployment.istio.targetRefs.all(ref, ref.kind != 'Service')`,
		"the proxy of a Service is a waypoint: set patchContext to inbound",
		".filter.patchContext",
	},
	{
		noTargetRefs + ` || ` + noPorts + ` || ` + gateway,
		"waypoints cannot tell ports apart: leave ports out, or set patchContext to gateway for gateways",
		".filter.ports",
	},
	{
		served + ` || has(self.filter.image)`,
		"proxies pull nothing but images: name one in filter.image, or leave distribution out",
		".deployment.istio.distribution",
	},
	{
		served + ` || ` + otherOutput + ` || !` + hasSecret,
		"an EnvoyFilter would show the credential to all who read it: leave pullSecret or deployment.istio.distribution out, or set deployment.istio.output to WasmPlugin or TrafficExtension",
		".filter.imagePullOptions.pullSecret",
	},
}

func ruleList() []any {
	var list []any
	for _, rule := range specRules {
		list = append(list, map[string]any{
			"rule": rule.expression, "message": rule.message, "fieldPath": rule.path,
		})
	}
	return list
}
