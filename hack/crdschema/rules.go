package main

import (
	"fmt"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/rules"
)

// What the rules are made of. Optional chaining would be shorter, but API servers
// have it only since 1.30, and the operator supports 1.29.
const (
	hasIstio = `has(self.deployment) && has(self.deployment.istio)`
	// otherOutput holds when the output is not an EnvoyFilter.
	otherOutput = `(` + hasIstio + ` && has(self.deployment.istio.output) && self.deployment.istio.output != 'EnvoyFilter')`
	// noTargetRefs holds when workloads are selected.
	noTargetRefs = `(!has(self.deployment) || !has(self.deployment.istio) || !has(self.deployment.istio.targetRefs) || size(self.deployment.istio.targetRefs) == 0)`
	// served holds when proxies do not pull the image.
	served = `(!has(self.deployment) || !has(self.deployment.istio) || !has(self.deployment.istio.distribution) || self.deployment.istio.distribution == 'Served')`

	// subdomain is the pattern of an object's name (RFC 1123).
	subdomain = `[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*`

	gateway   = `(has(self.filter.patchContext) && self.filter.patchContext == 'gateway')`
	noPorts   = `(!has(self.filter.ports) || size(self.filter.ports) == 0)`
	hasPlace  = `has(self.filter.position)`
	hasPhase  = `has(self.filter.position.phase)`
	hasSecret = `(has(self.filter.imagePullOptions) && (has(self.filter.imagePullOptions.pullSecret) && size(self.filter.imagePullOptions.pullSecret) > 0` +
		` || has(self.filter.imagePullOptions.pullSecrets) && size(self.filter.imagePullOptions.pullSecrets) > 0))`
	oneToPullWith = `(!has(self.filter.imagePullOptions) || !has(self.filter.imagePullOptions.pullSecrets) || size(self.filter.imagePullOptions.pullSecrets) < 2)`
)

// levelRule is a rule of the schema at a level, whose value the expression calls
// self. The level is spec where the rule needs both its parts.
type levelRule struct {
	level      string
	rule       *rules.Rule
	expression string
}

const (
	specLevel   = "spec"
	filterLevel = "spec.filter"
	idLevel     = "spec.filter.id"
	istioLevel  = "spec.deployment.istio"
)

// levelRules are the rules that internal/render checks, too.
var levelRules = []levelRule{
	{idLevel, rules.InvalidID, `self == '' || self.matches('^` + subdomain + `$')`},
	{filterLevel, rules.NotOneSource, `[has(self.image), has(self.url), has(self.configMap)].exists_one(given, given)`},
	{filterLevel, rules.URLWithoutDigest, `!has(self.url) || has(self.sha256)`},
	{filterLevel, rules.PortsOfAllTraffic, `!has(self.ports) || size(self.ports) == 0 || !has(self.patchContext) || self.patchContext != 'any'`},
	{istioLevel, rules.ServiceInEnvoyFilter, `!has(self.targetRefs) || (has(self.output) && self.output != 'EnvoyFilter') || self.targetRefs.all(ref, ref.kind != 'Service')`},
	{specLevel, rules.PhaseInEnvoyFilter, `!` + hasPlace + ` || !` + hasPhase + ` || ` + otherOutput},
	{specLevel, rules.PositionWithoutPhase, `!` + hasPlace + ` || ` + hasPhase + ` || !` + otherOutput},
	{specLevel, rules.AllTrafficInEnvoyFilter, noTargetRefs + ` || ` + otherOutput + ` || !has(self.filter.patchContext) || self.filter.patchContext != 'any'`},
	{specLevel, rules.OutboundOfTargetRef, noTargetRefs + ` || !has(self.filter.patchContext) || self.filter.patchContext != 'outbound'`},
	{specLevel, rules.GatewayTrafficOfService, noTargetRefs + ` || !` + gateway + ` || self.deployment.istio.targetRefs.all(ref, ref.kind != 'Service')`},
	{specLevel, rules.PortsOfWaypoint, noTargetRefs + ` || ` + noPorts + ` || ` + gateway},
	{specLevel, rules.RegistryWithoutImage, served + ` || has(self.filter.image)`},
	{specLevel, rules.SeveralPullSecrets, served + ` || ` + oneToPullWith},
	{specLevel, rules.PullSecretInEnvoyFilter, served + ` || ` + otherOutput + ` || !` + hasSecret},
}

// addRules adds the rules of a level to its schema, after those of its markers.
func addRules(schema map[string]any, level string) error {
	const key = "x-kubernetes-validations"
	list, ok := schema[key].([]any)
	if _, found := schema[key]; found && !ok {
		return fmt.Errorf("%s: the rules are not a list", level)
	}
	for _, r := range levelRules {
		if r.level != level {
			continue
		}
		entry := map[string]any{"rule": r.expression, "message": r.rule.Message()}
		if path := strings.TrimPrefix(r.rule.Field, level); path != "" {
			entry["fieldPath"] = path
		}
		list = append(list, entry)
	}
	schema[key] = list
	return nil
}
