package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// filter is a spec whose filter has the given field beside its image.
func filter(field string) string {
	return fmt.Sprintf("{filter: {image: 'example.com/filter:v1', %s}}", field)
}

// istio is a spec whose deployment.istio has the given field.
// istio is a spec whose deployment.istio has the given fields, and selects everything
// unless they say what.
func istio(fields string) string {
	return fmt.Sprintf("{filter: {image: 'example.com/filter:v1'}, deployment: {istio: {%s}}}", selecting(fields))
}

// selecting adds to fields of deployment.istio that everything is selected, unless they
// say what is.
func selecting(fields string) string {
	if strings.Contains(fields, "labels") || strings.Contains(fields, "elector") || strings.Contains(fields, "targetRefs") {
		return fields
	}
	return fields + ", selector: {}"
}

// source is a spec whose filter has the given fields and no image.
func source(fields string) string {
	return "{filter: {" + fields + "}}"
}

// both is a spec with the given fields in its filter, beside an image, and in
// its deployment.istio.
func both(filter, istio string) string {
	return fmt.Sprintf("{filter: {image: 'example.com/filter:v1', %s}, deployment: {istio: {%s}}}", filter, selecting(istio))
}

const (
	toGateway        = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]"
	toService        = "targetRefs: [{kind: Service, name: details}]"
	wasmPlugin       = "output: WasmPlugin"
	trafficExtension = "output: TrafficExtension"
	digest           = "a6e01e05341b5eb81d802e09aa8efe12890b5e0513877c31183e2b91da786637"
	moduleURL        = "url: 'https://example.com/m.wasm', sha256: " + digest
)

// variables is a field `vm` with n variables.
func variables(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, fmt.Sprintf("{name: V%d, value: v}", i))
	}
	return "vm: {env: [" + strings.Join(entries, ", ") + "]}"
}

// references is a field `targetRefs` with n Gateways.
func references(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, fmt.Sprintf("{group: gateway.networking.k8s.io, kind: Gateway, name: g%d}", i))
	}
	return "targetRefs: [" + strings.Join(entries, ", ") + "]"
}

// ports is a field `ports` with n ports.
func ports(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, strconv.Itoa(i+1))
	}
	return "ports: [" + strings.Join(entries, ", ") + "]"
}

// expressions is a field `selector` with n expressions.
func expressions(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, fmt.Sprintf("{key: k%d, operator: Exists}", i))
	}
	return "selector: {matchExpressions: [" + strings.Join(entries, ", ") + "]}"
}

// long is a value of n characters.
func long(n int) string {
	return strings.Repeat("a", n)
}

// manyLabels is a field `labels` with n entries.
func manyLabels(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, fmt.Sprintf("k%d: v", i))
	}
	return "labels: {" + strings.Join(entries, ", ") + "}"
}

func anyOf(typeURL, value string) string {
	return fmt.Sprintf("config: {'@type': %s, value: %s}", typeURL, value)
}

