package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// resolveHelp says where the module comes from, for the help of the commands that resolve one.
const resolveHelp = `The module is the one that spec.filter has now: an image is looked up at its registry, with
your own credentials (wasme login, or Docker's), not with those of imagePullOptions. While
the registry does not answer, it is the one that the operator resolved from the same image.
With imagePullPolicy IfNotPresent it always is, if the operator has resolved one.`

// resolveRevision returns the revision that a FilterDeployment asks for. The history has
// what the operator resolved before, the newest first.
func (a *app) resolveRevision(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment, history []revision.Revision) (*revision.Revision, error) {
	if err := render.Check(fd.Spec); err != nil {
		return nil, err
	}
	filter := fd.Spec.Filter
	if filter.ConfigFrom != nil {
		content, err := readConfigMap(ctx, c, fd.Namespace, filter.ConfigFrom.ConfigMapKeyRef)
		if err != nil {
			return nil, fmt.Errorf("reading spec.filter.configFrom: %w", err)
		}
		filter = render.WithConfiguration(filter, content)
	}
	istio := workload.IstioSpec(fd)
	resolved, err := a.resolveModule(ctx, c, fd, revision.Pinned(history, fd.Spec.Filter))
	if err != nil {
		known := revision.ResolvedBefore(history, fd.Spec.Filter, istio.Distribution, func(wasmev1.ModuleStatus) bool { return true })
		if known == nil {
			return nil, err
		}
		a.say("note: %v: the module is the one that the operator resolved before", err)
		resolved = known.Module
	}
	content := revision.Content{Filter: filter, Module: resolved, Output: istio.Output, Distribution: istio.Distribution}
	asked, err := revision.New(client.ObjectKeyFromObject(fd), content)
	return &asked, err
}

// resolveModule returns the module that a source has now; an image is the one at pinned.
func (a *app) resolveModule(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment, pinned string) (wasmev1.ModuleStatus, error) {
	filter := fd.Spec.Filter
	switch {
	case filter.URL != "": // its digest is in the spec, and it has no runtime configuration
		return wasmev1.ModuleStatus{Reference: revision.Source(filter), SHA256: filter.SHA256, SizeBytes: new(int64(0))}, nil
	case filter.ConfigMap != nil:
		content, err := readConfigMap(ctx, c, fd.Namespace, *filter.ConfigMap)
		if err != nil {
			return wasmev1.ModuleStatus{}, fmt.Errorf("reading spec.filter.configMap: %w", err)
		}
		sum := sha256.Sum256(content)
		return wasmev1.ModuleStatus{Reference: revision.Source(filter), SHA256: hex.EncodeToString(sum[:]), SizeBytes: new(int64(len(content)))}, nil
	}
	return a.resolveImage(ctx, filter, pinned)
}

func (a *app) resolveImage(ctx context.Context, filter wasmev1.FilterSpec, pinned string) (wasmev1.ModuleStatus, error) {
	registry := &registryFlags{app: a, fixes: fixes{
		plainHTTP: "spec.filter.imagePullOptions.plainHttp", insecure: "spec.filter.imagePullOptions.insecureSkipVerify",
	}}
	if options := filter.ImagePullOptions; options != nil {
		registry.plainHTTP, registry.insecure = options.PlainHTTP, options.InsecureSkipVerify
	}
	var parsing []name.Option
	if registry.plainHTTP {
		parsing = append(parsing, name.Insecure)
	}
	reference, err := name.ParseReference(pinned, parsing...) // as the operator does: without a tag it is latest
	if err != nil {
		return wasmev1.ModuleStatus{}, fmt.Errorf("reading spec.filter.image: %w", err)
	}
	found, err := registry.find(ctx, reference)
	if err != nil {
		return wasmev1.ModuleStatus{}, err
	}
	digest, err := image.Digest(found)
	if err != nil {
		return wasmev1.ModuleStatus{}, err
	}
	read, err := readImage(found)
	if err != nil {
		return wasmev1.ModuleStatus{}, fmt.Errorf("reading %s: %w", filter.Image, err)
	}
	return wasmev1.ModuleStatus{
		Reference: filter.Image, ManifestDigest: digest.String(), SHA256: read.SHA256(), SizeBytes: new(int64(len(read.Wasm))), RootIDs: read.RootIDs,
	}, nil
}

// readConfigMap reads one value of a ConfigMap, like the operator.
func readConfigMap(ctx context.Context, c client.Reader, namespace string, from wasmev1.ConfigMapKey) ([]byte, error) {
	var object corev1.ConfigMap
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: from.Name}, &object); err != nil {
		return nil, explain(ctx, "reading ConfigMap "+from.Name, err)
	}
	if content, found := object.BinaryData[from.Key]; found {
		return content, nil
	}
	if text, found := object.Data[from.Key]; found {
		return []byte(text), nil
	}
	return nil, fmt.Errorf("ConfigMap %s has no key %q: add it, or correct the name", from.Name, from.Key)
}
