package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/diff"
)

// difference is one that is wanted between what the chart and config install. It changes the
// chart's objects to config's, and fails the test where there is no difference.
type difference struct {
	why   string
	apply func(chart, config objects) error
}

// differences are those of every installation.
var differences = []difference{
	{"a chart cannot label its namespace: `helm install --create-namespace` makes it, and the pods opt out of the mesh themselves", func(_, config objects) error {
		return drop(config, "Namespace wasme-system")
	}},
	{"Helm's labels say what release an object belongs to, and what installed it", func(chart, _ objects) error {
		for key, object := range chart {
			for _, label := range []string{"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"} {
				if object.GetLabels()[label] == "" {
					return fmt.Errorf("%s has no label %s", key, label)
				}
				unlabel(object, label)
			}
		}
		return nil
	}},
	{"all of the chart's objects have the label that some of config's do not have, such as those that controller-gen writes", func(chart, config objects) error {
		for key, object := range chart {
			const label = "app.kubernetes.io/name"
			if object.GetLabels()[label] != "wasme-operator" {
				return fmt.Errorf("%s has no label %s", key, label)
			}
			if config[key] != nil && config[key].GetLabels()[label] == "" {
				unlabel(object, label)
			}
		}
		return nil
	}},
	{"the image is a released one; `make install-yaml` sets config's", func(chart, config objects) error {
		return each(chart, config, func(chart, config map[string]any) error {
			if chart["image"] != "ghcr.io/wasme-io/wasme-operator:dev" || config["image"] != "wasme-operator:dev" {
				return fmt.Errorf("the images are %v and %v", chart["image"], config["image"])
			}
			chart["image"] = config["image"]
			return nil
		})
	}},
	{"the pull policy can be set, and is the one that a tag gets by default", func(chart, config objects) error {
		return each(chart, config, func(chart, _ map[string]any) error {
			if chart["imagePullPolicy"] != "IfNotPresent" {
				return fmt.Errorf("it is %v", chart["imagePullPolicy"])
			}
			delete(chart, "imagePullPolicy")
			return nil
		})
	}},
	{"what the store may hold follows moduleStore.size: for that of config, it is the manager's default", func(chart, config objects) error {
		return each(chart, config, func(chart, _ map[string]any) error {
			args, _, err := unstructured.NestedStringSlice(chart, "args")
			at := slices.Index(args, "--module-store-max-bytes=2147483648")
			if err != nil || at < 0 {
				return fmt.Errorf("the arguments are %q: %w", args, err)
			}
			return unstructured.SetNestedStringSlice(chart, slices.Delete(args, at, at+1), "args")
		})
	}},
}

// keptCRDs is one where the chart has the CRDs.
var keptCRDs = difference{"neither Helm nor Argo CD may delete a CRD, and every object of its kind with it", func(chart, _ objects) error {
	for _, plural := range []string{"filterdeployments", "filterpolicies", "clusterfilterpolicies"} {
		crd := chart["CustomResourceDefinition "+plural+".wasme.io"]
		if crd == nil {
			return fmt.Errorf("there is no CRD of %s", plural)
		}
		annotations := crd.GetAnnotations()
		if annotations["helm.sh/resource-policy"] != "keep" || annotations["argocd.argoproj.io/sync-options"] != "Prune=false" {
			return fmt.Errorf("the CRD of %s is not kept: %v", plural, annotations)
		}
		delete(annotations, "helm.sh/resource-policy")
		delete(annotations, "argocd.argoproj.io/sync-options")
		crd.SetAnnotations(annotations)
	}
	return nil
}}

// unlabel removes a label, and the map with the last one.
func unlabel(object *unstructured.Unstructured, label string) {
	labels := object.GetLabels()
	delete(labels, label)
	if len(labels) == 0 {
		labels = nil
	}
	object.SetLabels(labels)
}

func drop(from objects, key string) error {
	if from[key] == nil {
		return fmt.Errorf("there is no %s", key)
	}
	delete(from, key)
	return nil
}

// each calls visit with the manager's container of both.
func each(chart, config objects, visit func(chart, config map[string]any) error) error {
	ours, err := manager(chart)
	if err != nil {
		return err
	}
	theirs, err := manager(config)
	if err != nil {
		return err
	}
	return visit(ours, theirs)
}

