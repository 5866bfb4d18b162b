package api

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// createPolicy tries a policy of a kind with that spec.
func createPolicy(ctx context.Context, kind, spec string) error {
	GinkgoHelper()
	policy := &unstructured.Unstructured{}
	policy.SetGroupVersionKind(wasmev1.GroupVersion.WithKind(kind))
	policy.SetGenerateName("policy-")
	if kind == "FilterPolicy" {
		policy.SetNamespace("default")
	}
	var content map[string]any
	Expect(yaml.Unmarshal([]byte(spec), &content)).To(Succeed())
	policy.Object["spec"] = content
	return k8s.Create(ctx, policy, client.DryRunAll)
}

const (
	byKey    = "{name: a, key: {pem: x}}"
	byPerson = "{name: b, keyless: {issuer: 'https://i', subject: me}}"
	rootHere = "trustedRoot: {configMap: {name: c, key: k}}"
	rootIn   = "trustedRoot: {configMap: {namespace: ns, name: c, key: k}}"
)

// signedBy is a spec with these signers.
func signedBy(signers string) string {
	return "{images: [{patterns: ['**'], signers: {" + signers + "}}]}"
}

var _ = DescribeTable("a policy is accepted",
	func(ctx context.Context, kind, spec string) { Expect(createPolicy(ctx, kind, spec)).To(Succeed()) },
	Entry("without anything", "FilterPolicy", "{}"),
	Entry("of the cluster", "ClusterFilterPolicy", "{mode: Warn, namespaceSelector: {matchLabels: {team: a}}}"),
	Entry("sources", "FilterPolicy", "{sources: [Image, URL, ConfigMap]}"),
	Entry("fail strategies", "FilterPolicy", "{failStrategies: [FailOpen]}"),
	Entry("capabilities", "FilterPolicy", "{deniedCapabilities: [HTTPCalls, Metrics]}"),
	Entry("images without signers", "FilterPolicy", "{images: [{patterns: ['ghcr.io/**']}]}"),
	Entry("allOf", "FilterPolicy", signedBy("allOf: ["+byKey+","+byPerson+"]")),
	Entry("anyOf", "FilterPolicy", signedBy("anyOf: {minimum: 2, signers: ["+byKey+","+byPerson+"]}")),
	Entry("a trusted root of its namespace", "FilterPolicy", "{"+rootHere+"}"),
	Entry("a trusted root of any namespace", "ClusterFilterPolicy", "{"+rootIn+"}"),
)

var _ = DescribeTable("a policy is refused",
	func(ctx context.Context, kind, spec, message string) {
		Expect(createPolicy(ctx, kind, spec)).To(MatchError(ContainSubstring(message)))
	},
	Entry("an unknown mode", "FilterPolicy", "{mode: Maybe}", "spec.mode"),
	Entry("an unknown source", "FilterPolicy", "{sources: [Registry]}", "spec.sources"),
	Entry("an unknown capability", "FilterPolicy", "{deniedCapabilities: [Everything]}", "spec.deniedCapabilities"),
	Entry("an unknown strategy", "FilterPolicy", "{failStrategies: [Retry]}", "spec.failStrategies"),
	Entry("no pattern", "FilterPolicy", "{images: [{patterns: []}]}", "spec.images[0].patterns"),
	Entry("a long pattern", "FilterPolicy", "{images: [{patterns: ['"+strings.Repeat("a", 513)+"']}]}", "spec.images[0].patterns[0]"),
	Entry("nobody", "FilterPolicy", signedBy(""), "signers names nobody: set allOf, anyOf or both"),
	Entry("nobody of all", "FilterPolicy", signedBy("allOf: []"), "signers names nobody"),
	Entry("more than there are", "FilterPolicy", signedBy("anyOf: {minimum: 2, signers: ["+byKey+"]}"), "minimum is larger than the number of signers"),
	Entry("a signer without key and identity", "FilterPolicy", signedBy("allOf: [{name: a}]"), "exactly one of key and keyless"),
	Entry("a signer with both", "FilterPolicy", signedBy("allOf: [{name: a, key: {pem: x}, keyless: {issuer: i, subject: s}}]"), "exactly one of key and keyless"),
	Entry("an identity without subject", "FilterPolicy", signedBy("allOf: [{name: a, keyless: {issuer: i}}]"), "exactly one of subject and subjectRegExp"),
	Entry("an identity with two", "FilterPolicy", signedBy("allOf: [{name: a, keyless: {issuer: i, subject: s, subjectRegExp: s}}]"), "exactly one of subject and subjectRegExp"),
	Entry("an identity without issuer", "FilterPolicy", signedBy("allOf: [{name: a, keyless: {subject: s}}]"), "issuer"),
	Entry("a trusted root of another namespace", "FilterPolicy", "{"+rootIn+"}", "a FilterPolicy reads the ConfigMap of its own namespace: leave namespace out"),
	Entry("a trusted root of no namespace", "ClusterFilterPolicy", "{"+rootHere+"}", "set the namespace of the ConfigMap"),
	Entry("an unknown operator in the selector", "ClusterFilterPolicy", "{namespaceSelector: {matchExpressions: [{key: a, operator: Maybe}]}}", "namespaceSelector"),
)
