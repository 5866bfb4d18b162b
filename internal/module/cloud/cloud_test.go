package cloud

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestWhoseHostsTheyAre(t *testing.T) {
	for host, want := range map[string]string{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com":          "ecr",
		"123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com": "ecr",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":      "ecr",
		"123456789012.dkr-ecr.eu-west-1.on.aws":                 "ecr",
		"gcr.io":                                                "gcr",
		"eu.gcr.io":                                             "gcr",
		"europe-west1-docker.pkg.dev":                           "gcr",
		"acme.azurecr.io":                                       "acr",
		"acme.azurecr.cn":                                       "acr",

		"public.ecr.aws":                   "",
		"ghcr.io":                          "",
		"index.docker.io":                  "",
		"mcr.microsoft.com":                "",
		"azurecr.io":                       "",
		"acme.azurecr.io:444":              "",
		"gcr.io:8443":                      "",
		"acme.azurecr.io.attacker.example": "",
		"attacker.example.gcr.io.attacker.example": "",
		"attackergcr.io":                  "",
		"a.b.gcr.io":                      "",
		"docker.pkg.dev.attacker.example": "",
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com.attacker.example": "",
		"123456789012.dkr.ecr.attacker.example.amazonaws.com":           "",
		"x123456789012.dkr.ecr.eu-west-1.amazonaws.com":                 "",
		"attacker.example/123456789012.dkr.ecr.eu-west-1.amazonaws.com": "",
		"169.254.169.254":                   "",
		"acme.azurecr.io\nattacker.example": "",
	} {
		for cloud := range providers {
			c, err := New([]string{cloud}, clocktesting.NewFakeClock(time.Now()))
			moduletest.Must(t, err)
			if got := c.Covers(host); got != (cloud == want) {
				t.Errorf("%q is of %s: %t", host, cloud, got)
			}
		}
	}
	if _, err := New([]string{"ecr", "quay"}, nil); err == nil || err.Error() != `"quay" is not a known cloud: use acr, ecr, gcr` {
		t.Errorf("%v", err)
	}
}

// fakeMetadata stands for the metadata services of the clouds, for ECR's API and for the
// exchange of tokens of an Azure registry: none of them can be run here.
type fakeMetadata struct {
	*httptest.Server
	t *testing.T
	// asked has the requests, by method and path.
	asked []string
	down  bool
}

func startFakeMetadata(t *testing.T) *fakeMetadata {
	t.Helper()
	f := &fakeMetadata{t: t}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f.URL)
	t.Setenv("AWS_ENDPOINT_URL_ECR", f.URL+"/ecr")
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(f.URL, "http://"))
	t.Setenv("AZURE_CLIENT_ID", "the-client")
	azureTransport = toFake{f.URL}
	t.Cleanup(func() { azureTransport = http.DefaultTransport })
	return f
}

// toFake sends requests for Azure to the fake, and no others anywhere.
type toFake struct{ url string }

func (to toFake) RoundTrip(req *http.Request) (*http.Response, error) {
	if at := req.URL.Scheme + "://" + req.URL.Host; at != "https://acme.azurecr.io" && at != "http://169.254.169.254" {
		return nil, fmt.Errorf("%s is asked", at)
	}
	fake, err := url.Parse(to.url)
	if err != nil {
		return nil, err
	}
	req.URL.Scheme, req.URL.Host = fake.Scheme, fake.Host
	return http.DefaultTransport.RoundTrip(req)
}