// manager returns the one container of the Deployment or StatefulSet.
func manager(all objects) (map[string]any, error) {
	for _, object := range all {
		if kind := object.GetKind(); kind != "Deployment" && kind != "StatefulSet" {
			continue
		}
		containers, _, err := unstructured.NestedFieldNoCopy(object.Object, "spec", "template", "spec", "containers")
		list, ok := containers.([]any)
		if err != nil || !ok || len(list) != 1 {
			return nil, fmt.Errorf("%s has no one container: %v", keyOf(object), err)
		}
		return list[0].(map[string]any), nil
	}
	return nil, errors.New("there is neither a Deployment nor a StatefulSet")
}

func TestTheChartInstallsWhatConfigInstalls(t *testing.T) {
	for name, c := range map[string]struct {
		values, overlay string
		differences     []difference
	}{
		"config/default": {
			"", "resources: [config/default]", []difference{keptCRDs},
		},
		"with config/prometheus": {
			"prometheus: {enabled: true}", "resources: [config/default]\ncomponents: [config/prometheus]", []difference{keptCRDs},
		},
		"with config/grafana": {
			"grafana: {dashboard: true}", "resources: [config/default]\ncomponents: [config/grafana]", []difference{keptCRDs},
		},
		"with config/storage": {
			"moduleStore: {persistent: true}", "resources: [config/default]\ncomponents: [config/storage]", []difference{keptCRDs, {
				"config's patch removes the only volume and leaves the empty list, which means the same", func(_, config objects) error {
					pod := config["StatefulSet wasme-system/wasme-operator"].Object
					volumes, found, err := unstructured.NestedSlice(pod, "spec", "template", "spec", "volumes")
					if err != nil || !found || len(volumes) > 0 {
						return fmt.Errorf("the volumes are %v: %w", volumes, err)
					}
					unstructured.RemoveNestedField(pod, "spec", "template", "spec", "volumes")
					return nil
				},
			}},
		},
		"config/namespaced": {
			"{watchNamespaces: [bookinfo], crds: {install: false}, guard: {enabled: false}}", "resources: [config/namespaced]", nil,
		},
		"with config/policy/roles": {
			"rbac: {aggregateToEdit: true}", "resources: [config/default, config/policy/roles]", []difference{keptCRDs},
		},
	} {
		t.Run(name, func(t *testing.T) {
			chart, config := standard(c.values).install(t), kustomize(t, c.overlay)
			for _, wanted := range slices.Concat(differences, c.differences) {
				if err := wanted.apply(chart, config); err != nil {
					t.Errorf("%s: this is not so: %v", wanted.why, err)
				}
			}
			for _, problem := range compare(chart, config) {
				t.Error(problem)
			}
		})
	}
}

// compare returns how the chart's objects are not config's.
func compare(chart, config objects) []string {
	var problems []string
	for _, key := range slices.Sorted(maps.Keys(config)) {
		if chart[key] == nil {
			problems = append(problems, "only config has "+key)
		} else if found := diff.Diff(config[key].Object, chart[key].Object); strings.TrimSpace(found) != "" {
			problems = append(problems, fmt.Sprintf("%s differs (-config +chart):\n%s", key, found))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(chart)) {
		if config[key] == nil {
			problems = append(problems, "only the chart has "+key)
		}
	}
	return problems
}

func TestDifferencesAreFound(t *testing.T) {
	const key = "Deployment wasme-system/wasme-operator"
	for name, spoil := range map[string]func(objects){
		"an object is missing": func(o objects) { delete(o, key) },
		"there is another one": func(o objects) { o["Job wasme-system/extra"] = o[key] },
		"a field is different": func(o objects) { _ = unstructured.SetNestedField(o[key].Object, int64(3), "spec", "replicas") },
		"a field is not there": func(o objects) { unstructured.RemoveNestedField(o[key].Object, "spec", "strategy") },
		"a label is not there": func(o objects) { unlabel(o[key], "app.kubernetes.io/name") },
		"an item is not there": func(o objects) {
			_ = unstructured.SetNestedSlice(o[key].Object, nil, "spec", "template", "spec", "volumes")
		},
		"a namespace is another": func(o objects) { o[key].SetNamespace("default") },
	} {
		t.Run(name, func(t *testing.T) {
			config, spoilt := kustomize(t, "resources: [config/default]"), kustomize(t, "resources: [config/default]")
			if problems := compare(spoilt, config); len(problems) > 0 {
				t.Fatal(problems)
			}
			spoil(spoilt)
			if len(compare(spoilt, config)) != 1 {
				t.Error("it is not found")
			}
		})
	}
}
