package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"time"

	"cloud.google.com/go/compute/metadata"
	googleauth "golang.org/x/oauth2/google"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

// googleHosts are those of Artifact Registry and Container Registry.
var googleHosts = regexp.MustCompile(`^(([a-z0-9-]+\.)?gcr\.io|[a-z0-9-]+-docker\.pkg\.dev)$`)

const (
	// googleScope is what both registries ask for.
	googleScope = "https://www.googleapis.com/auth/cloud-platform"
	// googleUser is the user of all tokens.
	googleUser = "oauth2accesstoken"
)

// google uses the file in GOOGLE_APPLICATION_CREDENTIALS, such as that of a workload
// identity federation, or else the identity that the metadata service has for the pod.
func google(ctx context.Context, _ string) (token, error) {
	if os.Getenv("GOOGLE_APPLICATION_CREDENTIALS") == "" {
		return googleMetadata(ctx)
	}
	found, err := googleauth.FindDefaultCredentials(ctx, googleScope)
	if err != nil {
		return token{}, fmt.Errorf("finding credentials for Google Cloud: %w", err)
	}
	access, err := found.TokenSource.Token()
	if err != nil {
		return token{}, fmt.Errorf("asking Google Cloud for a token: %w", err)
	}
	return token{pull.Credential{Username: googleUser, Password: access.AccessToken}, access.Expiry}, nil
}

// googleMetadata asks the metadata service. The libraries above it remember forever that
// there was none, and on GKE there is none during a pod's first seconds.
func googleMetadata(ctx context.Context) (token, error) {
	text, err := metadata.GetWithContext(ctx, "instance/service-accounts/default/token?"+url.Values{"scopes": {googleScope}}.Encode())
	if err != nil {
		return token{}, fmt.Errorf("asking the metadata service of Google Cloud: %w", err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.AccessToken == "" {
		return token{}, errors.New("asking the metadata service of Google Cloud: it gives no token")
	}
	return token{pull.Credential{Username: googleUser, Password: answer.AccessToken}, time.Now().Add(time.Duration(answer.ExpiresIn) * time.Second)}, nil
}