var _ = DescribeTable("a spec is accepted",
	func(ctx context.Context, spec string) {
		Expect(create(ctx, spec)).To(Succeed())
	},
	Entry("image by tag", `{filter: {image: 'example.com/filter:v1'}}`),
	Entry("image by digest", `{filter: {image: 'example.com/filter@sha256:`+strings.Repeat("0", 64)+`'}}`),
	Entry("image of the greatest length", `{filter: {image: `+long(1024)+`}}`),
	Entry("empty deployment", `{filter: {image: 'i'}, deployment: {}}`),

	Entry("id", filter("id: bookinfo-custom-filter.bookinfo")),
	Entry("id of one character", filter("id: '7'")),
	Entry("empty id", filter("id: ''")),
	Entry("id of the greatest length", filter("id: "+long(253))),

	Entry("config: string", filter("config: world")),
	Entry("config: empty string", filter("config: ''")),
	Entry("config: string that looks like JSON", filter(`config: '{"name":"hello","value":"world"}'`)),
	Entry("config: string of the greatest length", filter("config: "+long(wasmev1.MaxConfigurationBytes))),
	Entry("config: object", filter("config: {name: hello, values: [1, true, null, {deep: er}]}")),
	Entry("config: empty object", filter("config: {}")),
	Entry("config: StringValue", filter(anyOf(wasmev1.StringValueType, "world"))),
	Entry("config: BytesValue", filter(anyOf(wasmev1.BytesValueType, "AAEC"))),
	Entry("config: Struct", filter(anyOf(wasmev1.StructType, "{name: hello}"))),
	Entry("config: null", filter("config: null")),

	Entry("rootID", filter("rootID: add_header_root_id")),
	Entry("empty rootID", filter("rootID: ''")),
	Entry("rootID of the greatest length", filter("rootID: "+long(256))),

	Entry("patchContext: inbound", filter("patchContext: inbound")),
	Entry("patchContext: outbound", filter("patchContext: outbound")),
	Entry("patchContext: gateway", filter("patchContext: gateway")),
	Entry("patchContext: any", filter("patchContext: any")),

	Entry("failStrategy: FailReload", filter("failStrategy: FailReload")),
	Entry("failStrategy: FailClosed", filter("failStrategy: FailClosed")),
	Entry("failStrategy: FailOpen", filter("failStrategy: FailOpen")),

	Entry("imagePullOptions", filter("imagePullOptions: {pullSecret: my-secret, insecureSkipVerify: true, plainHttp: true}")),
	Entry("pullSecret of the greatest length", filter("imagePullOptions: {pullSecret: "+long(253)+"}")),

	Entry("kind: Deployment", istio("kind: Deployment")),
	Entry("kind: DaemonSet", istio("kind: DaemonSet")),
	Entry("kind: StatefulSet", istio("kind: StatefulSet")),
	Entry("kind in capitals", istio("kind: STATEFULSET")),
	Entry("kind in small letters", istio("kind: daemonset")),
	Entry("kind in odd letters", istio("kind: dEpLoYmEnT")),
	Entry("empty kind", istio("kind: ''")),

	Entry("labels", istio("labels: {app: details, version: v1}")),
	Entry("no labels", istio("labels: {}")),
	Entry("label with an empty value", istio("labels: {app: ''}")),
	Entry("label value of the greatest length", istio("labels: {app: "+long(63)+"}")),
	Entry("as many labels as there may be", istio(manyLabels(64))),
	Entry("istioNamespace", istio("istioNamespace: istio-system")),
	Entry("istioNamespace of the greatest length", istio("istioNamespace: "+long(63))),

	Entry("url", source(moduleURL)),
	Entry("url with port and query", source("url: 'http://10.0.0.1:8080/m.wasm?v=1', sha256: "+digest)),
	Entry("url of an IPv6 address", source("url: 'http://[::1]:8080/m.wasm', sha256: "+digest)),
	Entry("url of the greatest length", source("url: 'https://h/"+long(2038)+"', sha256: "+digest)),
	Entry("configMap", source("configMap: {name: modules, key: add-header.wasm}")),
	Entry("configMap with a digest", source("configMap: {name: modules, key: add-header.wasm}, sha256: "+digest)),
	Entry("configMap of the greatest lengths", source("configMap: {name: "+long(253)+", key: "+long(253)+"}")),
	Entry("image with a digest of its module", filter("sha256: "+digest)),
	Entry("configFrom", filter("configFrom: {configMapKeyRef: {name: c, key: k}}")),

	Entry("priority", filter("priority: 0")),
	Entry("lowest priority", filter("priority: -1000")),
	Entry("highest priority", filter("priority: 1000")),

	Entry("position: first", filter("position: {first: true}")),
	Entry("position: before", filter("position: {before: envoy.filters.http.ext_authz}")),
	Entry("position: before a filter that is not Envoy's", filter("position: {before: istio.stats}")),
	Entry("position: before the router", filter("position: {before: envoy.filters.http.router}")),
	Entry("position: before, of the greatest length", filter("position: {before: "+long(256)+"}")),
	Entry("position: after", filter("position: {after: envoy.filters.http.cors}")),
	Entry("position: after, of the greatest length", filter("position: {after: "+long(256)+"}")),
	Entry("position: first in an EnvoyFilter", both("position: {first: true}", "output: EnvoyFilter")),
	Entry("position: phase Authn", both("position: {phase: Authn}", wasmPlugin)),
	Entry("position: phase Authz", both("position: {phase: Authz}", trafficExtension)),
	Entry("position: phase Stats", both("position: {phase: Stats}", wasmPlugin)),

	Entry("ports", filter("ports: [1, 8080, 65535]")),
	Entry("no ports", filter("ports: []")),
	Entry("as many ports as there may be", filter(ports(16))),
	Entry("ports of outbound traffic", filter("ports: [8000], patchContext: outbound")),
	Entry("no ports of any traffic", filter("ports: [], patchContext: any")),

	Entry("vm without variables", filter("vm: {}")),
	Entry("vm.env", filter("vm: {env: [{name: COLOUR, value: blue}, {name: _t0ken, valueFrom: {host: {}}}]}")),
	Entry("vm.env with an empty value", filter("vm: {env: [{name: COLOUR, value: ''}]}")),
	Entry("vm.env of the greatest lengths", filter("vm: {env: [{name: "+long(256)+", value: "+long(2048)+"}]}")),
	Entry("as many variables as there may be", filter(variables(64))),

	Entry("selector", istio("selector: {matchLabels: {app.kubernetes.io/name: details}, matchExpressions: [{key: version, operator: In, values: [v1, '']}, {key: app, operator: Exists}]}")),
	Entry("empty selector", istio("selector: {}")),
	Entry("selector beside no labels", istio("selector: {matchLabels: {app: details}}, labels: {}")),
	Entry("selector with a label of the greatest lengths", istio("selector: {matchLabels: {"+long(253)+"/"+long(63)+": "+long(63)+"}}")),
	Entry("as many expressions as there may be", istio(expressions(64))),

	Entry("targetRefs: waypoint", istio(toGateway+", "+wasmPlugin)),
	Entry("targetRefs: waypoint of a Service", istio(toService+", "+trafficExtension)),
	Entry("targetRefs: all traffic of a waypoint", both("patchContext: any", toService+", "+wasmPlugin)),
	Entry("targetRefs: gateway in a WasmPlugin", both("patchContext: gateway, ports: [8080]", toGateway+", "+wasmPlugin)),
	Entry("targetRefs: gateway in an EnvoyFilter", both("patchContext: gateway, ports: [8080]", toGateway)),
	Entry("targetRefs: waypoint in an EnvoyFilter", istio(toGateway)),
	Entry("targetRefs: waypoint in an EnvoyFilter, said", both("patchContext: inbound", toGateway+", output: EnvoyFilter")),
	Entry("verification: Required", istio("verification: Required")),
	Entry("verification: NotRequired", istio(toGateway+", verification: NotRequired, "+wasmPlugin)),
	Entry("targetRefs beside no labels", istio(toGateway+", labels: {}, kind: Deployment, "+wasmPlugin)),
	Entry("targetRefs beside an empty kind", istio(toGateway+", kind: '', "+wasmPlugin)),
	Entry("targetRefs of one name and two kinds", istio("targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}, {group: '', kind: Service, name: a}], "+wasmPlugin)),
	Entry("as many targetRefs as there may be", istio(references(16)+", "+wasmPlugin)),
	Entry("no targetRefs", istio("targetRefs: [], labels: {app: details}")),

	Entry("pullSecrets", filter("imagePullOptions: {pullSecrets: [{name: a}, {name: b}]}")),
	Entry("pullSecrets beside an empty pullSecret", filter("imagePullOptions: {pullSecret: '', pullSecrets: [{name: a}]}")),
	Entry("pullSecrets: one of Registry", both("imagePullOptions: {pullSecrets: [{name: s}]}", "distribution: Registry, "+wasmPlugin)),
	Entry("imagePullPolicy: Always", filter("imagePullPolicy: Always")),
	Entry("imagePullPolicy: IfNotPresent", filter("imagePullPolicy: IfNotPresent")),
	Entry("caCertificates", filter("imagePullOptions: {caCertificates: {name: c, key: k}}")),
	Entry("output: with labels that are empty", istio("labels: {}, "+wasmPlugin)),
	Entry("output: EnvoyFilter", istio("output: EnvoyFilter")),
	Entry("output: WasmPlugin", istio(wasmPlugin)),
	Entry("output: TrafficExtension", istio(trafficExtension)),
	Entry("distribution: Served", both("imagePullOptions: {pullSecret: s}", "distribution: Served")),
	Entry("distribution: Registry", istio("distribution: Registry")),
	Entry("distribution: Registry with a secret in a WasmPlugin", both("imagePullOptions: {pullSecret: s}", "distribution: Registry, "+wasmPlugin)),
	Entry("distribution: Registry with an empty secret", both("imagePullOptions: {pullSecret: ''}", "distribution: Registry")),
	Entry("distribution: Served from a URL", "{filter: {"+moduleURL+"}, deployment: {istio: {distribution: Served, selector: {}}}}"),

	Entry("suspend", "{filter: {image: i}, suspend: true}"),
	Entry("rollout without fields", "{filter: {image: i}, rollout: {}}"),
	Entry("rollout at once", "{filter: {image: i}, rollout: {strategy: Immediate}}"),
	Entry("rollout in steps", "{filter: {image: i}, rollout: {strategy: Staged, bakeTime: 0s, maxPods: 1, canaryPods: 10, onFailure: Hold, paused: true}}"),
	Entry("rollout with an analysis", "{filter: {image: i}, rollout: {canaryPods: 1, analysis: {maxErrorRatioIncrease: 0.25%, maxLatencyIncrease: 150%, minRequests: 10}}}"),
	Entry("rollout with an analysis of latency", "{filter: {image: i}, rollout: {canaryPods: 1, analysis: {maxLatencyIncrease: 20%}}}"),
	Entry("rollout with the longest bakeTime", "{filter: {image: i}, rollout: {strategy: Staged, bakeTime: 1h}}"),
)

