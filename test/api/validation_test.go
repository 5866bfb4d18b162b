package api

import (
	"context"
	"fmt"
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
func istio(field string) string {
	return fmt.Sprintf("{filter: {image: 'example.com/filter:v1'}, deployment: {istio: {%s}}}", field)
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
)

var _ = DescribeTable("a spec is refused with a message that names the field",
	func(ctx context.Context, spec, message string) {
		Expect(create(ctx, spec)).To(MatchError(ContainSubstring(message)))
	},
	Entry("no filter", `{}`,
		"spec.filter: Required value"),
	Entry("no image", `{filter: {}}`,
		"spec.filter.image: Required value"),
	Entry("empty image", `{filter: {image: ''}}`,
		"spec.filter.image in body should be at least 1 chars long"),
	Entry("image too long", `{filter: {image: `+long(1025)+`}}`,
		"spec.filter.image: Too long: may not be more than 1024"),
	Entry("image that is a number", `{filter: {image: 1}}`,
		"spec.filter.image in body must be of type string"),

	Entry("id in capitals", filter("id: MyFilter"),
		"spec.filter.id: Invalid value: \"MyFilter\": id becomes part of object names: use lower case letters, digits, '-' and '.'"),
	Entry("id with an underscore", filter("id: my_filter"),
		"id becomes part of object names"),
	Entry("id with a slash", filter("id: my/filter"),
		"id becomes part of object names"),
	Entry("id with a leading dash", filter("id: '-filter'"),
		"id becomes part of object names"),
	Entry("id with a dot at its end", filter("id: 'filter.'"),
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
		`spec.deployment.istio.kind: Invalid value: "Pod": kind must be Deployment, DaemonSet or StatefulSet`),
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
		Entry("observedGeneration", `{observedGeneration: 0}`),
		Entry("conditions", "{conditions: ["+condition("Ready", "")+", "+condition("Programmed", "done")+"]}"),
		Entry("module", module(`abiVersions: [0.2.1], rootIDs: [add_header_root_id]`)),
		Entry("as many ABI versions and root ids as there may be", module("abiVersions: "+list(16)+", rootIDs: "+list(64))),
		Entry("revision", `{revision: 9f3c2a1b}`),
		Entry("summary", `{summary: {workloads: 6, programmed: 5, workloadsReady: 5/6, workloadsOmitted: 0}}`),
		Entry("reason of the greatest length", `{reason: `+long(wasmev1.MaxMessageLength)+`}`),
		Entry("as many workloads as there may be", manyWorkloads(wasmev1.MaxWorkloadsInStatus)),
		Entry("each state", `{workloads: {a: {state: Pending, reason: waits}, b: {state: Succeeded}, c: {state: Failed}}}`),
	)

	DescribeTable("is refused",
		func(ctx context.Context, status, message string) {
			Expect(update(ctx, status)).To(MatchError(ContainSubstring(message)))
		},
		Entry("negative observedGeneration", `{observedGeneration: -1}`,
			"status.observedGeneration: Invalid value: -1: observedGeneration in body should be greater than or equal to 0"),
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
