package pull

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// fakeCloud has credentials for one host, and counts how often it is asked. Real clouds are
// package cloud's matter.
type fakeCloud struct {
	host       string
	credential Credential
	err        error
	asked      int
	forgotten  int
}

func (c *fakeCloud) Covers(host string) bool { return host == c.host }

func (c *fakeCloud) Credential(context.Context, string) (Credential, error) {
	c.asked++
	return c.credential, c.err
}

func (c *fakeCloud) Forget(string) { c.forgotten++ }

func TestTheCloudsCredential(t *testing.T) {
	users := map[string]string{"ann": "secret"}
	for name, option := range map[string]registry.Option{"basic": registry.WithBasicAuth(users), "bearer": registry.WithBearerAuth(users)} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, registry.WithTLS(), option)
			image := moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("private")))
			certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
			unavailable := module.Temporary(wasmev1.ReasonRegistryUnavailable, "getting a credential failed")
			for what, c := range map[string]struct {
				cloud           fakeCloud
				req             Request
				reason, message string
				asked           bool
				forgotten       int
			}{
				"is used":                                            {cloud: fakeCloud{host: r.Host(), credential: annSecret}, asked: true},
				"is for its own hosts only":                          {cloud: fakeCloud{host: "other.example.com", credential: annSecret}, reason: wasmev1.ReasonUnauthorized, message: "status 401"},
				"comes after that of a Secret":                       {cloud: fakeCloud{host: r.Host()}, req: Request{Credential: annSecret}},
				"does not go where nothing is verified":              {cloud: fakeCloud{host: r.Host(), credential: annSecret}, req: Request{InsecureSkipVerify: true}, reason: wasmev1.ReasonUnauthorized, message: "status 401"},
				"does not go where an image's own authority vouches": {cloud: fakeCloud{host: r.Host(), credential: annSecret}, req: Request{CACertificates: certificate}, reason: wasmev1.ReasonUnauthorized, message: "status 401"},
				"is forgotten when it is denied":                     {cloud: fakeCloud{host: r.Host(), credential: Credential{Username: "ann", Password: "old"}}, reason: wasmev1.ReasonUnauthorized, message: "status 401", asked: true, forgotten: 1},
				"that cannot be got is explained":                    {cloud: fakeCloud{host: r.Host(), err: unavailable}, reason: wasmev1.ReasonRegistryUnavailable, message: "getting a credential failed", asked: true},
			} {
				t.Run(what, func(t *testing.T) {
					client := NewClient(Options{Cloud: &c.cloud, Limits: module.DefaultLimits})
					client.strict.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
					client.strict.(*http.Transport).TLSClientConfig.RootCAs.AddCert(r.Certificate())
					req := c.req
					req.Image = image
					_, err := pullWith(t, client, req)
					moduletest.WantError(t, err, c.reason, c.message)
					if c.cloud.asked > 0 != c.asked || c.cloud.forgotten != c.forgotten {
						t.Errorf("asked %d times, told to forget %d times", c.cloud.asked, c.cloud.forgotten)
					}
				})
			}
		})
	}
}

func TestTheCloudsCredentialIsRenewed(t *testing.T) {
	r := moduletest.StartRegistry(t, registry.WithTLS(), registry.WithBearerAuth(map[string]string{"ann": "secret"}))
	reference := moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("private")))
	cloud := &fakeCloud{host: r.Host(), credential: annSecret}
	client := NewClient(Options{Cloud: cloud, Limits: module.DefaultLimits})
	client.strict.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
	client.strict.(*http.Transport).TLSClientConfig.RootCAs.AddCert(r.Certificate())
	image, err := client.OpenImage(Request{Image: reference})
	moduletest.Must(t, err)
	_, err = image.Digest(t.Context())
	moduletest.Must(t, err)

	r.SetPassword("ann", "next")
	r.ExpireTokens()
	cloud.credential.Password = "next"
	_, err = image.Digest(t.Context())
	moduletest.Must(t, err)
	if cloud.forgotten != 0 {
		t.Error("the registry denied the old credential: the new one was not asked for")
	}
}
