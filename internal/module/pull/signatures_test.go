package pull

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/trust"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
	"github.com/wasme-io/wasme-operator/test/signing"
)

// signed is an image in a registry, whose signatures a test attaches.
type signed struct {
	*registry.Registry
	t          *testing.T
	image      *Image
	descriptor v1.Descriptor
	signer     signing.Signer
	key        string
}

func pushForSigning(t *testing.T, options ...registry.Option) *signed {
	t.Helper()
	s := &signed{Registry: moduletest.StartRegistry(t, options...), t: t}
	image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("signed"))
	moduletest.Push(t, s.Registry, "filter:v1", image)
	digest, err := v1.NewHash(moduletest.DigestOf(t, image))
	moduletest.Must(t, err)
	size, err := image.Size()
	moduletest.Must(t, err)
	s.descriptor = v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: size}
	s.signer, s.key, err = signing.NewKey()
	moduletest.Must(t, err)
	s.image, err = NewClient(Options{Limits: module.DefaultLimits}).OpenImage(Request{Image: s.Host() + "/filter:v1", PlainHTTP: true})
	moduletest.Must(t, err)
	return s
}

func (s *signed) simple() signing.Layer {
	s.t.Helper()
	layer, err := s.signer.SimpleSigning(s.descriptor.Digest)
	moduletest.Must(s.t, err)
	return layer
}

func (s *signed) bundle() signing.Layer {
	s.t.Helper()
	layer, err := s.signer.Bundle(s.descriptor.Digest, signing.Signed)
	moduletest.Must(s.t, err)
	return layer
}

func (s *signed) refer(layer signing.Layer) v1.Descriptor {
	s.t.Helper()
	referrer, err := signing.PushReferrer(s.t.Context(), s.Registry, "filter", s.descriptor, layer)
	moduletest.Must(s.t, err)
	return referrer
}

// forms returns the forms of the signatures that count.
func (s *signed) forms() string {
	s.t.Helper()
	found, err := s.image.Signatures(s.t.Context(), s.descriptor.Digest)
	moduletest.Must(s.t, err)
	key, err := trust.ParseKey(s.key)
	moduletest.Must(s.t, err)
	var forms []string
	for _, one := range found.Signatures {
		form, err := one.ByKey(s.descriptor.Digest, key)
		moduletest.Must(s.t, err)
		forms = append(forms, string(form))
	}
	for range found.Unreadable {
		forms = append(forms, "unreadable")
	}
	return strings.Join(forms, " ")
}

// failing answers requests whose paths contain a text with a status.
func failing(text string, status int) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, text) {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

func TestSignaturesAreFoundWhereTheyAre(t *testing.T) {
	for name, row := range map[string]struct {
		attach func(*signed)
		want   string
	}{
		"none": {func(*signed) {}, ""},
		"a tag": {func(s *signed) {
			moduletest.Must(t, signing.PushTag(t.Context(), s.Registry, "filter", s.descriptor.Digest, s.simple(), s.simple()))
		}, strings.Repeat("Tag ", 2)},
		"referrers": {func(s *signed) {
			s.refer(s.bundle())
			s.refer(s.simple())
			s.refer(signing.Layer{MediaType: "application/spdx+json", Content: []byte("{}")})
		}, "Bundle Tag"},
		"the fallback tag": {func(s *signed) {
			moduletest.Must(t, signing.PushFallback(t.Context(), s.Registry, "filter", s.descriptor.Digest, s.refer(s.bundle())))
			s.Inject(signing.WithoutReferrers)
		}, "Bundle"},
		"the fallback tag without types": {func(s *signed) {
			referrer := s.refer(s.bundle())
			referrer.ArtifactType = ""
			sbom := s.refer(signing.Layer{MediaType: "application/spdx+json", Content: []byte("{}")})
			sbom.ArtifactType = ""
			moduletest.Must(t, signing.PushFallback(t.Context(), s.Registry, "filter", s.descriptor.Digest, referrer, sbom))
			s.Inject(signing.WithoutReferrers)
		}, "Bundle"},
		"both": {func(s *signed) {
			s.refer(s.bundle())
			moduletest.Must(t, signing.PushTag(t.Context(), s.Registry, "filter", s.descriptor.Digest, s.simple()))
		}, "Tag Bundle"},
		"what is no signature": {func(s *signed) {
			s.refer(signing.Layer{MediaType: signing.BundleType, Content: []byte("<html>")})
			s.refer(s.bundle())
		}, "Bundle unreadable"},
		"a referrer that is gone": {func(s *signed) {
			gone := s.refer(s.simple())
			moduletest.Must(t, signing.PushFallback(t.Context(), s.Registry, "filter", s.descriptor.Digest, gone, s.refer(s.bundle())))
			s.Inject(func(next http.Handler) http.Handler {
				return signing.WithoutReferrers(failing(gone.Digest.String(), http.StatusNotFound)(next))
			})
		}, "Bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			s := pushForSigning(t)
			row.attach(s)
			got := s.forms()
			if name == "referrers" && got == "Tag Bundle" { // a registry lists them in any order
				got = row.want
			}
			if got != strings.TrimSpace(row.want) {
				t.Errorf("the signatures are %q, want %q", got, row.want)
			}
		})
	}
}