func (f *fakeMetadata) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if f.down {
		http.Error(w, "the-secret-answer", http.StatusNotFound)
		return
	}
	f.asked = append(f.asked, req.Method+" "+req.URL.Path)
	ends := time.Now().Add(time.Hour)
	switch path := req.URL.Path; path {
	case "/latest/api/token":
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		_, _ = w.Write([]byte("imds-token"))
	case "/latest/meta-data/iam/security-credentials/":
		_, _ = w.Write([]byte("node-role"))
	case "/latest/meta-data/iam/security-credentials/node-role":
		f.answer(w, map[string]any{"Code": "Success", "AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "session", "Expiration": ends.UTC().Format(time.RFC3339)})
	case "/ecr", "/ecr/":
		if !strings.Contains(req.Header.Get("Authorization"), "Credential=key/") || !strings.Contains(req.Header.Get("Authorization"), "/eu-west-1/ecr/") {
			f.t.Errorf("ECR is asked with %q", req.Header.Get("Authorization"))
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		f.answer(w, map[string]any{"authorizationData": []any{map[string]any{"authorizationToken": base64.StdEncoding.EncodeToString([]byte("AWS:ecr-password")), "expiresAt": ends.Unix()}}})
	case "/computeMetadata/v1/instance/service-accounts/default/token":
		if req.Header.Get("Metadata-Flavor") != "Google" || req.URL.Query().Get("scopes") != googleScope {
			f.t.Errorf("the metadata service is asked for %s with %v", req.URL, req.Header)
		}
		f.answer(w, map[string]any{"access_token": "google-token", "expires_in": 3600, "token_type": "Bearer"})
	case "/metadata/identity/oauth2/token":
		if req.Header.Get("Metadata") != "true" || req.URL.Query().Get("client_id") != "the-client" || !strings.HasPrefix(req.URL.Query().Get("resource"), "https://containerregistry.azure.net") {
			f.t.Errorf("the metadata service is asked for %s with %v", req.URL, req.Header)
		}
		f.answer(w, map[string]any{"access_token": "entra-token", "expires_in": "3600", "expires_on": fmt.Sprint(ends.Unix()), "resource": req.URL.Query().Get("resource"), "token_type": "Bearer"})
	case "/oauth2/exchange":
		if got := req.PostFormValue("access_token"); got != "entra-token" || req.PostFormValue("service") != "acme.azurecr.io" {
			f.t.Errorf("the registry is asked to exchange %q for %q", got, req.PostFormValue("service"))
		}
		f.answer(w, map[string]any{"refresh_token": "registry-token"})
	default:
		http.NotFound(w, req)
	}
}

func (f *fakeMetadata) answer(w http.ResponseWriter, document any) {
	if err := json.NewEncoder(w).Encode(document); err != nil {
		f.t.Error(err)
	}
}

func TestAsksTheCloudOfTheHost(t *testing.T) {
	for host, c := range map[string]struct {
		want  pull.Credential
		asked string
	}{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com": {pull.Credential{Username: "AWS", Password: "ecr-password"}, "POST /ecr"},
		"europe-docker.pkg.dev":                        {pull.Credential{Username: "oauth2accesstoken", Password: "google-token"}, "GET /computeMetadata/v1/instance/service-accounts/default/token"},
		"acme.azurecr.io":                              {pull.Credential{IdentityToken: "registry-token"}, "POST /oauth2/exchange"},
	} {
		t.Run(host, func(t *testing.T) {
			f := startFakeMetadata(t)
			clk := clocktesting.NewFakeClock(time.Now())
			credentials, err := New([]string{"ecr", "gcr", "acr"}, clk)
			moduletest.Must(t, err)
			got, err := credentials.Credential(t.Context(), host)
			moduletest.Must(t, err)
			if got != c.want {
				t.Errorf("got %#v", got)
			}
			if len(f.asked) == 0 || strings.TrimSuffix(f.asked[len(f.asked)-1], "/") != c.asked {
				t.Errorf("asked: %q", f.asked)
			}
		})
	}
}

func TestWhatACloudAnswersIsNotShown(t *testing.T) {
	for _, host := range []string{"123456789012.dkr.ecr.eu-west-1.amazonaws.com", "gcr.io", "acme.azurecr.io"} {
		f := startFakeMetadata(t)
		f.down = true
		credentials, err := New([]string{"ecr", "gcr", "acr"}, clocktesting.NewFakeClock(time.Now()))
		moduletest.Must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // SDKs try again
		_, err = credentials.Credential(ctx, host)
		cancel()
		moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "getting a credential for "+host+" from the cloud (--cloud-credentials)")
		if strings.Contains(err.Error(), "the-secret-answer") {
			t.Errorf("%v", err)
		}
	}
}

func TestCredentialsAreRenewedBeforeTheirEnd(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	gets, fails := 0, false
	credentials, err := New(nil, clk)
	moduletest.Must(t, err)
	credentials.providers = []provider{{regexp.MustCompile(`^host$`), func(context.Context, string) (token, error) {
		if fails {
			return token{}, errors.New("down")
		}
		gets++
		return token{pull.Credential{Username: "u", Password: fmt.Sprint(gets)}, clk.Now().Add(time.Hour)}, nil
	}}}
	want := func(what, password string) {
		t.Helper()
		got, err := credentials.Credential(t.Context(), "host")
		if password == "" != (err != nil) || got.Password != password {
			t.Errorf("%s: %#v, %v", what, got, err)
		}
	}
	want("first", "1")
	clk.Step(time.Hour - renewBefore - time.Second)
	want("kept", "1")
	clk.Step(time.Second)
	want("renewed", "2")
	credentials.Forget("host")
	want("after a denial", "3")
	fails = true
	clk.Step(time.Hour - time.Second)
	want("the old one while the cloud is down", "3")
	clk.Step(time.Second)
	want("nothing at its end", "")
}
