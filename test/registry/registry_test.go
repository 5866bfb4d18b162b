// Licensed under the Apache License, Version 2.0; see LICENSE.

package registry_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/wasme-io/wasme-operator/test/registry"
)

var module = registry.Module{Bytes: []byte("\x00asm\x01\x00\x00\x00"), RootIDs: []string{"root"}}

func TestEveryFormCanBePulled(t *testing.T) {
	r := start(t)
	for _, form := range registry.Forms() {
		t.Run(string(form), func(t *testing.T) {
			image, err := registry.Image(form, module)
			must(t, err)
			holdsModule(t, pull(t, push(t, r, "filters/plain:v1", image)))
			holdsModule(t, pull(t, push(t, r, "filters/indexed:v1", registry.Index(image))))
		})
	}
}

func TestCredentials(t *testing.T) {
	users := map[string]string{"ann": "secret", "bob": "hidden"}
	for scheme, option := range map[string]registry.Option{
		"basic": registry.WithBasicAuth(users), "bearer": registry.WithBearerAuth(users),
	} {
		t.Run(scheme, func(t *testing.T) {
			r := start(t, option)
			r.Restrict("anns/filter", "ann")
			image, err := registry.Image(registry.CompatOCI, module)
			must(t, err)
			ref := push(t, r, "anns/filter:v1", image)
			must(t, head(ref, &authn.Basic{Username: "ann", Password: "secret"}))
			for _, wrong := range []authn.Authenticator{
				authn.Anonymous,
				&authn.Basic{Username: "ann", Password: "wrong"},
				&authn.Basic{Username: "bob", Password: "hidden"},
			} {
				if err := head(ref, wrong); err == nil {
					t.Errorf("the registry let %v in", wrong)
				}
			}
		})
	}
}

func TestFaultsAndCounts(t *testing.T) {
	r := start(t)
	image, err := registry.Image(registry.WasmeArtifact, module)
	must(t, err)
	ref := push(t, r, "filter:v1", image)
	if n := r.Requests("", ""); n != 0 {
		t.Fatalf("a push counted as %d requests", n)
	}
	must(t, head(ref, authn.Anonymous))
	if n := r.Requests(http.MethodHead, "/v2/filter/manifests/v1"); n != 1 {
		t.Errorf("counted %d HEAD requests, not 1", n)
	}

	r.Inject(registry.Status(http.StatusNotFound))
	if head(ref, authn.Anonymous) == nil {
		t.Error("no failure after Inject")
	}
	r.Heal()
	must(t, head(ref, authn.Anonymous))

	digest, err := registry.Digest(image)
	must(t, err)
	r.Inject(registry.WrongBytes(digest, []byte("{}")))
	if _, err := remote.Image(reference(t, "filter@"+digest, r)); err == nil {
		t.Error("wrong bytes were taken for the manifest")
	}
	r.Heal()

	r.Down()
	if head(ref, authn.Anonymous) == nil {
		t.Error("no failure while down")
	}
	must(t, r.Up())
	must(t, head(ref, authn.Anonymous))
}

func TestStalledBlobsEndWhenReleased(t *testing.T) {
	r := start(t)
	image, err := registry.Image(registry.WasmeArtifact, module)
	must(t, err)
	push(t, r, "filter:v1", image)
	blob := fmt.Sprintf("%s/v2/filter/blobs/sha256:%x", r.URL(), sha256.Sum256(module.Bytes))
	release := make(chan struct{})
	const first = 5
	r.Inject(registry.StallBlobs(first, release))

	impatient := http.Client{Timeout: 100 * time.Millisecond}
	response, err := impatient.Get(blob)
	must(t, err)
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil || len(body) != first {
		t.Errorf("%d bytes came, and then %v", len(body), err)
	}
	close(release)
	response, err = http.Get(blob)
	must(t, err)
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(body, module.Bytes) {
		t.Errorf("other bytes came, or fewer: %v", err)
	}
}

func TestTLS(t *testing.T) {
	r := start(t, registry.WithTLS())
	if _, err := http.Get(r.URL() + "/v2/"); err == nil {
		t.Error("a certificate of no known issuer was trusted")
	}
	if r.Certificate() == nil {
		t.Error("no certificate")
	}
}

func start(t *testing.T, options ...registry.Option) *registry.Registry {
	t.Helper()
	r, err := registry.Start(options...)
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

func push(t *testing.T, r *registry.Registry, path string, content remote.Taggable) string {
	t.Helper()
	ref, err := r.Push(context.Background(), path, content)
	must(t, err)
	return ref
}

func holdsModule(t *testing.T, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	must(t, err)
	content, err := layers[len(layers)-1].Uncompressed()
	must(t, err)
	defer content.Close()
	unpacked, err := io.ReadAll(content)
	must(t, err)
	if !bytes.Contains(unpacked, module.Bytes) {
		t.Error("the last layer does not hold the module")
	}
}

func pull(t *testing.T, ref string) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(ref, name.Insecure)
	must(t, err)
	image, err := remote.Image(parsed, remote.WithPlatform(v1.Platform{OS: "wasip1", Architecture: "wasm"}))
	must(t, err)
	return image
}

func head(ref string, as authn.Authenticator) error {
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	_, err = remote.Head(parsed, remote.WithAuth(as), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	return err
}

func reference(t *testing.T, path string, r *registry.Registry) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.Host()+"/"+path, name.Insecure)
	must(t, err)
	return ref
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
