package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/containers/azcontainerregistry"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

// azureHosts are those of Azure Container Registry, in Azure, China and US Government.
var azureHosts = regexp.MustCompile(`^[a-z0-9-]+\.azurecr\.(io|cn|us)$`)

const (
	// azureScope is what registries ask for, in all of Azure's clouds.
	azureScope = "https://containerregistry.azure.net/.default"
	// azureLifetime is shorter than the three hours for which a registry's refresh token
	// holds.
	azureLifetime = time.Hour
)

// azureTransport reaches the metadata service, Entra, and registries for the exchange of
// tokens.
var azureTransport = http.DefaultTransport

// azure gets a token of Entra with the pod's identity, or the node's, and has the registry
// exchange it for one of its own.
func azure(ctx context.Context, host string) (token, error) {
	options := azcore.ClientOptions{Transport: &http.Client{Transport: azureTransport, CheckRedirect: stay}}
	identity, err := azureIdentity(options)
	if err != nil {
		return token{}, fmt.Errorf("finding the identity in Azure: %w", err)
	}
	access, err := identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azureScope}})
	if err != nil {
		return token{}, fmt.Errorf("asking Entra for a token: %w", err)
	}
	registry, err := azcontainerregistry.NewAuthenticationClient("https://"+host, &azcontainerregistry.AuthenticationClientOptions{ClientOptions: options})
	if err != nil {
		return token{}, fmt.Errorf("asking %s for a token: %w", host, err)
	}
	answer, err := registry.ExchangeAADAccessTokenForACRRefreshToken(ctx, azcontainerregistry.PostContentSchemaGrantTypeAccessToken, host,
		&azcontainerregistry.AuthenticationClientExchangeAADAccessTokenForACRRefreshTokenOptions{AccessToken: &access.Token})
	if err != nil {
		return token{}, fmt.Errorf("asking %s for a token: %w", host, err)
	}
	if answer.RefreshToken == nil {
		return token{}, errors.New("the registry gives no token")
	}
	return token{pull.Credential{IdentityToken: *answer.RefreshToken}, time.Now().Add(azureLifetime)}, nil
}

// azureIdentity is that of the pod's service account where Azure has set it up, else the
// managed identity AZURE_CLIENT_ID of the node, or its only one.
func azureIdentity(client azcore.ClientOptions) (azcore.TokenCredential, error) {
	if os.Getenv("AZURE_FEDERATED_TOKEN_FILE") != "" {
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: client})
	}
	options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: client}
	if id := os.Getenv("AZURE_CLIENT_ID"); id != "" {
		options.ID = azidentity.ClientID(id)
	}
	return azidentity.NewManagedIdentityCredential(options)
}

// stay follows no redirect: a token is for the server that it is sent to.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
