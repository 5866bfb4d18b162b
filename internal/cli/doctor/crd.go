package doctor

import (
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// CRDCheck is about the CustomResourceDefinition.
const CRDCheck = "CRD"

// CRDName is the name of the CustomResourceDefinition of FilterDeployments.
const CRDName = "filterdeployments.wasme.io"

// CRD judges the CustomResourceDefinition of FilterDeployments; nil when it is not there. Its
// fields are those of the operator that it was installed with, so they say whether that is
// older or newer than this wasme.
func CRD(crd *apiextensionsv1.CustomResourceDefinition) Finding {
	if crd == nil {
		return fail(CRDCheck, "install the operator with kubectl apply -k config/default", "%s is not there", CRDName)
	}
	schema := schemaOf(crd)
	switch {
	case !isEstablished(crd):
		return fail(CRDCheck, "look at its conditions with kubectl describe crd "+CRDName, "%s is not established: the API server does not serve FilterDeployments", CRDName)
	case schema == nil || len(schema.Properties["spec"].Properties) == 0 || crd.Spec.PreserveUnknownFields:
		return fail(CRDCheck, "apply config/crd", "%s is that of solo-io's wasme: it has no schema", CRDName)
	}
	return compareFields(schema)
}

func compareFields(schema *apiextensionsv1.JSONSchemaProps) Finding {
	lacking, unknown := compare(reflect.TypeFor[wasmev1.FilterDeployment](), schema, "")
	switch {
	case len(lacking) > 0 && len(unknown) > 0:
		return warn(CRDCheck, "use a wasme and a config/crd of the same version",
			"the operator's version is another one than wasme's: its CRD has no %s, and wasme does not know %s", some(lacking), some(unknown))
	case len(lacking) > 0:
		return warn(CRDCheck, "apply config/default of a newer version before you use what it does not know",
			"the operator is older than this wasme: its CRD has no %s", some(lacking))
	case len(unknown) > 0:
		return warn(CRDCheck, "update wasme", "the operator is newer than this wasme, which does not know %s", some(unknown))
	}
	return ok(CRDCheck, "%s has the fields that this wasme knows", CRDName)
}

func schemaOf(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.JSONSchemaProps {
	for _, served := range crd.Spec.Versions {
		if served.Name == wasmev1.GroupVersion.Version && served.Schema != nil {
			return served.Schema.OpenAPIV3Schema
		}
	}
	return nil
}

func isEstablished(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}

// compare returns the paths of the fields of a type that a schema lacks, and of those that
// only the schema has. It does not go below either. Metadata is the API server's.
func compare(t reflect.Type, schema *apiextensionsv1.JSONSchemaProps, path string) (lacking, unknown []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case schema == nil:
		return nil, nil
	case t.Kind() == reflect.Slice && schema.Items != nil:
		return compare(t.Elem(), schema.Items.Schema, path+"[]")
	case t.Kind() == reflect.Map && schema.AdditionalProperties != nil:
		return compare(t.Elem(), schema.AdditionalProperties.Schema, path+".*")
	case t.Kind() == reflect.Struct:
		return compareStruct(t, schema, path)
	}
	return nil, nil
}

func compareStruct(t reflect.Type, schema *apiextensionsv1.JSONSchemaProps, path string) (lacking, unknown []string) {
	known := fieldsOf(t)
	if len(known) == 0 {
		return nil, nil // it reads its JSON itself
	}
	for name, field := range known {
		at := strings.TrimPrefix(path+"."+name, ".")
		below, has := schema.Properties[name]
		if !has {
			lacking = append(lacking, at)
			continue
		}
		less, more := compare(field, &below, at)
		lacking, unknown = append(lacking, less...), append(unknown, more...)
	}
	for name := range schema.Properties {
		if known[name] == nil && (path != "" || !isHeader(name)) {
			unknown = append(unknown, strings.TrimPrefix(path+"."+name, "."))
		}
	}
	slices.Sort(lacking)
	slices.Sort(unknown)
	return lacking, unknown
}

func isHeader(name string) bool { return name == "apiVersion" || name == "kind" || name == "metadata" }

// fieldsOf returns the types of the fields of a struct by their names in JSON, those that
// every object has aside.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "metadata" || name == "-" || name == "" {
			continue
		}
		fields[name] = field.Type
	}
	return fields
}
