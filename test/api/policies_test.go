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
	Entry("patterns", "FilterPolicy", "{images: [{patterns: ['**', 'GHCR.io:443/acme/**/my_filter-*', '*/a*b/*', 'h/**']}]}"),
	Entry("a trusted root", "FilterPolicy", "{trustedRoot: {inline: '{}'}}"),
	Entry("a trusted root of the cluster", "ClusterFilterPolicy", "{trustedRoot: {inline: '"+strings.Repeat("a", 131072)+"'}}"),
	Entry("every operator in the selector", "ClusterFilterPolicy", "{namespaceSelector: {matchExpressions: [{key: a/b, operator: In, values: [c]}, {key: a, operator: NotIn, values: [c]}, {key: a, operator: Exists}, {key: a, operator: DoesNotExist, values: []}]}}"),
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
	Entry("alternatives in a pattern", "FilterPolicy", "{images: [{patterns: ['ghcr.io/{a,b}']}]}", "this is not a pattern: use letters, digits and ._:/- with the wildcards * and **"),
	Entry("a class in a pattern", "FilterPolicy", "{images: [{patterns: ['ghcr.io/[ab]']}]}", "this is not a pattern"),
	Entry("another wildcard in a pattern", "FilterPolicy", "{images: [{patterns: ['ghcr.io/a?']}]}", "this is not a pattern"),
	Entry("** after a letter", "FilterPolicy", "{images: [{patterns: ['ghcr.io/a**']}]}", "** must be a whole part of the path: use * within a part"),
	Entry("** before a letter", "FilterPolicy", "{images: [{patterns: ['ghcr.io/**a']}]}", "** must be a whole part of the path"),
	Entry("***", "FilterPolicy", "{images: [{patterns: ['ghcr.io/***']}]}", "** must be a whole part of the path"),
	Entry("an empty trusted root", "FilterPolicy", "{trustedRoot: {inline: ''}}", "spec.trustedRoot.inline"),
	Entry("a large trusted root", "FilterPolicy", "{trustedRoot: {inline: '"+strings.Repeat("a", 131073)+"'}}", "spec.trustedRoot.inline"),
	Entry("a trusted root in a ConfigMap", "FilterPolicy", "{trustedRoot: {configMap: {name: a, key: b}}}", "spec.trustedRoot.inline: Required value"),
	Entry("an operator without values in the selector", "ClusterFilterPolicy", "{namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}", "give In and NotIn values"),
	Entry("an operator with values in the selector", "ClusterFilterPolicy", "{namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}", "give In and NotIn values"),
	Entry("a label that is not one in the selector", "ClusterFilterPolicy", "{namespaceSelector: {matchLabels: {'a b': c}}}", "a key of matchLabels is not a label key"),
	Entry("an unknown operator in the selector", "ClusterFilterPolicy", "{namespaceSelector: {matchExpressions: [{key: a, operator: Maybe}]}}", "namespaceSelector"),
)
