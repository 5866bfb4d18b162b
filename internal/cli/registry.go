package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/wasme-io/wasme-operator/internal/cli/progress"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
)

// registryFlags say how to reach a registry.
type registryFlags struct {
	app                 *app
	plainHTTP, insecure bool
	username, password  string
	passwordStdin       bool
	authConfig          string
}

// newRegistryFlags adds the flags for a registry to a command.
func newRegistryFlags(a *app, c *cobra.Command) *registryFlags {
	r := &registryFlags{app: a}
	flags := c.Flags()
	flags.BoolVar(&r.plainHTTP, "plain-http", false, "reach the registry over HTTP, without TLS")
	flags.BoolVar(&r.insecure, "insecure", false, "do not check the registry's certificate")
	flags.StringVarP(&r.username, "username", "u", "", "user at the registry; the default is what Docker's configuration has for it")
	flags.StringVarP(&r.password, "password", "p", "", "password; others can read it in the list of processes: --password-stdin hides it")
	flags.BoolVar(&r.passwordStdin, "password-stdin", false, "read the password from the standard input")
	return r
}

// addConfig adds the predecessor's flag for a file with credentials.
func (r *registryFlags) addConfig(c *cobra.Command) {
	c.Flags().StringVarP(&r.authConfig, "config", "c", "", "file with credentials, as Docker's config.json; the default is Docker's own")
}

// reference parses the name of an image, which needs a registry and a tag or digest.
func (r *registryFlags) reference(text string) (name.Reference, error) {
	if r.plainHTTP {
		return parseReference(text, name.Insecure)
	}
	return parseReference(text)
}

func parseReference(text string, options ...name.Option) (name.Reference, error) {
	const form = "write it as REGISTRY/REPOSITORY:TAG, such as registry.example.com/filters/hello:v1"
	ref, err := name.ParseReference(text, append(options, name.StrictValidation)...)
	if err == nil {
		return ref, nil
	}
	switch loose, looseErr := name.ParseReference(text, options...); {
	case looseErr != nil:
		return nil, misused("%q is not the name of an image: %w", text, err)
	case !strings.Contains(text, "/") || loose.Context().RegistryStr() == name.DefaultRegistry:
		return nil, misused("the image %q has no registry: %s", text, form)
	default:
		return nil, misused("the image %q has no tag: %s", text, form)
	}
}

// parseTag parses the name of an image that is to be written.
func (r *registryFlags) parseTag(text string) (name.Tag, error) {
	ref, err := r.reference(text)
	if err != nil {
		return name.Tag{}, err
	}
	tag, ok := ref.(name.Tag)
	if !ok {
		return name.Tag{}, misused("the image %q is named by a digest: give it a tag", text)
	}
	return tag, nil
}

// remote returns the options of a request to a registry.
func (r *registryFlags) remote(ctx context.Context) ([]remote.Option, error) {
	options := []remote.Option{remote.WithContext(ctx), remote.WithUserAgent("wasme"), remote.WithTransport(r.transport())}
	switch {
	case r.username != "":
		if err := r.readPassword(); err != nil {
			return nil, err
		}
		return append(options, remote.WithAuth(&authn.Basic{Username: r.username, Password: r.password})), nil
	case r.password != "" || r.passwordStdin:
		return nil, misused("a password needs a user: set --username")
	case r.authConfig != "":
		keys, err := readKeychain(r.authConfig)
		if err != nil {
			return nil, err
		}
		return append(options, remote.WithAuthFromKeychain(keys)), nil
	}
	return append(options, remote.WithAuthFromKeychain(authn.DefaultKeychain)), nil
}

func (r *registryFlags) transport() http.RoundTripper {
	if !r.insecure {
		return remote.DefaultTransport
	}
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the user asked for it, for this image
	return t
}

// readPassword reads the password from where the flags say: a terminal is asked.
func (r *registryFlags) readPassword() error {
	switch file, _ := r.app.In.(*os.File); {
	case r.passwordStdin:
		line, err := bufio.NewReader(r.app.In).ReadString('\n')
		if r.password = strings.TrimRight(line, "\r\n"); r.password == "" {
			return fmt.Errorf("reading the password from the standard input: there is none: %w", err)
		}
	case r.password != "":
	case file != nil && term.IsTerminal(int(file.Fd())):
		fmt.Fprint(r.app.ErrOut, "Password: ")
		typed, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(r.app.ErrOut)
		r.password = string(typed)
		return err
	default:
		return misused("there is no password: set --password-stdin")
	}
	return nil
}

// keychain are the credentials of a file.
type keychain struct{ file *configfile.ConfigFile }

func readKeychain(path string) (authn.Keychain, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials: %w", err)
	}
	defer file.Close()
	parsed, err := config.LoadFromReader(file)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials in %s: %w", path, err)
	}
	return keychain{parsed}, nil
}

// Resolve implements authn.Keychain.
func (k keychain) Resolve(resource authn.Resource) (authn.Authenticator, error) {
	found, err := k.file.GetAuthConfig(resource.RegistryStr())
	if err != nil {
		return nil, err
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: found.Username, Password: found.Password, Auth: found.Auth, IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
	}), nil
}

// push sends an image to its registry, which keeps the blobs that it has.
func (r *registryFlags) push(ctx context.Context, ref name.Reference, image v1.Image) error {
	options, err := r.remote(ctx)
	if err != nil {
		return err
	}
	bar := progress.Start(r.app.ErrOut, "Pushing")
	defer bar.End()
	return r.explain("pushing "+ref.Name(), remote.Write(ref, image, append(options, remote.WithProgress(bar.Updates()))...))
}

// find returns the image that a reference names at its registry. Of an index it is the one
// that the operator takes.
func (r *registryFlags) find(ctx context.Context, ref name.Reference) (v1.Image, error) {
	options, err := r.remote(ctx)
	if err != nil {
		return nil, err
	}
	doing := "pulling " + ref.Name()
	for range maxIndexDepth {
		found, err := remote.Get(ref, options...)
		if err != nil {
			return nil, r.explain(doing, err)
		}
		if !found.MediaType.IsIndex() {
			image, err := found.Image()
			return image, r.explain(doing, err)
		}
		manifest, err := oci.ParseManifest(found.Manifest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		child, err := manifest.Child()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		ref = ref.Context().Digest(child.Digest.String())
	}
	return nil, fmt.Errorf("%s: the image is an index of indexes of indexes: push the image itself", doing)
}

// maxIndexDepth is the number of indexes that may lead to an image, as for the operator.
const maxIndexDepth = 3

// explain adds to an error of a registry what to do about it.
func (r *registryFlags) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	answer, answered := errors.AsType[*transport.Error](err)
	_, unknownCA := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case answered && answer.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s: the registry does not accept the credentials, or wants some: run wasme login, or set --username", doing)
	case answered && answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s: the user has no right to do that: ask the registry's administrator, or log in as another user", doing)
	case answered && answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: the registry has no such image: check its name and tag", doing)
	case unknownCA:
		return fmt.Errorf("%s: %w: add the authority to those that the machine trusts, or set --insecure", doing, err)
	case noTLS || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s: the registry speaks HTTP without TLS: set --plain-http", doing)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
