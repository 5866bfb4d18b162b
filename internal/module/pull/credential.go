package pull

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// RegistryAnnotation names, on a pull Secret with the keys username and password,
// the host of the one registry that the Secret is for.
const RegistryAnnotation = "wasme.io/registry"

// Credential is shown to one registry. Its zero value is anonymous.
type Credential struct {
	// Username and Password are for basic authentication, and for the
	// registry's token server.
	Username, Password string
	// IdentityToken is an OAuth2 refresh token, in place of a password.
	IdentityToken string
	// RegistryToken is a bearer token that is sent to the registry as it is.
	RegistryToken string
}

// String returns no part of the credential: it keeps credentials out of logs and messages.
func (c Credential) String() string {
	if c == (Credential{}) {
		return "anonymous"
	}
	return "redacted"
}

// GoString returns what String returns.
func (c Credential) GoString() string { return c.String() }

func (c Credential) authenticator() authn.Authenticator {
	if c == (Credential{}) {
		return authn.Anonymous
	}
	return authn.FromConfig(c.config())
}

func (c Credential) config() authn.AuthConfig {
	return authn.AuthConfig{
		Username:      c.Username,
		Password:      c.Password,
		IdentityToken: c.IdentityToken,
		RegistryToken: c.RegistryToken,
	}
}

// cloudAuthenticator asks the cloud each time that a credential is needed: those of clouds
// end within hours.
type cloudAuthenticator struct {
	cloud Cloud
	host  string
}

// Authorization implements authn.Authenticator.
func (a cloudAuthenticator) Authorization() (*authn.AuthConfig, error) {
	return a.AuthorizationContext(context.Background())
}

// AuthorizationContext implements authn.ContextAuthenticator.
func (a cloudAuthenticator) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	c, err := a.cloud.Credential(ctx, a.host)
	if err != nil {
		return nil, err
	}
	config := c.config()
	return &config, nil
}

// CredentialFor reads the credential for image's registry out of a pull Secret.
// The Secret's type is kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg,
// matched by host; or it has the keys username and password, and the annotation
// wasme.io/registry with the image's registry (legacy takes it without: then the
// pair goes to any registry that an image names). The error is a *module.Error
// with the reason SecretInvalid, or InvalidSpec when image is no reference.
func CredentialFor(image string, secret *corev1.Secret, legacy bool) (Credential, error) {
	ref, err := parseReference(image, false)
	if err != nil {
		return Credential{}, err
	}
	repo := ref.Context()
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		return fromDockerConfig(repo, secret, corev1.DockerConfigJsonKey, parseDockerConfig)
	case corev1.SecretTypeDockercfg:
		return fromDockerConfig(repo, secret, corev1.DockerConfigKey, parseDockerCfg)
	}
	return fromUserAndPassword(repo.RegistryStr(), secret, legacy)
}

func fromUserAndPassword(registry string, secret *corev1.Secret, legacy bool) (Credential, error) {
	c := Credential{
		Username: string(secret.Data[corev1.BasicAuthUsernameKey]),
		Password: string(secret.Data[corev1.BasicAuthPasswordKey]),
	}
	if c.Username == "" || c.Password == "" {
		return Credential{}, invalidSecret(secret, "it needs the keys username and password, or the type %s", corev1.SecretTypeDockerConfigJson)
	}
	annotated := secret.Annotations[RegistryAnnotation]
	switch {
	case annotated != "" && canonicalHost(annotated) == canonicalHost(registry), annotated == "" && legacy:
		return c, nil
	case annotated != "":
		return Credential{}, invalidSecret(secret, "its annotation %s names another registry than the image's, %s", RegistryAnnotation, registry)
	}
	return Credential{}, invalidSecret(secret, "annotate it with %s: %s, the registry it is for (with --legacy-pull-secrets the operator accepts it without)", RegistryAnnotation, registry)
}

// dockerAuth is an entry of a Docker configuration file, as docker login and
// kubectl create secret docker-registry write it.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func parseDockerConfig(data []byte) (map[string]dockerAuth, error) {
	var config struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	err := json.Unmarshal(data, &config)
	return config.Auths, err
}

func parseDockerCfg(data []byte) (map[string]dockerAuth, error) {
	var auths map[string]dockerAuth
	err := json.Unmarshal(data, &auths)
	return auths, err
}

func fromDockerConfig(repo name.Repository, secret *corev1.Secret, key string, parse func([]byte) (map[string]dockerAuth, error)) (Credential, error) {
	auths, err := parse(secret.Data[key])
	if err != nil {
		return Credential{}, invalidSecret(secret, "the value of %s is not the JSON of a Docker configuration file", key)
	}
	auth, found := match(repo, auths)
	if !found {
		return Credential{}, invalidSecret(secret, "it has no entry for the image's registry, %s", repo.RegistryStr())
	}
	c, ok := auth.credential()
	if !ok {
		return Credential{}, invalidSecret(secret, "its entry for %s holds neither username and password, nor auth, nor a token", repo.RegistryStr())
	}
	return c, nil
}

// match returns the entry for a repository: its host must be the repository's,
// and its path, where it has one, must lead to the repository; the longest path
// counts. The rule is the kubelet's, without its wildcards.
func match(repo name.Repository, auths map[string]dockerAuth) (dockerAuth, bool) {
	host, path := canonicalHost(repo.RegistryStr()), "/"+repo.RepositoryStr()+"/"
	best, bestPath, found := "", "", false
	for _, key := range slices.Sorted(maps.Keys(auths)) {
		keyHost, keyPath := splitKey(key)
		if keyHost != host || !strings.HasPrefix(path, keyPath) {
			continue
		}
		if !found || len(keyPath) > len(bestPath) {
			best, bestPath, found = key, keyPath, true
		}
	}
	return auths[best], found
}

// canonicalHost returns the host of splitKey.
func canonicalHost(key string) string {
	host, _ := splitKey(key)
	return host
}

// splitKey returns the host, with its port, and the path of a key of a Docker
// configuration file: a host, or a URL. /v1/ and /v2/ are old ways to name the whole
// registry.
func splitKey(key string) (string, string) {
	if !strings.Contains(key, "://") {
		key = "https://" + key
	}
	u, err := url.Parse(key)
	if err != nil {
		return "", ""
	}
	path := strings.TrimSuffix(u.Path, "/") + "/"
	if path == "/v1/" || path == "/v2/" {
		path = "/"
	}
	return module.CanonicalHost(u.Host), path
}

// credential returns the entry's credential; auth is base64 of username:password.
func (a dockerAuth) credential() (Credential, bool) {
	c := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return Credential{}, false
		}
		username, password, _ := strings.Cut(string(decoded), ":")
		c.Username, c.Password = username, strings.TrimRight(password, "\x00")
	}
	complete := c.IdentityToken != "" || c.RegistryToken != "" || (c.Username != "" && c.Password != "")
	return c, complete
}

func invalidSecret(secret *corev1.Secret, format string, args ...any) *module.Error {
	e := module.Terminal(wasmev1.ReasonSecretInvalid, format, args...)
	e.Message = "reading spec.filter.imagePullOptions.pullSecret " + secret.Name + ": " + e.Message
	return e
}
