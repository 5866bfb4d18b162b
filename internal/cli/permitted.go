package cli

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
)

// permitted is a client whose errors say which right is missing, as *doctor.MissingRight.
type permitted struct{ client.Client }

// Get implements client.Reader.
func (p permitted) Get(ctx context.Context, at client.ObjectKey, object client.Object, options ...client.GetOption) error {
	return p.explained(p.Client.Get(ctx, at, object, options...), "get", object, at.Namespace)
}

// List implements client.Reader.
func (p permitted) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	asked := client.ListOptions{}
	asked.ApplyOptions(options)
	return p.explained(p.Client.List(ctx, list, options...), "list", list, asked.Namespace)
}

// Create implements client.Writer.
func (p permitted) Create(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	return p.explained(p.Client.Create(ctx, object, options...), "create", object, object.GetNamespace())
}

func (p permitted) explained(err error, verb string, object runtime.Object, namespace string) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	kind, unknown := p.GroupVersionKindFor(object)
	if unknown != nil {
		return err
	}
	mapping, unknown := p.RESTMapper().RESTMapping(schema.GroupKind{Group: kind.Group, Kind: strings.TrimSuffix(kind.Kind, "List")}, kind.Version)
	if unknown != nil {
		return err
	}
	return &doctor.MissingRight{Right: doctor.Right{Verb: verb, Group: kind.Group, Resource: mapping.Resource.Resource, Namespace: namespace}}
}

// listAnywhere lists objects of all namespaces, or of one when the user may not see all.
func listAnywhere(ctx context.Context, c client.Reader, list client.ObjectList, namespace string, options ...client.ListOption) error {
	err := c.List(ctx, list, options...)
	if _, missing := errors.AsType[*doctor.MissingRight](err); missing || apierrors.IsForbidden(err) {
		return c.List(ctx, list, append(options, client.InNamespace(namespace))...)
	}
	return err
}

// serves reports whether the API server serves a kind.
func (p permitted) serves(kind schema.GroupVersionKind) bool {
	_, err := p.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
	return err == nil
}