func TestSignaturesAreBounded(t *testing.T) {
	s := pushForSigning(t)
	layers := make([]signing.Layer, maxSignatures+1)
	for i := range layers {
		layers[i] = s.simple()
	}
	moduletest.Must(t, signing.PushTag(t.Context(), s.Registry, "filter", s.descriptor.Digest, layers...))
	if got := strings.Count(s.forms(), "Tag"); got != maxSignatures {
		t.Errorf("%d signatures are read", got)
	}
	found, err := s.image.Signatures(t.Context(), s.descriptor.Digest)
	moduletest.Must(t, err)
	if want := int64(len(layers[0].Content)) * maxSignatures; found.Bytes != want {
		t.Errorf("%d bytes are counted, want %d", found.Bytes, want)
	}
}

// padded is a signature with so many bytes more.
func (s *signed) padded(by int) signing.Layer {
	s.t.Helper()
	layer := s.bundle()
	layer.Content = append(layer.Content, bytes.Repeat([]byte(" "), by)...)
	return layer
}

// What cannot be read counts, too: here a text in place of a manifest, followed by more
// signatures than are read.
func TestUnreadableSignaturesAreBounded(t *testing.T) {
	s := pushForSigning(t)
	junk := make([]signing.Layer, maxSignatures)
	for i := range junk {
		junk[i] = signing.Layer{MediaType: signing.BundleType, Content: []byte("<html>")}
	}
	moduletest.Must(t, signing.PushTag(t.Context(), s.Registry, "filter", s.descriptor.Digest, junk...))
	referrers := make([]v1.Descriptor, 3)
	for i := range referrers {
		referrers[i] = s.refer(s.padded(i))
	}
	moduletest.Must(t, signing.PushFallback(t.Context(), s.Registry, "filter", s.descriptor.Digest, referrers...))
	s.Inject(func(next http.Handler) http.Handler {
		return signing.WithoutReferrers(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/manifests/"+referrers[0].Digest.String()) {
				w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
				_, _ = w.Write([]byte("{}"))
				return
			}
			next.ServeHTTP(w, req)
		}))
	})
	found, err := s.image.Signatures(t.Context(), s.descriptor.Digest)
	moduletest.Must(t, err)
	if signatures, unreadable := len(found.Signatures), len(found.Unreadable); signatures+unreadable != maxSignatures {
		t.Errorf("%d signatures and %d unreadable ones are read", signatures, unreadable)
	}
}

// An image may have large attestations, or broken ones, beside the signature that counts.
func TestLayersThatCannotBeReadDoNotHideOthers(t *testing.T) {
	for name, row := range map[string]struct {
		attach func(*signed)
		want   string
	}{
		"a large layer": {func(s *signed) { s.refer(s.padded(trust.MaxLayerBytes)) }, "Bundle unreadable"},
		"a layer that is larger than its manifest says": {func(s *signed) {
			layer := s.padded(1)
			s.refer(layer)
			s.Inject(answering(layer, append(layer.Content, ' ')))
		}, "Bundle unreadable"},
		"a layer that is gone": {func(s *signed) {
			layer := s.padded(1)
			s.refer(layer)
			s.Inject(failing("/blobs/sha256:"+moduletest.SHA256(string(layer.Content)), http.StatusNotFound))
		}, "Bundle unreadable"},
		"a layer with another digest": {func(s *signed) {
			layer := s.padded(1)
			s.refer(layer)
			s.Inject(answering(layer, bytes.ToUpper(layer.Content)))
		}, "Bundle unreadable"},
		"more bytes than are read": {func(s *signed) {
			for i := range 5 {
				s.refer(s.padded(trust.MaxLayerBytes - 10_000 - i))
			}
		}, strings.Repeat("Bundle ", 5) + "unreadable"},
	} {
		t.Run(name, func(t *testing.T) {
			s := pushForSigning(t)
			s.refer(s.bundle())
			row.attach(s)
			if got := s.forms(); got != row.want {
				t.Errorf("the signatures are %q, want %q", got, row.want)
			}
		})
	}
}

// answering answers requests for a layer with other content.
func answering(layer signing.Layer, content []byte) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/sha256:"+moduletest.SHA256(string(layer.Content))) {
				_, _ = w.Write(content)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

func TestSignaturesOfARegistryThatFails(t *testing.T) {
	for path, status := range map[string]int{"/referrers/": http.StatusInternalServerError, "/manifests/": http.StatusBadGateway, "/blobs/": http.StatusServiceUnavailable} {
		s := pushForSigning(t)
		s.refer(s.bundle())
		s.Inject(failing(path, status))
		_, err := s.image.Signatures(t.Context(), s.descriptor.Digest)
		moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "signature")
	}
}

func TestSignaturesNeedTheCredential(t *testing.T) {
	s := pushForSigning(t, registry.WithBasicAuth(map[string]string{"anna": "secret"}))
	s.refer(s.bundle())
	_, err := s.image.Signatures(t.Context(), s.descriptor.Digest)
	moduletest.WantError(t, err, wasmev1.ReasonUnauthorized, "looking up the signatures of")
	s.image, err = NewClient(Options{Limits: module.DefaultLimits}).OpenImage(Request{Image: s.Host() + "/filter:v1", PlainHTTP: true, Credential: Credential{Username: "anna", Password: "secret"}})
	moduletest.Must(t, err)
	if got := s.forms(); got != "Bundle" {
		t.Errorf("the signatures are %q", got)
	}
}
