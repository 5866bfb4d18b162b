package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// manifests are objects that were read from files. They are a client.Reader, so that what
// reads a cluster reads them, too.
type manifests []*unstructured.Unstructured

// readManifests reads the objects in files, folders and URLs; - is the standard input.
func (a *app) readManifests(paths []string) (manifests, error) {
	builder := resource.NewLocalBuilder().Unstructured().Local().Flatten().ContinueOnError()
	var files []string
	for _, path := range paths {
		if path == "-" {
			builder = builder.Stream(a.In, "standard input")
			continue
		}
		files = append(files, path)
	}
	if len(files) > 0 {
		builder = builder.FilenameParam(false, &resource.FilenameOptions{Filenames: files})
	}
	infos, err := builder.Do().Infos()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", strings.Join(paths, ", "), err)
	}
	var found manifests
	for _, info := range infos {
		found = append(found, info.Object.(*unstructured.Unstructured))
	}
	return found, nil
}

// filterDeployments returns those among the objects, in the namespace that they say, or else
// in the given one. A field that there is not is an error.
func (m manifests) filterDeployments(namespace string) ([]*wasmev1.FilterDeployment, error) {
	var found []*wasmev1.FilterDeployment
	for _, object := range m {
		if object.GroupVersionKind() != wasmev1.GroupVersion.WithKind(wasmev1.FilterDeploymentKind) {
			continue
		}
		fd := &wasmev1.FilterDeployment{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, fd, true); err != nil {
			return nil, fmt.Errorf("reading FilterDeployment %s: %w: correct the field, or update wasme", object.GetName(), err)
		}
		if fd.Namespace == "" {
			fd.Namespace = namespace
		}
		if fd.Name == "" {
			return nil, errors.New("reading a FilterDeployment: it has no metadata.name: add one")
		}
		found = append(found, fd)
	}
	if len(found) == 0 {
		return nil, errors.New("the files have no FilterDeployment (wasme.io/v1): name one with -f")
	}
	return found, nil
}

// in returns the objects with a namespace for those that have none.
func (m manifests) in(namespace string) manifests {
	placed := manifests{}
	for _, object := range m {
		object = object.DeepCopy()
		if object.GetNamespace() == "" && object.GetKind() != "Namespace" {
			object.SetNamespace(namespace)
		}
		placed = append(placed, object)
	}
	return placed
}

// Get implements client.Reader.
func (m manifests) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	kind, err := apiutil.GVKForObject(into, newScheme())
	if err != nil {
		return err
	}
	for _, object := range m {
		if object.GroupVersionKind() == kind && client.ObjectKeyFromObject(object) == key {
			return decode(object.Object, into)
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, key.Name)
}

// List implements client.Reader.
func (m manifests) List(_ context.Context, into client.ObjectList, options ...client.ListOption) error {
	kind, err := apiutil.GVKForObject(into, newScheme())
	if err != nil {
		return err
	}
	kind.Kind = strings.TrimSuffix(kind.Kind, "List")
	wanted := client.ListOptions{LabelSelector: labels.Everything()}
	wanted.ApplyOptions(options)
	items := []any{}
	for _, object := range m {
		inside := wanted.Namespace == "" || object.GetNamespace() == wanted.Namespace
		if object.GroupVersionKind() == kind && inside && wanted.LabelSelector.Matches(labels.Set(object.GetLabels())) {
			items = append(items, object.Object)
		}
	}
	return decode(map[string]any{"items": items}, into)
}

func decode(from map[string]any, into any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
