package pull

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestPullsEveryForm(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("every form")
	for _, form := range registry.Forms() {
		for name, wrap := range map[string]func(v1.Image) remote.Taggable{
			"plain":    func(image v1.Image) remote.Taggable { return image },
			"index":    func(image v1.Image) remote.Taggable { return registry.Index(image) },
			"attested": func(image v1.Image) remote.Taggable { return attested(image) },
			"nested":   func(image v1.Image) remote.Taggable { return indexOf(registry.Index(image)) },
		} {
			t.Run(string(form)+" "+name, func(t *testing.T) {
				image := moduletest.FormOf(t, form, wasm, "root")
				m, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: moduletest.Push(t, r, "filter:v1", wrap(image)), PlainHTTP: true})
				moduletest.Must(t, err)
				wantModule(t, m, image, wasm)
				if want := []string{"root"}; form != registry.CNCFArtifact && !slices.Equal(m.RootIDs, want) {
					t.Errorf("root ids %v, not %v", m.RootIDs, want)
				}
			})
		}
	}
}

func TestWhichFormsTheAgentTakes(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("forms")
	want := map[registry.Form]string{
		registry.WasmeArtifact: "",
		registry.CompatOCI:     "",
		registry.CompatDocker:  "",
		registry.CompatOCIZstd: "its last layer is not of the type application/vnd.oci.image.layer.v1.tar+gzip",
		registry.CNCFArtifact:  "its module is not of the type application/vnd.module.wasm.content.layer.v1+wasm",
	}
	for _, form := range registry.Forms() {
		t.Run(string(form), func(t *testing.T) {
			why, listed := want[form]
			if !listed {
				t.Fatal("what the agent makes of it?")
			}
			for _, roots := range [][]string{nil, {"root"}} {
				m, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: moduletest.Push(t, r, "filter:v1", registry.Index(moduletest.FormOf(t, form, wasm, roots...))), PlainHTTP: true})
				moduletest.Must(t, err)
				if m.AgentRefuses != why {
					t.Errorf("%q, not %q", m.AgentRefuses, why)
				}
			}
		})
	}
}

func TestABadImageLeavesNothingInTheStore(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("bad images")
	const invalidImage, invalidModule = wasmev1.ReasonInvalidImage, wasmev1.ReasonInvalidModule
	for name, c := range map[string]struct {
		image           remote.Taggable
		reason, message string
	}{
		"no layers":                {moduletest.ImageOf(t), invalidImage, "has no layers"},
		"plugin.wasm is no Wasm":   {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("plugin.wasm", []byte("text"))))...), invalidModule, "not a Wasm module"},
		"a layer that is no Wasm":  {moduletest.FormOf(t, registry.CNCFArtifact, []byte("text")), invalidModule, "not a Wasm module"},
		"a module not for proxies": {moduletest.FormOf(t, registry.CompatOCI, moduletest.WithExports(moduletest.Export("_start"))), invalidModule, "build it for proxy-wasm"},
		"a component":              {moduletest.FormOf(t, registry.CNCFArtifact, []byte(moduletest.ComponentPreamble)), invalidModule, "component"},
		"a truncated gzip":         {moduletest.ImageOf(t, moduletest.Layers(moduletest.Gzip(moduletest.Archive(moduletest.File("plugin.wasm", wasm)))[:40])...), invalidImage, "unpacking a layer"},
		"attestations only":        {indexWith(v1.Descriptor{Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}}), invalidImage, "attestations only"},
		"an index of indexes":      {indexOf(indexOf(indexOf(registry.Index(moduletest.FormOf(t, registry.CNCFArtifact, wasm))))), invalidImage, "nested more than 3 deep"},
		"too many layers":          {moduletest.ImageOf(t, slices.Repeat(moduletest.Layers([]byte("x")), 128)...), invalidImage, "more than 127 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: moduletest.Push(t, r, "filter:v1", c.image), PlainHTTP: true})
			moduletest.WantError(t, err, c.reason, c.message)
			if e := module.AsError(err); e == nil || !e.Terminal {
				t.Error("not terminal")
			}
		})
	}
}

