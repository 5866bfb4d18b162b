package pull

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

var annSecret = Credential{Username: "ann", Password: "secret"}

func TestCredentialForUserAndPassword(t *testing.T) {
	for name, c := range map[string]struct {
		image, annotation, password string
		legacy                      bool
		message                     string
	}{
		"annotated":                       {"ghcr.io/a/b:v1", "ghcr.io", "secret", false, ""},
		"annotated with scheme and slash": {"ghcr.io/a/b:v1", "https://ghcr.io/", "secret", false, ""},
		"annotated in upper case":         {"ghcr.io/a/b:v1", "GHCR.io", "secret", false, ""},
		"with a port":                     {"ghcr.io:5000/a/b:v1", "ghcr.io:5000", "secret", false, ""},
		"with the default port":           {"ghcr.io/a/b:v1", "ghcr.io:443", "secret", false, ""},
		"Docker Hub":                      {"a/b", "docker.io", "secret", false, ""},
		"for another port":                {"ghcr.io:5000/a/b:v1", "ghcr.io", "secret", false, "another registry than the image's, ghcr.io:5000"},
		"for another registry":            {"ghcr.io/a/b:v1", "quay.io", "secret", false, "another registry"},
		"for another, legacy":             {"ghcr.io/a/b:v1", "quay.io", "secret", true, "another registry"},
		"not annotated":                   {"ghcr.io/a/b:v1", "", "secret", false, "annotate it with wasme.io/registry: ghcr.io"},
		"not annotated, legacy":           {"ghcr.io/a/b:v1", "", "secret", true, ""},
		"no password":                     {"ghcr.io/a/b:v1", "ghcr.io", "", false, "needs the keys username and password"},
		"no URL at all":                   {"ghcr.io/a/b:v1", "%zz", "secret", false, "another registry"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "pull", Annotations: map[string]string{RegistryAnnotation: c.annotation}},
				Data:       map[string][]byte{"username": []byte("ann"), "password": []byte(c.password)},
			}
			wantCredential(t, c.image, secret, c.legacy, annSecret, c.message)
		})
	}
}

func TestCredentialForDockerConfig(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	entry := fmt.Sprintf(`{"auth":%q}`, auth)
	for name, c := range map[string]struct {
		image, auths string
		want         Credential
		message      string
	}{
		"auth":                   {"ghcr.io/a/b", `{"ghcr.io":` + entry + `}`, annSecret, ""},
		"username and password":  {"ghcr.io/a/b", `{"ghcr.io":{"username":"ann","password":"secret"}}`, annSecret, ""},
		"a URL":                  {"ghcr.io/a/b", `{"https://ghcr.io/v2/":` + entry + `}`, annSecret, ""},
		"Docker Hub":             {"a/b", `{"https://index.docker.io/v1/":` + entry + `}`, annSecret, ""},
		"Docker Hub by name":     {"docker.io/a/b", `{"docker.io":` + entry + `}`, annSecret, ""},
		"identity token":         {"ghcr.io/a/b", `{"ghcr.io":{"identitytoken":"t"}}`, Credential{IdentityToken: "t"}, ""},
		"registry token":         {"ghcr.io/a/b", `{"ghcr.io":{"registrytoken":"t"}}`, Credential{RegistryToken: "t"}, ""},
		"longest path":           {"ghcr.io/a/b", `{"ghcr.io":{"identitytoken":"t"},"ghcr.io/a":` + entry + `,"ghcr.io/b":{"identitytoken":"t"}}`, annSecret, ""},
		"two keys of a registry": {"ghcr.io/a/b", `{"https://ghcr.io":{"identitytoken":"t"},"ghcr.io":` + entry + `}`, annSecret, ""},
		"path of another":        {"ghcr.io/ab/c", `{"ghcr.io/a":` + entry + `}`, Credential{}, "no entry for the image's registry, ghcr.io"},
		"another host":           {"ghcr.io/a/b", `{"quay.io":` + entry + `}`, Credential{}, "no entry for the image's registry, ghcr.io"},
		"a host that ends so":    {"ghcr.io/a/b", `{"evilghcr.io":` + entry + `,"ghcr.io.evil.org":` + entry + `}`, Credential{}, "no entry"},
		"another port":           {"ghcr.io:5000/a/b", `{"ghcr.io":` + entry + `}`, Credential{}, "no entry"},
		"empty entry":            {"ghcr.io/a/b", `{"ghcr.io":{}}`, Credential{}, "neither username and password, nor auth, nor a token"},
		"auth without password":  {"ghcr.io/a/b", `{"ghcr.io":{"auth":"YW5u"}}`, Credential{}, "neither"},
		"auth that is no text":   {"ghcr.io/a/b", `{"ghcr.io":{"auth":"%"}}`, Credential{}, "neither"},
		"no JSON":                {"ghcr.io/a/b", `{`, Credential{}, "not the JSON of a Docker configuration file"},
		"nothing":                {"ghcr.io/a/b", `null`, Credential{}, "no entry"},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, secret := range map[string]*corev1.Secret{
				"dockerconfigjson": {Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{".dockerconfigjson": []byte(`{"auths":` + c.auths + `}`)}},
				"dockercfg":        {Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{".dockercfg": []byte(c.auths)}},
			} {
				t.Run(kind, func(t *testing.T) {
					secret.Name = "pull"
					wantCredential(t, c.image, secret, false, c.want, c.message)
				})
			}
		})
	}
}

func TestCredentialForABadReference(t *testing.T) {
	_, err := CredentialFor("Not A Reference", &corev1.Secret{}, false)
	moduletest.WantError(t, err, wasmev1.ReasonInvalidSpec, "spec.filter.image")
}

func TestCredentialsAreNotPrinted(t *testing.T) {
	req := Request{Image: "ghcr.io/a/b", Credential: annSecret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, req); text == "" || len(text) > 200 || strings.Contains(text, "secret") || strings.Contains(text, "ann") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func TestACredentialSaysOnlyWhetherItIsOne(t *testing.T) {
	for credential, want := range map[Credential]string{{}: "anonymous", annSecret: "redacted", {RegistryToken: "t"}: "redacted"} {
		if got := credential.String(); got != want || credential.GoString() != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://ghcr.io/v1/":{"auth":"YW5uOnNlY3JldA=="}}}`), "ghcr.io/a/b:v1")
	f.Add([]byte(`{"auths":{"[::1]:5000/x":{"username":"u","password":"p"}}}`), "[::1]:5000/x/y")
	f.Fuzz(func(t *testing.T, data []byte, image string) {
		secret := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{".dockerconfigjson": data}}
		credential, err := CredentialFor(image, secret, false)
		if (err == nil) == (credential == Credential{}) {
			t.Errorf("%#v and %v", credential, err)
		}
		if err != nil && module.AsError(err) == nil {
			t.Errorf("not classified: %v", err)
		}
	})
}

func wantCredential(t *testing.T, image string, secret *corev1.Secret, legacy bool, want Credential, message string) {
	t.Helper()
	got, err := CredentialFor(image, secret, legacy)
	moduletest.WantError(t, err, wasmev1.ReasonSecretInvalid, message)
	if message != "" {
		want = Credential{}
	}
	if got != want {
		t.Error("another credential than the Secret's")
	}
}
