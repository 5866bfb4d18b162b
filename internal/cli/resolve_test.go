package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestAModuleThatIsNotResolvedNamesTheFieldsToSet(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for want, option := range map[string]registry.Option{
		"or set spec.filter.imagePullOptions.insecureSkipVerify": registry.WithTLS(),
		"run wasme login -s 127.0.0.1:":                          registry.WithBasicAuth(map[string]string{"user": "right"}),
	} {
		r, err := registry.Start(option)
		moduletest.Must(t, err)
		t.Cleanup(r.Close)
		image := r.Host() + "/hello:v1"
		_, err = (&app{}).resolveImage(t.Context(), wasmev1.FilterSpec{Image: image}, image)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "--") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestAPinnedImageIsTheOneOfItsRevision(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := moduletest.StartRegistry(t)
	first := moduletest.FormOf(t, registry.WasmeArtifact, moduletest.Wasm("first"))
	filter := wasmev1.FilterSpec{
		Image: moduletest.Push(t, r, "hello:v1", first), RootID: "r",
		ImagePullPolicy: wasmev1.PullIfNotPresent, ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
	}
	digest := moduletest.DigestOf(t, first)
	known := revision.Revision{Content: revision.Content{Filter: filter, Module: wasmev1.ModuleStatus{ManifestDigest: digest}}}
	moduletest.Push(t, r, "hello:v1", moduletest.FormOf(t, registry.WasmeArtifact, moduletest.Wasm("moved")))

	fd := &wasmev1.FilterDeployment{Spec: wasmev1.FilterDeploymentSpec{Filter: filter}}
	fd.Namespace, fd.Name = "bookinfo", "hello"
	asked, err := (&app{}).resolveRevision(t.Context(), nil, fd, []revision.Revision{known})
	moduletest.Must(t, err)
	if asked.Module.ManifestDigest != digest || asked.Module.Reference != filter.Image {
		t.Errorf("%+v, not %s", asked.Module, digest)
	}
}

func TestARegistryWithoutTLSNamesWhatToSet(t *testing.T) {
	r := &registryFlags{fixes: fixes{plainHTTP: "--plain-http"}}
	err := r.explain("pulling", name.Registry{}, errors.New("http: server gave HTTP response to HTTPS client"))
	if err.Error() != "pulling: the registry speaks HTTP without TLS: set --plain-http" {
		t.Error(err)
	}
}