var _ = DescribeTable("a spec is refused with a message that names the field",
	func(ctx context.Context, spec, message string) {
		Expect(create(ctx, spec)).To(MatchError(ContainSubstring(message)))
	},
	Entry("no filter", `{}`,
		"spec.filter: Required value"),
	Entry("no source", `{filter: {}}`,
		"spec.filter: Invalid value: the module must come from exactly one of image, url and configMap: set one of them and leave the others out"),
	Entry("image and url", filter(moduleURL),
		"spec.filter: Invalid value: the module must come from exactly one of image, url and configMap: set one of them and leave the others out"),
	Entry("image and configMap", filter("configMap: {name: c, key: k}"),
		"the module must come from exactly one of image, url and configMap"),
	Entry("url and configMap", source(moduleURL+", configMap: {name: c, key: k}"),
		"the module must come from exactly one of image, url and configMap"),
	Entry("empty image", `{filter: {image: ''}}`,
		"spec.filter.image in body should be at least 1 chars long"),
	Entry("image too long", `{filter: {image: `+long(1025)+`}}`,
		"spec.filter.image: Too long: may not be more than 1024"),
	Entry("image that is a number", `{filter: {image: 1}}`,
		"spec.filter.image in body must be of type string"),

	Entry("id in capitals", filter("id: MyFilter"),
		"spec.filter.id: Invalid value: \"MyFilter\": id becomes part of object names: use lower case letters, digits, '-' and single dots"),
	Entry("id with an underscore", filter("id: my_filter"),
		"id becomes part of object names"),
	Entry("id with a slash", filter("id: my/filter"),
		"id becomes part of object names"),
	Entry("id with a leading dash", filter("id: '-filter'"),
		"id becomes part of object names"),
	Entry("id with a dot at its end", filter("id: 'filter.'"),
		"id becomes part of object names"),
	Entry("id with two dots", filter("id: a..b"),
		"id becomes part of object names"),
	Entry("id with a dash beside a dot", filter("id: a.-b"),
		"id becomes part of object names"),
	Entry("id too long", filter("id: "+long(254)),
		"spec.filter.id: Too long: may not be more than 253"),

	Entry("config: integer", filter("config: 1"),
		"spec.filter.config in body should be less than or equal to 0"),
	Entry("config: zero", filter("config: 0"),
		"spec.filter.config in body should be greater than or equal to 1"),
	Entry("config: negative number", filter("config: -1"),
		"spec.filter.config in body should be greater than or equal to 1"),
	Entry("config: fraction", filter("config: 0.5"),
		"spec.filter.config in body should be"),
	Entry("config: true", filter("config: true"),
		`"spec.filter.config" must not validate the schema (not)`),
	Entry("config: false", filter("config: false"),
		`"spec.filter.config" must not validate the schema (not)`),
	Entry("config: empty array", filter("config: []"),
		"spec.filter.config in body should have at least 1 items"),
	Entry("config: array", filter("config: [world]"),
		"spec.filter.config: Too many: 1: must have at most 0 items"),
	Entry("config: unknown @type", filter(anyOf("type.googleapis.com/google.protobuf.Int32Value", "1")),
		"spec.filter.config.@type: Unsupported value"),
	Entry("config: empty @type", filter(anyOf("''", "1")),
		"spec.filter.config.@type: Unsupported value"),
	Entry("config: @type that is no string", filter(anyOf("1", "1")),
		"spec.filter.config.@type in body must be of type string"),
	Entry("config: string too long", filter("config: "+long(wasmev1.MaxConfigurationBytes+1)),
		"spec.filter.config: Too long: may not be more than 262144"),

	Entry("rootID too long", filter("rootID: "+long(257)),
		"spec.filter.rootID: Too long: may not be more than 256"),
	Entry("unknown patchContext", filter("patchContext: sideways"),
		`spec.filter.patchContext: Unsupported value: "sideways": supported values: "inbound", "outbound", "gateway", "any"`),
	Entry("patchContext in capitals", filter("patchContext: INBOUND"),
		`spec.filter.patchContext: Unsupported value: "INBOUND"`),
	Entry("unknown failStrategy", filter("failStrategy: FailSometimes"),
		`spec.filter.failStrategy: Unsupported value: "FailSometimes": supported values: "FailReload", "FailClosed", "FailOpen"`),
	Entry("pullSecret too long", filter("imagePullOptions: {pullSecret: "+long(254)+"}"),
		"spec.filter.imagePullOptions.pullSecret: Too long: may not be more than 253"),
	Entry("plainHttp that is no boolean", filter("imagePullOptions: {plainHttp: 'yes'}"),
		"spec.filter.imagePullOptions.plainHttp in body must be of type boolean"),
	Entry("insecureSkipVerify that is no boolean", filter("imagePullOptions: {insecureSkipVerify: 1}"),
		"spec.filter.imagePullOptions.insecureSkipVerify in body must be of type boolean"),

	Entry("unknown kind", istio("kind: Pod"),
		`spec.deployment.istio.kind: Invalid value: "Pod": kind is not supported: use Deployment, DaemonSet or StatefulSet`),
	Entry("kind too long", istio("kind: "+long(33)),
		"spec.deployment.istio.kind: Too long: may not be more than 32"),
	Entry("too many labels", istio(manyLabels(65)),
		"spec.deployment.istio.labels: Too many: 65: must have at most 64 items"),
	Entry("label value too long", istio("labels: {app: "+long(64)+"}"),
		"spec.deployment.istio.labels.app: Too long: may not be more than 63"),
	Entry("label value that is a number", istio("labels: {version: 1}"),
		"spec.deployment.istio.labels.version in body must be of type string"),
	Entry("istioNamespace too long", istio("istioNamespace: "+long(64)),
		"spec.deployment.istio.istioNamespace: Too long: may not be more than 63"),

	Entry("url without digest", source("url: 'https://example.com/m.wasm'"),
		"spec.filter.url: Invalid value: the module behind a URL can change: set spec.filter.sha256 to the digest of the module"),
	Entry("empty url", source("url: '', sha256: "+digest),
		"spec.filter.url in body should be at least 1 chars long"),
	Entry("url too long", source("url: 'https://h/"+long(2039)+"', sha256: "+digest),
		"spec.filter.url: Too long: may not be more than 2048"),
	Entry("url of another scheme", source("url: 'ftp://example.com/m.wasm', sha256: "+digest),
		"the operator cannot fetch this URL: begin it with http:// or https:// and a host, without user and password"),
	Entry("url without host", source("url: 'http:///m.wasm', sha256: "+digest),
		"the operator cannot fetch this URL: begin it with http:// or https:// and a host"),
	Entry("url that is none", source("url: 'http://example.com:port/m.wasm', sha256: "+digest),
		"the operator cannot fetch this URL: begin it with http:// or https:// and a host"),
	Entry("url with a password", source("url: 'https://me:secret@example.com/m.wasm', sha256: "+digest),
		"the operator cannot fetch this URL: begin it with http:// or https:// and a host, without user and password"),
	Entry("imagePullOptions without image", source(moduleURL+", imagePullOptions: {plainHttp: true}"),
		"spec.filter.imagePullOptions: Invalid value: imagePullOptions apply to image only: leave them out"),
	Entry("imagePullPolicy without image", source(moduleURL+", imagePullPolicy: Always"),
		"spec.filter.imagePullPolicy: Invalid value: imagePullPolicy applies to image only: leave it out"),
	Entry("imagePullPolicy that does not exist", filter("imagePullPolicy: Never"),
		`spec.filter.imagePullPolicy: Unsupported value: "Never": supported values: "Always", "IfNotPresent"`),
	Entry("imagePullPolicy too long", filter("imagePullPolicy: "+long(17)),
		"spec.filter.imagePullPolicy: Too long: may not be more than 16"),
	Entry("configMap without key", source("configMap: {name: modules}"),
		"spec.filter.configMap.key: Required value"),
	Entry("configMap without name", source("configMap: {key: m}"),
		"spec.filter.configMap.name: Required value"),
	Entry("configMap with empty name", source("configMap: {name: '', key: m}"),
		"spec.filter.configMap.name in body should be at least 1 chars long"),
	Entry("configMap with empty key", source("configMap: {name: m, key: ''}"),
		"spec.filter.configMap.key in body should be at least 1 chars long"),
	Entry("name of a configMap too long", source("configMap: {name: "+long(254)+", key: m}"),
		"spec.filter.configMap.name: Too long: may not be more than 253"),
	Entry("key of a configMap too long", source("configMap: {name: m, key: "+long(254)+"}"),
		"spec.filter.configMap.key: Too long: may not be more than 253"),
	Entry("sha256 with the algorithm", filter("sha256: 'sha256:"+digest[7:]+"'"),
		"sha256 is not a digest: use 64 hexadecimal digits in lower case, without `sha256:`"),
	Entry("sha256 in capitals", filter("sha256: "+strings.ToUpper(digest)),
		"sha256 is not a digest: use 64 hexadecimal digits in lower case"),
	Entry("sha256 too short", filter("sha256: "+digest[1:]),
		"sha256 is not a digest: use 64 hexadecimal digits in lower case"),
	Entry("sha256 too long", filter("sha256: "+digest+"0"),
		"spec.filter.sha256: Too long: may not be more than 64"),
	Entry("config and configFrom", filter("config: world, configFrom: {configMapKeyRef: {name: c, key: k}}"),
		`"spec.filter" must not validate the schema (not)`),
	Entry("configFrom nothing", filter("configFrom: {}"),
		"spec.filter.configFrom.configMapKeyRef: Required value"),
	Entry("configFrom a ConfigMap without key", filter("configFrom: {configMapKeyRef: {name: c}}"),
		"spec.filter.configFrom.configMapKeyRef.key: Required value"),

	Entry("priority too low", filter("priority: -1001"),
		"spec.filter.priority in body should be greater than or equal to -1000"),
	Entry("priority too high", filter("priority: 1001"),
		"spec.filter.priority in body should be less than or equal to 1000"),

	Entry("position: nothing", filter("position: {}"),
		"spec.filter.position: Invalid value: position must have exactly one of first, before, after and phase: set one of them and leave the others out"),
	Entry("position: two", filter("position: {first: true, before: x}"),
		"position must have exactly one of first, before, after and phase: set one of them and leave the others out"),
	Entry("position: not first", filter("position: {first: false}"),
		"spec.filter.position.first: Invalid value: false: first cannot be false: set it to true or leave it out"),
	Entry("position: before nothing", filter("position: {before: ''}"),
		"spec.filter.position.before in body should be at least 1 chars long"),
	Entry("position: before an old name", filter("position: {before: envoy.ext_authz}"),
		`spec.filter.position.before: Invalid value: "envoy.ext_authz": no proxy has an HTTP filter of this name: Envoy's own are all named envoy.filters.http.…`),
	Entry("position: before a network filter", filter("position: {before: envoy.filters.network.rbac}"),
		"Envoy's own are all named envoy.filters.http.…"),
	Entry("position: before, too long", filter("position: {before: "+long(257)+"}"),
		"spec.filter.position.before: Too long: may not be more than 256"),
	Entry("position: after nothing", filter("position: {after: ''}"),
		"spec.filter.position.after in body should be at least 1 chars long"),
	Entry("position: after an old name", filter("position: {after: envoy.cors}"),
		`spec.filter.position.after: Invalid value: "envoy.cors": no proxy has an HTTP filter of this name`),
	Entry("position: after the router", filter("position: {after: envoy.filters.http.router}"),
		`spec.filter.position.after: Invalid value: "envoy.filters.http.router": no filter runs after the router, which ends the chain`),
	Entry("position: after, too long", filter("position: {after: "+long(257)+"}"),
		"spec.filter.position.after: Too long: may not be more than 256"),
	Entry("position: unknown phase", both("position: {phase: AUTHN}", wasmPlugin),
		`spec.filter.position.phase: Unsupported value: "AUTHN": supported values: "Authn", "Authz", "Stats"`),
	Entry("position: phase in an EnvoyFilter", filter("position: {phase: Authn}"),
		"spec.filter.position.phase: Invalid value: an EnvoyFilter has no phases: use first, before or after, or set spec.deployment.istio.output to WasmPlugin or TrafficExtension"),
	Entry("position: first in a WasmPlugin", both("position: {first: true}", wasmPlugin),
		"spec.filter.position: Invalid value: only an EnvoyFilter supports first, before and after: use phase, or set spec.deployment.istio.output to EnvoyFilter"),
	Entry("position: before in a TrafficExtension", both("position: {before: x}", trafficExtension),
		"only an EnvoyFilter supports first, before and after"),
	Entry("position: after in a WasmPlugin", both("position: {after: x}", wasmPlugin),
		"only an EnvoyFilter supports first, before and after"),

	Entry("port 0", filter("ports: [0]"),
		"spec.filter.ports[0] in body should be greater than or equal to 1"),
	Entry("port too high", filter("ports: [65536]"),
		"spec.filter.ports[0] in body should be less than or equal to 65535"),
	Entry("port twice", filter("ports: [80, 80]"),
		"spec.filter.ports[1]: Duplicate value: 80"),
	Entry("too many ports", filter(ports(17)),
		"spec.filter.ports: Too many: 17: must have at most 16 items"),
	Entry("ports of any traffic", filter("ports: [80], patchContext: any"),
		"spec.filter.ports: Invalid value: a port means one thing on inbound traffic and another on outbound traffic: set spec.filter.patchContext to inbound, outbound or gateway"),

	Entry("variable with neither", filter("vm: {env: [{name: A}]}"),
		"spec.filter.vm.env[0]: Invalid value: a variable must have exactly one of value and valueFrom: set one of them and leave the other out"),
	Entry("variable with both", filter("vm: {env: [{name: A, value: b, valueFrom: {host: {}}}]}"),
		"a variable must have exactly one of value and valueFrom: set one of them and leave the other out"),
	Entry("variable from nowhere", filter("vm: {env: [{name: A, valueFrom: {}}]}"),
		"spec.filter.vm.env[0].valueFrom: Invalid value: valueFrom does not say where the value comes from: set host to {}"),
	Entry("variable from a word", filter("vm: {env: [{name: A, valueFrom: Host}]}"),
		`spec.filter.vm.env[0].valueFrom: Invalid value: "string": spec.filter.vm.env[0].valueFrom in body must be of type object: "string"`),
	Entry("variable without name", filter("vm: {env: [{value: b}]}"),
		"spec.filter.vm.env[0].name: Required value"),
	Entry("variable with an empty name", filter("vm: {env: [{name: '', value: b}]}"),
		"this cannot be the name of a variable: use letters, digits and '_', and do not begin with a digit"),
	Entry("variable with a dash", filter("vm: {env: [{name: A-B, value: b}]}"),
		`spec.filter.vm.env[0].name: Invalid value: "A-B": this cannot be the name of a variable: use letters, digits and '_'`),
	Entry("variable that begins with a digit", filter("vm: {env: [{name: 0A, value: b}]}"),
		"this cannot be the name of a variable: use letters, digits and '_'"),
	Entry("variable of Istio's agent", filter("vm: {env: [{name: ISTIO_META_WASM_IMAGE_PULL_SECRET, value: b}]}"),
		`spec.filter.vm.env[0].name: Invalid value: "ISTIO_META_WASM_IMAGE_PULL_SECRET": Istio's agent removes variables whose names begin with ISTIO_META_: choose another name`),
	Entry("name of a variable too long", filter("vm: {env: [{name: "+long(257)+", value: b}]}"),
		"spec.filter.vm.env[0].name: Too long: may not be more than 256"),
	Entry("value of a variable too long", filter("vm: {env: [{name: A, value: "+long(2049)+"}]}"),
		"spec.filter.vm.env[0].value: Too long: may not be more than 2048"),
	Entry("variable twice", filter("vm: {env: [{name: A, value: b}, {name: A, value: c}]}"),
		"spec.filter.vm.env[1]: Duplicate value"),
	Entry("too many variables", filter(variables(65)),
		"spec.filter.vm.env: Too many: 65: must have at most 64 items"),

	Entry("labels and selector", istio("labels: {app: a}, selector: {}"),
		"spec.deployment.istio.selector: Invalid value: labels and selector exclude each other: put the labels into selector.matchLabels"),
	Entry("selector with a key that is none", istio("selector: {matchLabels: {'app name': a}}"),
		"spec.deployment.istio.selector: Invalid value: a key of matchLabels is not a label key: use one such as app or app.kubernetes.io/name"),
	Entry("selector with a value that is none", istio("selector: {matchLabels: {app: 'a b'}}"),
		"spec.deployment.istio.selector.matchLabels.app in body should match"),
	Entry("selector with a value too long", istio("selector: {matchLabels: {app: "+long(64)+"}}"),
		"spec.deployment.istio.selector.matchLabels.app: Too long: may not be more than 63"),
	Entry("selector with too many labels", istio("selector: {"+strings.Replace(manyLabels(65), "labels", "matchLabels", 1)+"}"),
		"spec.deployment.istio.selector.matchLabels: Too many: 65: must have at most 64 items"),
	Entry("selector with too many expressions", istio(expressions(65)),
		"spec.deployment.istio.selector.matchExpressions: Too many: 65: must have at most 64 items"),
	Entry("expression with a key that is none", istio("selector: {matchExpressions: [{key: 'a b', operator: Exists}]}"),
		"spec.deployment.istio.selector.matchExpressions[0].key in body should match"),
	Entry("expression with a key too long", istio("selector: {matchExpressions: [{key: "+long(318)+", operator: Exists}]}"),
		"spec.deployment.istio.selector.matchExpressions[0].key: Too long: may not be more than 317"),
	Entry("expression with an unknown operator", istio("selector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}"),
		`spec.deployment.istio.selector.matchExpressions[0].operator: Unsupported value: "Equals"`),
	Entry("expression that needs values", istio("selector: {matchExpressions: [{key: a, operator: In}]}"),
		"the values of an expression do not fit its operator: give In and NotIn values, and Exists and DoesNotExist none"),
	Entry("expression that has no values", istio("selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
		"the values of an expression do not fit its operator: give In and NotIn values, and Exists and DoesNotExist none"),
	Entry("expression with too many values", istio("selector: {matchExpressions: [{key: a, operator: In, values: "+list(65)+"}]}"),
		"spec.deployment.istio.selector.matchExpressions[0].values: Too many: 65: must have at most 64 items"),
	Entry("expression with a value too long", istio("selector: {matchExpressions: [{key: a, operator: In, values: ["+long(64)+"]}]}"),
		"spec.deployment.istio.selector.matchExpressions[0].values[0]: Too long: may not be more than 63"),

	Entry("targetRefs and labels", istio(toGateway+", labels: {app: a}, "+wasmPlugin),
		"spec.deployment.istio.targetRefs: Invalid value: targetRefs replace the selection of workloads: leave kind, labels and selector out"),
	Entry("targetRefs and selector", istio(toGateway+", selector: {}, "+wasmPlugin),
		"targetRefs replace the selection of workloads"),
	Entry("targetRefs and kind", istio(toGateway+", kind: DaemonSet, "+wasmPlugin),
		"targetRefs replace the selection of workloads"),
	Entry("targetRef without name", istio("targetRefs: [{kind: Service}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[0].name: Required value"),
	Entry("targetRef without kind", istio("targetRefs: [{name: a}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[0].kind: Required value"),
	Entry("targetRef: Gateway without group", istio("targetRefs: [{kind: Gateway, name: a}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[0]: Invalid value: a targetRef cannot reference this kind: use kind Gateway with group gateway.networking.k8s.io, or kind Service without group"),
	Entry("targetRef: Istio's Gateway", istio("targetRefs: [{group: networking.istio.io, kind: Gateway, name: a}], "+wasmPlugin),
		"a targetRef cannot reference this kind: use kind Gateway with group gateway.networking.k8s.io"),
	Entry("targetRef: Service of a group", istio("targetRefs: [{group: v1, kind: Service, name: a}], "+wasmPlugin),
		"or kind Service without group"),
	Entry("targetRef: another kind", istio("targetRefs: [{group: apps, kind: Deployment, name: a}], "+wasmPlugin),
		"a targetRef cannot reference this kind"),
	Entry("targetRef: name that is none", istio("targetRefs: [{kind: Service, name: A}], "+wasmPlugin),
		`spec.deployment.istio.targetRefs[0].name: Invalid value: "A": this cannot be the name of an object`),
	Entry("targetRef: name too long", istio("targetRefs: [{kind: Service, name: "+long(254)+"}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[0].name: Too long: may not be more than 253"),
	Entry("targetRef: group too long", istio("targetRefs: [{group: "+long(254)+", kind: Service, name: a}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[0].group: Too long: may not be more than 253"),
	Entry("targetRef: kind too long", istio("targetRefs: [{kind: "+long(64)+", name: a}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[0].kind: Too long: may not be more than 63"),
	Entry("targetRef twice", istio("targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}], "+wasmPlugin),
		"spec.deployment.istio.targetRefs[1]: Duplicate value"),
	Entry("too many targetRefs", istio(references(17)+", "+wasmPlugin),
		"spec.deployment.istio.targetRefs: Too many: 17: must have at most 16 items"),
	Entry("targetRef: Service in an EnvoyFilter", istio(toService),
		"spec.deployment.istio.targetRefs: Invalid value: an EnvoyFilter reaches all Services of a waypoint, not one of them: reference the waypoint's Gateway, or set spec.deployment.istio.output to WasmPlugin or TrafficExtension"),
	Entry("targetRef: all traffic in an EnvoyFilter", both("patchContext: any", toGateway),
		"spec.filter.patchContext: Invalid value: an EnvoyFilter reaches a gateway or a waypoint, each in its own way: set patchContext to gateway for a gateway, to inbound for a waypoint, or set spec.deployment.istio.output to WasmPlugin or TrafficExtension"),
	Entry("targetRef: outbound traffic", both("patchContext: outbound", toGateway+", "+wasmPlugin),
		"spec.filter.patchContext: Invalid value: gateways and waypoints have no outbound traffic: set patchContext to gateway for a gateway, to inbound for a waypoint"),
	Entry("targetRef: gateway traffic of a Service", both("patchContext: gateway", toService+", "+wasmPlugin),
		"spec.filter.patchContext: Invalid value: the proxy of a Service is a waypoint: set patchContext to inbound"),
	Entry("targetRef: ports of a waypoint", both("ports: [80]", toGateway+", "+wasmPlugin),
		"spec.filter.ports: Invalid value: waypoints cannot tell ports apart: leave ports out, or set spec.filter.patchContext to gateway for a gateway"),

	Entry("unknown output", istio("output: Lua"),
		`spec.deployment.istio.output: Unsupported value: "Lua": supported values: "EnvoyFilter", "WasmPlugin", "TrafficExtension"`),
	Entry("unknown verification", istio("verification: Never"),
		`spec.deployment.istio.verification: Unsupported value: "Never": supported values: "Required", "NotRequired"`),
	Entry("pullSecrets beside pullSecret", filter("imagePullOptions: {pullSecret: a, pullSecrets: [{name: b}]}"),
		"spec.filter.imagePullOptions.pullSecrets: Invalid value: pullSecret and pullSecrets exclude each other: put the name into pullSecrets"),
	Entry("pullSecrets: several of Registry", both("imagePullOptions: {pullSecrets: [{name: s}, {name: t}]}", "distribution: Registry, "+wasmPlugin),
		"spec.filter.imagePullOptions.pullSecrets: Invalid value: proxies can use one pull secret only"),
	Entry("pullSecrets: the same twice", filter("imagePullOptions: {pullSecrets: [{name: s}, {name: s}]}"), "Duplicate value"),
	Entry("output of everything, unsaid", "{filter: {image: 'example.com/filter:v1'}, deployment: {istio: {"+wasmPlugin+"}}}",
		"spec.deployment.istio.selector: Invalid value: this would select every workload of the namespace: set selector to {} if it should"),
	Entry("distribution of everything, unsaid", "{filter: {image: 'example.com/filter:v1'}, deployment: {istio: {kind: Deployment, distribution: Served}}}",
		"this would select every workload of the namespace"),
	Entry("unknown distribution", istio("distribution: Node"),
		`spec.deployment.istio.distribution: Unsupported value: "Node": supported values: "Served", "Registry"`),
	Entry("distribution: Registry with a url", "{filter: {"+moduleURL+"}, deployment: {istio: {distribution: Registry, selector: {}}}}",
		"spec.deployment.istio.distribution: Invalid value: proxies can pull images only: set spec.filter.image, or set distribution to Served"),
	Entry("distribution: Registry with a configMap", "{filter: {configMap: {name: c, key: k}}, deployment: {istio: {selector: {}, distribution: Registry, "+wasmPlugin+"}}}",
		"proxies can pull images only"),
	Entry("distribution: Registry with a secret in an EnvoyFilter", both("imagePullOptions: {pullSecret: s}", "distribution: Registry"),
		"spec.filter.imagePullOptions.pullSecret: Invalid value: an EnvoyFilter would show the credential to everyone who can read it: leave pullSecret out, set spec.deployment.istio.distribution to Served, or set spec.deployment.istio.output to WasmPlugin or TrafficExtension"),

	Entry("rollout with an unknown strategy", "{filter: {image: i}, rollout: {strategy: Canary}}",
		`spec.rollout.strategy: Unsupported value: "Canary": supported values: "Immediate", "Staged"`),
	Entry("rollout at once with a field of steps", "{filter: {image: i}, rollout: {strategy: Immediate, bakeTime: 5s}}",
		"spec.rollout.strategy: Invalid value: the fields of rollout apply to staged rollouts: leave them out, or set strategy to Staged"),
	Entry("rollout at once with canaries", "{filter: {image: i}, rollout: {strategy: Immediate, canaryPods: 1}}",
		"the fields of rollout apply to staged rollouts"),
	Entry("rollout with more canaries than an EnvoyFilter should name", "{filter: {image: i}, rollout: {canaryPods: 11}}",
		"spec.rollout.canaryPods in body should be less than or equal to 10"),
	Entry("rollout with an analysis of no canaries", "{filter: {image: i}, rollout: {analysis: {maxErrorRatioIncrease: 1%}}}",
		"spec.rollout.canaryPods: Invalid value: an analysis compares canaries with the other pods: set canaryPods"),
	Entry("rollout at once with an analysis", "{filter: {image: i}, rollout: {strategy: Immediate, analysis: {maxErrorRatioIncrease: 1%}}}",
		"the fields of rollout apply to staged rollouts"),
	Entry("rollout with an analysis of nothing", "{filter: {image: i}, rollout: {canaryPods: 1, analysis: {minRequests: 10}}}",
		"spec.rollout.analysis: Invalid value: set maxErrorRatioIncrease, maxLatencyIncrease, or both"),
	Entry("rollout with an analysis of too few requests", "{filter: {image: i}, rollout: {canaryPods: 1, analysis: {maxErrorRatioIncrease: 1%, minRequests: 9}}}",
		"spec.rollout.analysis.minRequests in body should be greater than or equal to 10"),
	Entry("rollout with a limit that is no percentage", "{filter: {image: i}, rollout: {canaryPods: 1, analysis: {maxErrorRatioIncrease: \"0.01\"}}}",
		"spec.rollout.analysis.maxErrorRatioIncrease in body should match '^(0|[1-9][0-9]{0,3})(\\.[0-9]{1,2})?%$'"),
	Entry("rollout with a bakeTime that is too long", "{filter: {image: i}, rollout: {strategy: Staged, bakeTime: 61m}}",
		`spec.rollout.bakeTime: Invalid value: "61m": bakeTime must be 0s to 1h`),
	Entry("rollout with a bakeTime below zero", "{filter: {image: i}, rollout: {strategy: Staged, bakeTime: -1s}}",
		"bakeTime must be 0s to 1h"),
	Entry("rollout with a bakeTime that is no duration", "{filter: {image: i}, rollout: {strategy: Staged, bakeTime: soon}}",
		"spec.rollout.bakeTime in body must be of type duration"),
	Entry("rollout of no pods", "{filter: {image: i}, rollout: {strategy: Staged, maxPods: 0}}",
		"spec.rollout.maxPods in body should be greater than or equal to 1"),
	Entry("suspend that is no boolean", "{filter: {image: i}, suspend: 'yes'}",
		"spec.suspend in body must be of type boolean"),
)

// manyWorkloads is a status with n workloads.
func manyWorkloads(n int) string {
	var entries []string
	for i := range n {
		entries = append(entries, fmt.Sprintf("w%d: {state: Succeeded}", i))
	}
	return "{workloads: {" + strings.Join(entries, ", ") + "}}"
}

// module is a status whose module has the given fields beside the required ones.
func module(fields string) string {
	return fmt.Sprintf("{module: {reference: r, manifestDigest: d, sha256: s, sizeBytes: 1, %s}}", fields)
}

// list is a YAML list of n entries.
func list(n int) string {
	return "[" + strings.Join(strings.Fields(strings.Repeat("a ", n)), ", ") + "]"
}

func condition(kind, message string) string {
	return fmt.Sprintf("{type: %s, status: 'True', reason: Ready, lastTransitionTime: '2026-01-01T00:00:00Z', message: '%s'}", kind, message)
}

var _ = Describe("a status", func() {
	// update asks what the API server says to a status; nothing is stored.
	update := func(ctx context.Context, status string) error {
		fd := filterDeployment(`{filter: {image: i}}`)
		fd.SetName("for-status")
		Expect(client.IgnoreAlreadyExists(k8s.Create(ctx, fd))).To(Succeed())
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		fd.Object["status"] = object(status).Object
		return k8s.Status().Update(ctx, fd, client.DryRunAll)
	}

	DescribeTable("is accepted",
		func(ctx context.Context, status string) {
			Expect(update(ctx, status)).To(Succeed())
		},
		Entry("observedGeneration", `{observedGeneration: -1}`),
		Entry("conditions", "{conditions: ["+condition("Ready", "")+", "+condition("Programmed", "done")+"]}"),
		Entry("module", module(`abiVersions: [0.2.1], rootIDs: [add_header_root_id]`)),
		Entry("as many ABI versions and root ids as there may be", module("abiVersions: "+list(16)+", rootIDs: "+list(64))),
		Entry("revision", `{revision: 9f3c2a1b}`),
		Entry("summary", `{summary: {workloads: 6, programmed: 5, workloadsReady: 5/6, workloadsOmitted: 0}}`),
		Entry("summary with pods", `{summary: {workloads: 6, programmed: 6, workloadsReady: 6/6, pods: 12, podsLoaded: 0, podsReady: 0/12}}`),
		Entry("module without manifest", `{module: {reference: configmap/modules/m.wasm, sha256: s, sizeBytes: 1}}`),
		Entry("targetRefs among the workloads", `{workloads: {Gateway/waypoint: {state: Succeeded}}}`),
		Entry("reason of the greatest length", `{reason: `+long(wasmev1.MaxMessageLength)+`}`),
		Entry("as many workloads as there may be", manyWorkloads(wasmev1.MaxWorkloadsInStatus)),
		Entry("each state", `{workloads: {a: {state: Pending, reason: waits}, b: {state: Succeeded}, c: {state: Failed}}}`),
	)

	DescribeTable("is refused",
		func(ctx context.Context, status, message string) {
			Expect(update(ctx, status)).To(MatchError(ContainSubstring(message)))
		},
		Entry("negative observedGeneration", `{observedGeneration: -2}`,
			"status.observedGeneration: Invalid value: -2: observedGeneration in body should be greater than or equal to -1"),
		Entry("two conditions of one type", "{conditions: ["+condition("Ready", "")+", "+condition("Ready", "")+"]}",
			"status.conditions[1]: Duplicate value"),
		Entry("module without digest", `{module: {reference: r, manifestDigest: d, sizeBytes: 1}}`,
			"status.module.sha256: Required value"),
		Entry("too many ABI versions", module("abiVersions: "+list(17)),
			"status.module.abiVersions: Too many: 17: must have at most 16 items"),
		Entry("too many root ids", module("rootIDs: "+list(65)),
			"status.module.rootIDs: Too many: 65: must have at most 64 items"),
		Entry("root id too long", module("rootIDs: ["+long(257)+"]"),
			"status.module.rootIDs[0]: Too long: may not be more than 256"),
		Entry("revision too long", `{revision: `+long(65)+`}`,
			"status.revision: Too long: may not be more than 64"),
		Entry("negative count", `{summary: {workloads: -1, programmed: 0, workloadsReady: 0/0}}`,
			"status.summary.workloads: Invalid value: -1: summary.workloads in body should be greater than or equal to 0"),
		Entry("negative count of pods", `{summary: {workloads: 0, programmed: 0, workloadsReady: 0/0, pods: -1}}`,
			"summary.pods in body should be greater than or equal to 0"),
		Entry("negative count of loaded pods", `{summary: {workloads: 0, programmed: 0, workloadsReady: 0/0, podsLoaded: -1}}`,
			"summary.podsLoaded in body should be greater than or equal to 0"),
		Entry("podsReady too long", `{summary: {workloads: 0, programmed: 0, workloadsReady: 0/0, podsReady: `+long(33)+`}}`,
			"status.summary.podsReady: Too long: may not be more than 32"),
		Entry("reason too long", `{reason: `+long(wasmev1.MaxMessageLength+1)+`}`,
			"status.reason: Too long: may not be more than 1024"),
		Entry("too many workloads", manyWorkloads(wasmev1.MaxWorkloadsInStatus+1),
			"status.workloads: Too many: 501: must have at most 500 items"),
		Entry("unknown state", `{workloads: {a: {state: Unknown}}}`,
			`status.workloads.a.state: Unsupported value: "Unknown"`),
		Entry("workload's reason too long", `{workloads: {a: {state: Failed, reason: `+long(wasmev1.MaxMessageLength+1)+`}}}`,
			"status.workloads.a.reason: Too long: may not be more than 1024"),
	)
})