func TestAnImageBeyondTheLimitsLeavesNothingInTheStore(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("limits")
	zeros := make([]byte, 10<<20)
	other := tar.Header{Name: "other", Size: 10 << 30, Mode: 0o600}
	for name, c := range map[string]struct {
		image   remote.Taggable
		limits  func(*module.Limits)
		message string
	}{
		"gzip bomb, another file": {moduletest.ImageOf(t, moduletest.Layers(moduletest.Bomb(moduletest.Gzip, moduletest.Header(other), zeros))...), nil, "--max-layer-bytes"},
		"a module":                {moduletest.FormOf(t, registry.CNCFArtifact, wasm), func(l *module.Limits) { l.ModuleBytes = 10 }, "--max-module-bytes"},
		"a layer":                 {moduletest.FormOf(t, registry.CNCFArtifact, wasm), func(l *module.Limits) { l.LayerBytes = 10 }, "--max-layer-bytes"},
		"a manifest":              {moduletest.FormOf(t, registry.CNCFArtifact, wasm), func(l *module.Limits) { l.ManifestBytes = 100 }, "--max-manifest-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			limits := module.DefaultLimits
			if c.limits != nil {
				c.limits(&limits)
			}
			_, err := pull(t, Options{Limits: limits}, Request{Image: moduletest.Push(t, r, "filter:v1", c.image), PlainHTTP: true})
			moduletest.WantError(t, err, wasmev1.ReasonTooLarge, c.message)
		})
	}
}

// What plain HTTP or an unverified certificate told is no proof.
func TestKeysKeepApartWhatIsProved(t *testing.T) {
	const digest = "sha256:1234"
	client := NewClient(Options{Limits: module.DefaultLimits})
	key := func(req Request, digest string) string {
		image, err := client.OpenImage(req)
		moduletest.Must(t, err)
		return image.Key(digest)
	}
	image := "registry.example.com/filter:v1"
	keys := map[string]string{
		"verified":            key(Request{Image: image}, digest),
		"plain HTTP":          key(Request{Image: image, PlainHTTP: true}, digest),
		"unverified":          key(Request{Image: image, InsecureSkipVerify: true}, digest),
		"another digest":      key(Request{Image: image}, "sha256:5678"),
		"another repository":  key(Request{Image: "registry.example.com/other:v1"}, digest),
		"another registry":    key(Request{Image: "registry.example.org/filter:v1"}, digest),
		"at another port":     key(Request{Image: "registry.example.com:5000/filter:v1"}, digest),
		"of another registry": key(Request{Image: "filter:v1"}, digest),
	}
	seen := map[string]string{}
	for name, key := range keys {
		if other, same := seen[key]; same {
			t.Errorf("%s and %s are both %q", name, other, key)
		}
		seen[key] = name
	}
	for _, req := range []Request{
		{Image: "registry.example.com/filter:v2"},
		{Image: "registry.example.com/filter@sha256:" + moduletest.SHA256("")},
		{Image: image, Credential: annSecret},
	} {
		if got := key(req, digest); got != keys["verified"] {
			t.Errorf("%s is %q, not %q", req.Image, got, keys["verified"])
		}
	}
}

func TestRegistryFaults(t *testing.T) {
	wasm := moduletest.Wasm("faults")
	image := moduletest.FormOf(t, registry.CNCFArtifact, wasm)
	digest := moduletest.DigestOf(t, image)
	layer := "sha256:" + moduletest.SHA256(wasm)
	for name, c := range map[string]struct {
		fault           registry.Fault
		reason, message string
	}{
		"404":              {registry.Status(404), wasmev1.ReasonImageNotFound, "push the image"},
		"401":              {registry.Status(401), wasmev1.ReasonUnauthorized, "spec.filter.imagePullOptions.pullSecret"},
		"403":              {registry.Status(403), wasmev1.ReasonUnauthorized, "spec.filter.imagePullOptions.pullSecret"},
		"429":              {registry.Status(429), wasmev1.ReasonRegistryUnavailable, "status 429"},
		"500":              {registry.Status(500), wasmev1.ReasonRegistryUnavailable, "status 500"},
		"another manifest": {registry.WrongBytes(digest, []byte(`{"layers":[]}`)), wasmev1.ReasonDigestMismatch, "a manifest that does not match its digest"},
		"an old format":    {answer("/manifests/"+digest, anotherSigned(digest)), wasmev1.ReasonDigestMismatch, "a manifest that does not match its digest"},
		"another layer":    {registry.WrongBytes(layer, bytes.Repeat([]byte("x"), len(wasm))), wasmev1.ReasonDigestMismatch, "content that does not match its digest"},
		"a shorter layer":  {registry.WrongBytes(layer, wasm[:20]), wasmev1.ReasonDigestMismatch, "content that does not match its digest"},
		"a layer cut off":  {answer("/blobs/", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); _, _ = w.Write(wasm[:20]) }), wasmev1.ReasonRegistryUnavailable, "connection broke"},
		"an endless layer": {answer("/blobs/", endless), wasmev1.ReasonTooLarge, "--max-layer-bytes"},
		"endless manifest": {answer("/manifests/"+digest, endless), wasmev1.ReasonTooLarge, "--max-manifest-bytes"},
		"an endless ping":  {answer("", endless), "", ""},
		"an endless error": {answer("/manifests/", func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError); endless(w) }), wasmev1.ReasonRegistryUnavailable, "status 500"},
		"a redirect loop":  {redirectTo(func(req *http.Request) string { return req.URL.Path }), wasmev1.ReasonRegistryUnavailable, "more than 5 redirects"},
		"no registry":      {answer("", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }), wasmev1.ReasonRegistryUnavailable, "does not answer like a registry"},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			req := Request{Image: moduletest.Push(t, r, "filter:v1", image), PlainHTTP: true}
			r.Inject(c.fault)
			limits := module.Limits{ManifestBytes: 1 << 20, LayerBytes: 1 << 20, ModuleBytes: 1 << 20, ArchiveEntries: 10}
			_, err := pull(t, Options{Limits: limits}, req)
			moduletest.WantError(t, err, c.reason, c.message)
			if err != nil && strings.Contains(err.Error(), registry.SecretBody) {
				t.Errorf("the message holds the remote's body: %v", err)
			}
		})
	}
}

