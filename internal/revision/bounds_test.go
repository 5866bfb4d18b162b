package revision_test

import (
	"os"
	"testing"

	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// A status that its schema refuses is never written: each of its bounds must admit
// whatever the field is filled from.
func TestStatusHoldsWhatItsSourcesGive(t *testing.T) {
	g := NewWithT(t)
	text, err := os.ReadFile("../../config/crd/bases/wasme.io_filterdeployments.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	var crd apiextensionsv1.CustomResourceDefinition
	g.Expect(yaml.UnmarshalStrict(text, &crd)).To(Succeed())
	schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	at := func(path ...string) apiextensionsv1.JSONSchemaProps {
		t.Helper()
		found := *schema
		for _, name := range path {
			next, known := found.Properties[name]
			if !known {
				t.Fatalf("the schema has no %v", path)
			}
			found = next
		}
		return found
	}
	longest := func(path ...string) int64 { return ptr.Deref(at(path...).MaxLength, 0) }
	const digest, sha256 = int64(len("sha256:") + 64), int64(64)
	configMap := int64(len("configmap//")) + longest("spec", "filter", "configMap", "name") + longest("spec", "filter", "configMap", "key")

	module := func(field string) int64 { return longest("status", "module", field) }
	for _, row := range []struct {
		field string
		bound int64
		given []int64
	}{
		{"module.reference", module("reference"), []int64{longest("spec", "filter", "image"), longest("spec", "filter", "url"), configMap}},
		{"module.manifestDigest", module("manifestDigest"), []int64{digest}},
		{"module.sha256", module("sha256"), []int64{sha256, longest("spec", "filter", "sha256")}},
		{"revision", longest("status", "revision"), []int64{8}},
		{"rollout.retried", longest("status", "rollout", "retried"), []int64{wasmev1.MaxRetryLength}},
		{"rollout.rejected.message", longest("status", "rollout", "rejected", "message"), []int64{wasmev1.MaxMessageLength}},
		{"reason", longest("status", "reason"), []int64{wasmev1.MaxMessageLength}},
		{"workloads", ptr.Deref(at("status", "workloads").MaxProperties, 0), []int64{wasmev1.MaxWorkloadsInStatus}},
		{"workloads.reason", ptr.Deref(at("status", "workloads").AdditionalProperties.Schema.Properties["reason"].MaxLength, 0), []int64{wasmev1.MaxMessageLength}},
	} {
		for _, given := range row.given {
			g.Expect(given).To(And(BeNumerically(">", 0), BeNumerically("<=", row.bound)), "status.%s", row.field)
		}
	}
}
