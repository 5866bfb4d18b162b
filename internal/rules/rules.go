// Package rules holds the sentences about specs that cannot work: one for each
// rule that both the schema of the CRD and internal/render check. The schema
// refuses a new object, and the renderer an object that was stored before the
// schema had the rule, so both must say the same. hack/crdschema holds the
// expression of each rule.
package rules

import "slices"

// Rule is a problem of a FilterDeployment's spec. It is the error that the
// renderer returns.
type Rule struct {
	// Field is the path of the field that must change, from the spec on.
	Field string
	// Problem says what cannot work, and Fix what to change.
	Problem, Fix string
}

// all holds the rules in the order in which they are declared.
var all []*Rule

func newRule(field, problem, fix string) *Rule {
	r := &Rule{Field: field, Problem: problem, Fix: fix}
	all = append(all, r)
	return r
}

// All returns every rule.
func All() []*Rule { return slices.Clone(all) }

// Message returns what the API server says after the path of the field.
func (r *Rule) Message() string { return r.Problem + ": " + r.Fix }

// Error returns the message with the path of the field.
func (r *Rule) Error() string { return r.Field + ": " + r.Message() }

const (
	useOtherOutput = "set spec.deployment.istio.output to WasmPlugin or TrafficExtension"

	filter       = "spec.filter"
	patchContext = "spec.filter.patchContext"
	targetRefs   = "spec.deployment.istio.targetRefs"
)

// The rules, by what breaks them.
var (
	InvalidID = newRule(
		"spec.filter.id",
		"id becomes part of object names",
		"use lower case letters, digits, '-' and single dots, with a letter or digit at both ends and beside each dot",
	)
	NotOneSource = newRule(
		filter,
		"the module must come from exactly one of image, url and configMap",
		"set one of them and leave the others out",
	)
	URLWithoutDigest = newRule(
		"spec.filter.url",
		"the module behind a URL can change",
		"set spec.filter.sha256 to the digest of the module",
	)
	PortsOfAllTraffic = newRule(
		"spec.filter.ports",
		"a port means one thing on inbound traffic and another on outbound traffic",
		"set spec.filter.patchContext to inbound, outbound or gateway",
	)
	PhaseInEnvoyFilter = newRule(
		"spec.filter.position.phase",
		"an EnvoyFilter has no phases",
		"use first, before or after, or "+useOtherOutput,
	)
	PositionWithoutPhase = newRule(
		"spec.filter.position",
		"only an EnvoyFilter supports first, before and after",
		"use phase, or set spec.deployment.istio.output to EnvoyFilter",
	)
	ServiceInEnvoyFilter = newRule(
		targetRefs,
		"an EnvoyFilter reaches all Services of a waypoint, not one of them",
		"reference the waypoint's Gateway, or "+useOtherOutput,
	)
	AllTrafficInEnvoyFilter = newRule(
		patchContext,
		"an EnvoyFilter reaches a gateway or a waypoint, each in its own way",
		"set patchContext to gateway for a gateway, to inbound for a waypoint, or "+useOtherOutput,
	)
	OutboundOfTargetRef = newRule(
		patchContext,
		"gateways and waypoints have no outbound traffic",
		"set patchContext to gateway for a gateway, to inbound for a waypoint",
	)
	GatewayTrafficOfService = newRule(
		patchContext,
		"the proxy of a Service is a waypoint",
		"set patchContext to inbound",
	)
	PortsOfWaypoint = newRule(
		"spec.filter.ports",
		"waypoints cannot tell ports apart",
		"leave ports out, or set spec.filter.patchContext to gateway for a gateway",
	)
	RegistryWithoutImage = newRule(
		"spec.deployment.istio.distribution",
		"proxies can pull images only",
		"set spec.filter.image, or set distribution to Served",
	)
	SeveralPullSecrets = newRule(
		"spec.filter.imagePullOptions.pullSecrets",
		"proxies can use one pull secret only",
		"name one, or set spec.deployment.istio.distribution to Served",
	)
	PullSecretInEnvoyFilter = newRule(
		"spec.filter.imagePullOptions.pullSecret",
		"an EnvoyFilter would show the credential to everyone who can read it",
		"leave pullSecret out, set spec.deployment.istio.distribution to Served, or "+useOtherOutput,
	)
)