func TestHostileManifestsTakeLittleMemory(t *testing.T) {
	const size = 4 << 20
	for name, start := range map[string]string{"layers": `{"layers":[`, "manifests": `{"manifests":[`, "another case": `{"LAYERS":[`} {
		t.Run(name, func(t *testing.T) {
			doc := start + strings.Repeat("{},", (size-100)/3) + "{}]}"
			r := moduletest.StartRegistry(t)
			r.Inject(sendManifest(doc))
			before := allocated()
			_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: r.Host() + "/filter:v1", PlainHTTP: true})
			moduletest.WantError(t, err, wasmev1.ReasonInvalidImage, "lists more than")
			if took := allocated() - before; took > 20*size {
				t.Errorf("%d MiB allocated", took>>20)
			}
		})
	}
}

// sendManifest answers all requests for manifests with doc, by its digest.
func sendManifest(doc string) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.Contains(req.URL.Path, "/manifests/") {
				next.ServeHTTP(w, req)
				return
			}
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			w.Header().Set("Docker-Content-Digest", "sha256:"+moduletest.SHA256(doc))
			w.Header().Set("Content-Length", strconv.Itoa(len(doc)))
			_, _ = io.WriteString(w, doc) // the client may refuse it
		})
	}
}

func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestARepositoryMayBeNamedManifests(t *testing.T) {
	r := moduletest.StartRegistry(t)
	image := Request{Image: moduletest.Push(t, r, "a/manifests/blobs/manifests:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("named"))), PlainHTTP: true}
	_, err := pull(t, Options{Limits: module.DefaultLimits}, image)
	moduletest.Must(t, err)
}

func TestRegistryDown(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("down"))), PlainHTTP: true}
	r.Down()
	_, err := pull(t, Options{Limits: module.DefaultLimits}, req)
	moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "the connection was refused")
}

func TestARegistryWithoutHEAD(t *testing.T) {
	for name, fault := range map[string]registry.Fault{
		"405":       moduletest.OnHEAD(func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) }),
		"no digest": moduletest.OnHEAD(func(w http.ResponseWriter) { w.Header().Set("Content-Type", "x") }),
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			wasm := moduletest.Wasm("no HEAD")
			image := moduletest.FormOf(t, registry.CNCFArtifact, wasm)
			req := Request{Image: moduletest.Push(t, r, "filter:v1", image), PlainHTTP: true}
			r.Inject(fault)
			m, err := pull(t, Options{Limits: module.DefaultLimits}, req)
			moduletest.Must(t, err)
			wantModule(t, m, image, wasm)
		})
	}
}

func TestCredentials(t *testing.T) {
	users := map[string]string{"ann": "secret", "bob": "hidden"}
	for name, option := range map[string]registry.Option{"basic": registry.WithBasicAuth(users), "bearer": registry.WithBearerAuth(users)} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, option)
			r.Restrict("anns/filter", "ann")
			image := moduletest.Push(t, r, "anns/filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("private")))
			for who, c := range map[string]struct {
				credential Credential
				message    string
			}{
				"right":          {annSecret, ""},
				"anonymous":      {Credential{}, "spec.filter.imagePullOptions.pullSecret"},
				"wrong password": {Credential{Username: "ann", Password: "wrong"}, "spec.filter.imagePullOptions.pullSecret"},
				"another user":   {Credential{Username: "bob", Password: "hidden"}, "spec.filter.imagePullOptions.pullSecret"},
			} {
				t.Run(who, func(t *testing.T) {
					_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: image, PlainHTTP: true, Credential: c.credential})
					moduletest.WantError(t, err, wasmev1.ReasonUnauthorized, c.message)
				})
			}
		})
	}
}

