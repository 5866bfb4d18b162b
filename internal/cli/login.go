package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"
)

func newLogin(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "login",
		Short: "Log in to a registry",
		Long:  "Checks a user and a password at a registry and keeps them where Docker keeps them: in its credential helper, or in its config.json.",
		Example: `  wasme login -s registry.example.com -u user
  echo "$PASSWORD" | wasme login -s registry.example.com -u user --password-stdin`,
		Args: cobra.NoArgs,
	}
	r := newReachFlags(a, c)
	flags := c.Flags()
	flags.StringVarP(&r.username, "username", "u", "", "user at the registry")
	flags.StringVarP(&r.password, "password", "p", "", "password; others can read it in the list of processes: --password-stdin hides it")
	flags.BoolVar(&r.passwordStdin, "password-stdin", false, "read the password from the standard input")
	flags.BoolVar(&r.plainHTTP, "plaintext", false, "the same as --plain-http")
	var server, file string
	flags.StringVarP(&server, "server", "s", "", "registry to log in to")
	credentialsFlag(c, &file)
	c.RunE = func(c *cobra.Command, _ []string) error {
		host, err := r.registry(server)
		if err != nil {
			return err
		}
		if r.username == "" {
			return misused("a login needs a user: set --username")
		}
		if err := r.readPassword(c.Context()); err != nil {
			return err
		}
		if err := r.checkLogin(c.Context(), host); err != nil {
			return err
		}
		kept, err := openCredentials(file)
		if err != nil {
			return err
		}
		credential := types.AuthConfig{ServerAddress: serverKey(host), Username: r.username, Password: r.password}
		if err := kept.GetCredentialsStore(serverKey(host)).Store(credential); err != nil {
			return fmt.Errorf("keeping the credentials in %s: %w", kept.Filename, err)
		}
		a.say("logged in to %s", host.Name())
		return nil
	}
	return c
}

func credentialsFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "credentials-file", "", "file to keep the credentials in; the default is Docker's config.json")
}

// registry parses the name of a registry.
func (r *registryFlags) registry(server string) (name.Registry, error) {
	if server == "" {
		return name.Registry{}, misused("no registry is named: set --server")
	}
	var options []name.Option
	if r.plainHTTP {
		options = append(options, name.Insecure)
	}
	host, err := name.NewRegistry(server, options...)
	if err != nil {
		return name.Registry{}, misused("%q is not the name of a registry: %w", server, err)
	}
	return host, nil
}

// serverKey is the name under which Docker keeps the credentials of a registry.
func serverKey(host name.Registry) string {
	if host.Name() == name.DefaultRegistry {
		return authn.DefaultAuthKey
	}
	return host.Name()
}

// checkLogin asks a registry whether it accepts the user and the password.
func (r *registryFlags) checkLogin(ctx context.Context, host name.Registry) error {
	doing := "logging in to " + host.Name()
	err := r.ping(ctx, host)
	if statusOf(err) == http.StatusUnauthorized {
		return fmt.Errorf("%s: the registry rejected the user or the password: check both", doing)
	}
	return r.explain(doing, host, err)
}

// ping sends a registry a request with the user and the password.
func (r *registryFlags) ping(ctx context.Context, host name.Registry) error {
	authenticated, err := transport.NewWithContext(ctx, host, &authn.Basic{Username: r.username, Password: r.password}, r.transport(), nil)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/", host.Scheme(), host.Name()), nil)
	if err != nil {
		return err
	}
	response, err := authenticated.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := transport.CheckError(response, http.StatusOK); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<10)) // so that the connection can be used again
	return nil
}

// openCredentials opens a file with credentials; the default is Docker's.
func openCredentials(file string) (*configfile.ConfigFile, error) {
	if file == "" {
		kept, err := config.Load(config.Dir())
		if err != nil {
			return nil, fmt.Errorf("reading Docker's configuration in %s: %w", config.Dir(), err)
		}
		return kept, nil
	}
	kept := configfile.New(file)
	content, err := os.Open(filepath.Clean(file))
	if os.IsNotExist(err) {
		return kept, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the credentials: %w", err)
	}
	defer content.Close()
	if err := kept.LoadFromReader(content); err != nil {
		return nil, fmt.Errorf("reading the credentials in %s: %w", file, err)
	}
	return kept, nil
}

func newLogout(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "logout",
		Short:   "Log out of a registry",
		Long:    "Removes the credentials for a registry from where wasme login keeps them.",
		Example: "  wasme logout -s registry.example.com",
		Args:    cobra.NoArgs,
	}
	var server, file string
	c.Flags().StringVarP(&server, "server", "s", "", "registry to log out of")
	credentialsFlag(c, &file)
	c.RunE = func(*cobra.Command, []string) error {
		host, err := (&registryFlags{}).registry(server)
		if err != nil {
			return err
		}
		kept, err := openCredentials(file)
		if err != nil {
			return err
		}
		if err := kept.GetCredentialsStore(serverKey(host)).Erase(serverKey(host)); err != nil {
			return fmt.Errorf("removing the credentials from %s: %w", kept.Filename, err)
		}
		a.say("logged out of %s", host.Name())
		return nil
	}
	return c
}
