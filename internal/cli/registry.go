package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
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
	fixes               fixes
}

// fixes are what errors tell users to set: flags, or fields of a FilterDeployment.
type fixes struct {
	plainHTTP, insecure string
	// username is empty where there is no user to set, but that of wasme login.
	username string
}

// newRegistryFlags adds the flags for a registry to a command.
func newRegistryFlags(a *app, c *cobra.Command) *registryFlags {
	r := newReachFlags(a, c)
	r.fixes.username = "--username"
	flags := c.Flags()
	flags.StringVarP(&r.username, "username", "u", "", "user at the registry; the default is what Docker's configuration has for it")
	flags.StringVarP(&r.password, "password", "p", "", "password; others can read it in the list of processes: --password-stdin hides it")
	flags.BoolVar(&r.passwordStdin, "password-stdin", false, "read the password from the standard input")
	return r
}

// newReachFlags adds the flags for a registry to a command that takes no credentials.
func newReachFlags(a *app, c *cobra.Command) *registryFlags {
	r := &registryFlags{app: a, fixes: fixes{plainHTTP: "--plain-http", insecure: "--insecure"}}
	c.Flags().BoolVar(&r.plainHTTP, "plain-http", false, "reach the registry over HTTP, without TLS")
	c.Flags().BoolVar(&r.insecure, "insecure", false, "do not check the registry's certificate")
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
		if err := r.readPassword(ctx); err != nil {
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
func (r *registryFlags) readPassword(ctx context.Context) (err error) {
	switch fd, asks := terminalOf(r.app.In); {
	case r.passwordStdin:
		line, err := await(ctx, func() (string, error) { return bufio.NewReader(r.app.In).ReadString('\n') })
		if r.password = strings.TrimRight(line, "\r\n"); r.password == "" {
			return fmt.Errorf("reading the password from the standard input: there is none: %w", err)
		}
	case r.password != "":
	case asks:
		r.password, err = r.askPassword(ctx, fd)
		return err
	default:
		return misused("there is no password: set --password-stdin")
	}
	return nil
}

// askPassword asks for the password on a terminal, which shows what is typed again when ctx
// ends first.
func (r *registryFlags) askPassword(ctx context.Context, terminal int) (string, error) {
	before, err := term.GetState(terminal)
	if err != nil {
		return "", fmt.Errorf("asking for the password: %w: set --password-stdin", err)
	}
	fmt.Fprint(r.app.ErrOut, "Password: ")
	defer fmt.Fprintln(r.app.ErrOut)
	typed, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(terminal) })
	if ctx.Err() != nil {
		return "", errors.Join(ctx.Err(), term.Restore(terminal, before))
	}
	return string(typed), err
}

// await returns what read returns. A read of the standard input cannot be told to stop: when
// ctx ends first, it goes on until the program ends.
func await[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	case r := <-done:
		return r.value, r.err
	}
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
	return r.explain("pushing "+ref.Name(), ref.Context().Registry, remote.Write(ref, image, append(options, remote.WithProgress(bar.Updates()))...))
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
			return nil, r.explain(doing, ref.Context().Registry, err)
		}
		if !found.MediaType.IsIndex() {
			image, err := found.Image()
			return image, r.explain(doing, ref.Context().Registry, err)
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

// statusOf returns the status with which a registry answered; zero when it did not.
func statusOf(err error) int {
	if answer, answered := errors.AsType[*transport.Error](err); answered {
		return answer.StatusCode
	}
	return 0
}

// unreachable reports whether there was no connection to a registry.
func unreachable(err error) bool {
	failed, is := errors.AsType[*net.OpError](err)
	return is && failed.Op == "dial"
}

// explain adds to an error of a registry what to do about it.
func (r *registryFlags) explain(doing string, registry name.Registry, err error) error {
	if err == nil {
		return nil
	}
	status := statusOf(err)
	_, unknownCA := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%s: the registry requires a login, or rejected the credentials: run wasme login -s %s%s", doing, registry.Name(), r.fixes.orUsername())
	case status == http.StatusForbidden:
		return fmt.Errorf("%s: the user has no right to do that: ask the registry's administrator, or log in as another user", doing)
	case status == http.StatusNotFound:
		return fmt.Errorf("%s: the registry has no such image: check its name and tag", doing)
	case unknownCA:
		return fmt.Errorf("%s: %w: add the authority to those that the machine trusts, or set %s", doing, err, r.fixes.insecure)
	case noTLS || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s: the registry speaks HTTP without TLS: set %s", doing, r.fixes.plainHTTP)
	case unreachable(err):
		return fmt.Errorf("%s: %w: check the registry's name and your network", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// orUsername is the other way to log in, after wasme login.
func (f fixes) orUsername() string {
	if f.username == "" {
		return ""
	}
	return ", or set " + f.username
}