func TestInsecureSkipVerifyIsForOneImage(t *testing.T) {
	r := moduletest.StartRegistry(t, registry.WithTLS())
	wasm := moduletest.Wasm("insecure")
	image := moduletest.FormOf(t, registry.CNCFArtifact, wasm)
	ref := moduletest.Push(t, r, "filter:v1", image)
	p := NewClient(Options{Limits: module.DefaultLimits})
	m, err := pullWith(t, p, Request{Image: ref, InsecureSkipVerify: true})
	moduletest.Must(t, err)
	wantModule(t, m, image, wasm)
	_, err = pullWith(t, p, Request{Image: ref})
	moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "its certificate is not trusted: give it one of a known authority, or reference its authority in spec.filter.imagePullOptions.caCertificates")
}

func TestAWrongClockIsNamedWithAnInjectedClock(t *testing.T) {
	r := moduletest.StartRegistry(t, registry.WithTLS())
	image := moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("clock")))
	at := func(now time.Time) error {
		p := NewClient(Options{Limits: module.DefaultLimits})
		config := p.strict.(*http.Transport).TLSClientConfig
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AddCert(r.Certificate())
		config.Time = func() time.Time { return now }
		_, err := pullWith(t, p, Request{Image: image})
		return err
	}
	moduletest.Must(t, at(time.Now()))
	for name, wrong := range map[string]time.Time{
		"ahead":  r.Certificate().NotAfter.Add(time.Hour),
		"behind": r.Certificate().NotBefore.Add(-time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			moduletest.WantError(t, at(wrong), wasmev1.ReasonRegistryUnavailable, "its certificate is not valid at this time: renew it, or correct the clock of the operator's node")
		})
	}
}

func TestReferences(t *testing.T) {
	for image, message := range map[string]string{
		"":                       "spec.filter.image",
		"Upper/Case":             "spec.filter.image",
		"https://ghcr.io/a/b":    "spec.filter.image",
		"ghcr.io/a/b@sha256:abc": "spec.filter.image",
		"ghcr.io./a/b":           "without a dot at its end",
		"registry.dev.:5000/a":   "without a dot at its end",
		"registry.gİtlab.com/a":  "in ASCII",
		"ghcr.io/../v2/a/b":      "a part of the repository's name is empty or consists of dots",
		"ghcr.io/a//b":           "a part of the repository's name is empty or consists of dots",
		"ghcr.io/a/./b":          "a part of the repository's name is empty or consists of dots",
	} {
		_, err := NewClient(Options{}).OpenImage(Request{Image: image})
		moduletest.WantError(t, err, wasmev1.ReasonInvalidSpec, message)
	}
}

func wantModule(t *testing.T, m module.Module, image v1.Image, wasm []byte) {
	t.Helper()
	sum := sha256.Sum256(wasm)
	if m.SHA256 != hex.EncodeToString(sum[:]) || m.SizeBytes != int64(len(wasm)) {
		t.Errorf("%s with %d bytes is not the module that was pushed", m.SHA256, m.SizeBytes)
	}
	if m.ManifestDigest != moduletest.DigestOf(t, image) {
		t.Errorf("manifest %s, not %s", m.ManifestDigest, moduletest.DigestOf(t, image))
	}
	if !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
		t.Errorf("ABI versions %v", m.ABIVersions)
	}
}

func indexOf(inner v1.ImageIndex) v1.ImageIndex {
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: inner})
}

// attested is what BuildKit pushes: the image, and what it knows about it.
func attested(image v1.Image) v1.ImageIndex {
	return mutate.AppendManifests(indexWith(v1.Descriptor{Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}}),
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
}

func indexWith(desc v1.Descriptor) v1.ImageIndex {
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: empty.Image, Descriptor: desc})
}

// anotherSigned sends a manifest that is not digest's in the format for which
// ggcr believes the header.
func anotherSigned(digest string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", string(types.DockerManifestSchema1Signed))
		w.Header().Set("Docker-Content-Digest", digest)
		_, err := w.Write([]byte(`{"layers":[{}]}`))
		ok(err)
	}
}
