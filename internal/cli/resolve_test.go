package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
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
		_, err = (&app{}).resolveImage(t.Context(), wasmev1.FilterSpec{Image: r.Host() + "/hello:v1"})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "--") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestARegistryWithoutTLSNamesWhatToSet(t *testing.T) {
	r := &registryFlags{fixes: fixes{plainHTTP: "--plain-http"}}
	err := r.explain("pulling", name.Registry{}, errors.New("http: server gave HTTP response to HTTPS client"))
	if err.Error() != "pulling: the registry speaks HTTP without TLS: set --plain-http" {
		t.Error(err)
	}
}
