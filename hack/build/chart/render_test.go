// Package build pins Helm and kustomize, and compares what charts/wasme-operator installs
// with what config installs.
//
// go.mod has the versions of Kubernetes' modules that the operator has, so that the build
// cache serves both.
package build

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	root        = "../../.."
	chartFolder = root + "/charts/wasme-operator"
	notesFile   = "wasme-operator/templates/NOTES.txt"
	testFile    = "wasme-operator/templates/tests/module_server.yaml"
)

// release is one `helm install`.
type release struct {
	name, namespace, values string
}

// standard is what a release is called whose objects have the names of config/default.
func standard(values string) release { return release{"wasme-operator", "wasme-system", values} }

// render returns the text of each of the chart's templates.
func (r release) render(t *testing.T) (map[string]string, error) {
	t.Helper()
	loaded, err := loader.Load(chartFolder)
	if err != nil {
		t.Fatal(err)
	}
	return r.renderChart(loaded)
}

func (r release) renderChart(loaded *chart.Chart) (map[string]string, error) {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(r.values), &values); err != nil {
		return nil, err
	}
	given := common.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: true}
	merged, err := util.ToRenderValues(loaded, values, given, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(loaded, merged)
}

// install returns the objects of a release, but for those of `helm test`.
func (r release) install(t *testing.T) objects {
	t.Helper()
	files := r.files(t)
	delete(files, notesFile)
	delete(files, testFile)
	installed := objects{}
	for name, text := range files {
		if err := installed.add(text); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	return installed
}

// files are the texts of the templates.
func (r release) files(t *testing.T) map[string]string {
	t.Helper()
	files, err := r.render(t)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// objects are objects by their kind, namespace and name.
type objects map[string]*unstructured.Unstructured

func keyOf(object *unstructured.Unstructured) string {
	return strings.ReplaceAll(fmt.Sprintf("%s %s/%s", object.GetKind(), object.GetNamespace(), object.GetName()), " /", " ")
}

// add adds the objects of a text with YAML documents. None may be there already.
func (o objects) add(text string) error {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), len(text)+1)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case len(object.Object) == 0:
			continue
		}
		if o[keyOf(object)] != nil {
			return fmt.Errorf("%s is there twice", keyOf(object))
		}
		o[keyOf(object)] = object
	}
}

// get returns one object, which must be there.
func (o objects) get(t *testing.T, key string) *unstructured.Unstructured {
	t.Helper()
	if o[key] == nil {
		t.Fatalf("there is no %s", key)
	}
	return o[key]
}

// kustomize returns the objects of an overlay of config, whose paths begin at the
// repository's root.
func kustomize(t *testing.T, overlay string) objects {
	t.Helper()
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	files := filesys.MakeFsOnDisk()
	folder := t.TempDir()
	relative, err := filepath.Rel(folder, absolute)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(overlay, "config/", relative+"/config/")
	if err := files.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, folder)
	if err != nil {
		t.Fatal(err)
	}
	all, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	found := objects{}
	if err := found.add(string(all)); err != nil {
		t.Fatal(err)
	}
	return found
}
