package oci

import (
	"os"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// A status that its schema refuses is never written.
func TestStatusHoldsAllRootIDsThatAreRead(t *testing.T) {
	text, err := os.ReadFile("../../../config/crd/bases/wasme.io_filterdeployments.yaml")
	moduletest.Must(t, err)
	var crd apiextensionsv1.CustomResourceDefinition
	moduletest.Must(t, yaml.UnmarshalStrict(text, &crd))
	ids := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["status"].Properties["module"].Properties["rootIDs"]
	if *ids.MaxItems < maxRootIDs || *ids.Items.Schema.MaxLength < maxRootIDLength {
		t.Errorf("status.module.rootIDs holds %d of %d characters, and %d of %d are read", *ids.MaxItems, *ids.Items.Schema.MaxLength, maxRootIDs, maxRootIDLength)
	}
}
