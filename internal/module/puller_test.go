package module

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
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
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"k8s.io/utils/clock"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestPullsEveryForm(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("every form")
	for _, form := range registry.Forms() {
		for name, wrap := range map[string]func(v1.Image) remote.Taggable{
			"plain":    func(image v1.Image) remote.Taggable { return image },
			"index":    func(image v1.Image) remote.Taggable { return registry.Index(image) },
			"attested": func(image v1.Image) remote.Taggable { return attested(image) },
			"nested":   func(image v1.Image) remote.Taggable { return indexOf(registry.Index(image)) },
		} {
			t.Run(string(form)+" "+name, func(t *testing.T) {
				image := formOf(t, form, wasm, "root")
				m, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: push(t, r, "filter:v1", wrap(image)), PlainHTTP: true})
				must(t, err)
				wantModule(t, m, image, wasm)
				if want := []string{"root"}; form != registry.CNCFArtifact && !slices.Equal(m.RootIDs, want) {
					t.Errorf("root ids %v, not %v", m.RootIDs, want)
				}
			})
		}
	}
}

func TestPullsImagesOfOtherMakes(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("other makes")
	plugin, config := file("plugin.wasm", wasm), file("runtime-config.json", rootConfig("root"))
	for name, c := range map[string]struct {
		layers []registry.Layer
		roots  []string
	}{
		"plain tar":                  {layers(archive(plugin)), nil},
		"a path with a dot":          {layers(archive(file("./plugin.wasm", wasm))), nil},
		"an absolute path":           {layers(archive(file("/plugin.wasm", wasm))), nil},
		"config before":              {layers(archive(config, plugin)), []string{"root"}},
		"config in an earlier layer": {layers(archive(config), archive(plugin)), []string{"root"}},
		"config in a later layer":    {layers(archive(plugin), archive(config)), []string{"root"}},
		"the later config counts":    {layers(archive(file("runtime-config.json", rootConfig("old")), plugin), archive(config)), []string{"root"}},
		"the later plugin counts":    {layers(archive(file("plugin.wasm", []byte("old"))), archive(plugin)), nil},
		"not the last layer":         {layers(archive(plugin), archive(file("etc/passwd", nil))), nil},
		"other files":                {layers(archive(file("usr/plugin.wasm", []byte("x")), tar.Header{Name: "plugin.wasm", Typeflag: tar.TypeDir}, plugin)), nil},
		"artifact, gzip":             {[]registry.Layer{{MediaType: registry.CNCFLayer, Bytes: gzipped(wasm)}}, nil},
		"artifact, zstd":             {[]registry.Layer{{MediaType: registry.CNCFLayer, Bytes: zstandard(wasm)}}, nil},
		"artifact, first CNCF form":  {[]registry.Layer{{MediaType: "application/vnd.wasm.content.layer.v1+wasm", Bytes: wasm}}, nil},
		"artifact, config in layers": {[]registry.Layer{{MediaType: registry.WasmeConfig, Bytes: rootConfig("root")}, {MediaType: registry.WasmeLayer, Bytes: wasm}}, []string{"root"}},
	} {
		t.Run(name, func(t *testing.T) {
			image := imageOf(t, c.layers...)
			m, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: push(t, r, "filter:v1", image), PlainHTTP: true})
			must(t, err)
			wantModule(t, m, image, wasm)
			if !slices.Equal(m.RootIDs, c.roots) {
				t.Errorf("root ids %v, not %v", m.RootIDs, c.roots)
			}
		})
	}
}

func TestRefusesBadImages(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("bad images")
	const invalidImage, invalidModule = wasmev1.ReasonInvalidImage, wasmev1.ReasonInvalidModule
	for name, c := range map[string]struct {
		image           remote.Taggable
		reason, message string
	}{
		"no module":                {imageOf(t, layers(archive(file("etc/passwd", nil)))...), invalidImage, "holds no Wasm module"},
		"no layers":                {imageOf(t), invalidImage, "has no layers"},
		"plugin.wasm is a link":    {imageOf(t, layers(archive(tar.Header{Name: "plugin.wasm", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))...), invalidImage, "holds no Wasm module"},
		"plugin.wasm is no Wasm":   {imageOf(t, layers(archive(file("plugin.wasm", []byte("text"))))...), invalidModule, "not a Wasm module"},
		"a layer that is no Wasm":  {formOf(t, registry.CNCFArtifact, []byte("text")), invalidModule, "not a Wasm module"},
		"a layer that is no tar":   {imageOf(t, layers([]byte(strings.Repeat("text", 1000)))...), invalidImage, "neither a tar archive nor a Wasm module"},
		"a module not for proxies": {formOf(t, registry.CompatOCI, wasmModule(export("_start"))), invalidModule, "build it for proxy-wasm"},
		"a component":              {formOf(t, registry.CNCFArtifact, componentPreamble), invalidModule, "component"},
		"a truncated archive":      {imageOf(t, layers(archive(file("plugin.wasm", wasm))[:520])...), invalidImage, "unpacking a layer"},
		"a truncated gzip":         {imageOf(t, layers(gzipped(archive(file("plugin.wasm", wasm)))[:40])...), invalidImage, "unpacking a layer"},
		"two modules":              {imageOf(t, registry.Layer{MediaType: registry.CNCFLayer, Bytes: wasm}, registry.Layer{MediaType: registry.CNCFLayer, Bytes: wasm}), invalidImage, "several layers"},
		"a config that is no JSON": {imageOf(t, layers(archive(file("runtime-config.json", []byte("root")), file("plugin.wasm", wasm)))...), invalidImage, "runtime configuration"},
		"too large a config":       {imageOf(t, layers(archive(file("runtime-config.json", make([]byte, 70<<10)), file("plugin.wasm", wasm)))...), wasmev1.ReasonTooLarge, "runtime configuration"},
		"too many root ids":        {imageOf(t, layers(archive(file("runtime-config.json", rootConfig(strings.Split(strings.Repeat("x", 65), "")...)), file("plugin.wasm", wasm)))...), wasmev1.ReasonTooLarge, "65 root ids"},
		"attestations only":        {indexWith(v1.Descriptor{Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}}), invalidImage, "attestations only"},
		"an index of indexes":      {indexOf(indexOf(indexOf(registry.Index(formOf(t, registry.CNCFArtifact, wasm))))), invalidImage, "nested more than 3 deep"},
		"too many layers":          {imageOf(t, slices.Repeat(layers([]byte("x")), 128)...), invalidImage, "more than 127 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: push(t, r, "filter:v1", c.image), PlainHTTP: true})
			wantError(t, err, c.reason, c.message)
			if e := asError(err); e == nil || !e.Terminal {
				t.Error("not terminal")
			}
		})
	}
}

// The hostile images unpack to 10 GB; they are built of repeated members, as
// gzip and zstd streams may be.
func TestRefusesWhatPassesTheLimits(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("limits")
	zeros := make([]byte, 10<<20)
	huge := tar.Header{Name: "plugin.wasm", Size: 10 << 30, Mode: 0o600}
	other := tar.Header{Name: "other", Size: 10 << 30, Mode: 0o600}
	for name, c := range map[string]struct {
		image   remote.Taggable
		limits  func(*Limits)
		message string
	}{
		"gzip bomb, module":         {imageOf(t, layers(bomb(gzipped, header(huge), zeros))...), nil, "--max-module-bytes"},
		"zstd bomb, module":         {imageOf(t, layers(bomb(zstandard, header(huge), zeros))...), nil, "--max-module-bytes"},
		"gzip bomb, another file":   {imageOf(t, layers(bomb(gzipped, header(other), zeros))...), nil, "--max-layer-bytes"},
		"zstd bomb, another file":   {imageOf(t, layers(bomb(zstandard, header(other), zeros))...), nil, "--max-layer-bytes"},
		"gzip bomb, artifact":       {imageOf(t, registry.Layer{MediaType: registry.CNCFLayer, Bytes: bomb(gzipped, wasm, zeros)}), nil, "--max-module-bytes"},
		"10 million entries":        {imageOf(t, layers(bomb(gzipped, nil, bytes.Repeat(header(tar.Header{Name: "x"}), 10_000)))...), nil, "--max-archive-entries"},
		"entries, over layers":      {imageOf(t, layers(archive(file("plugin.wasm", wasm), file("a", nil)), archive(file("b", nil), file("c", nil)))...), func(l *Limits) { l.ArchiveEntries = 3 }, "--max-archive-entries"},
		"layers together":           {imageOf(t, layers(archive(file("plugin.wasm", wasm)), archive(file("b", nil)))...), func(l *Limits) { l.LayerBytes = 3000 }, "--max-layer-bytes"},
		"a module":                  {formOf(t, registry.CNCFArtifact, wasm), func(l *Limits) { l.ModuleBytes = 10 }, "--max-module-bytes"},
		"a layer":                   {formOf(t, registry.CNCFArtifact, wasm), func(l *Limits) { l.LayerBytes = 10 }, "--max-layer-bytes"},
		"a manifest":                {formOf(t, registry.CNCFArtifact, wasm), func(l *Limits) { l.ManifestBytes = 100 }, "--max-manifest-bytes"},
		"a zstd window":             {imageOf(t, layers(zstandardWindow(64<<20))...), nil, "zstd window"},
		"unpacked, though not sent": {imageOf(t, layers(gzipped(archive(file("b", make([]byte, 9000)))))...), func(l *Limits) { l.LayerBytes = 8000 }, "--max-layer-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			limits := DefaultLimits
			if c.limits != nil {
				c.limits(&limits)
			}
			_, err := pull(t, PullerOptions{Limits: limits}, Request{Image: push(t, r, "filter:v1", c.image), PlainHTTP: true})
			wantError(t, err, wasmev1.ReasonTooLarge, c.message)
		})
	}
}

func TestRegistryFaults(t *testing.T) {
	wasm := testModule("faults")
	image := formOf(t, registry.CNCFArtifact, wasm)
	digest := digestOf(t, image)
	layer := "sha256:" + sumOf(string(wasm))
	for name, c := range map[string]struct {
		fault           registry.Fault
		reason, message string
	}{
		"404":              {registry.Status(404), wasmev1.ReasonImageNotFound, "push the image"},
		"401":              {registry.Status(401), wasmev1.ReasonUnauthorized, "spec.filter.imagePullOptions.pullSecret"},
		"403":              {registry.Status(403), wasmev1.ReasonUnauthorized, "spec.filter.imagePullOptions.pullSecret"},
		"429":              {registry.Status(429), wasmev1.ReasonRegistryUnavailable, "status 429"},
		"500":              {registry.Status(500), wasmev1.ReasonRegistryUnavailable, "status 500"},
		"another manifest": {registry.WrongBytes(digest, []byte(`{"layers":[]}`)), wasmev1.ReasonDigestMismatch, "a manifest that its digest does not cover"},
		"an old format":    {answer("/manifests/"+digest, anotherSigned(digest)), wasmev1.ReasonDigestMismatch, "a manifest that its digest does not cover"},
		"another layer":    {registry.WrongBytes(layer, bytes.Repeat([]byte("x"), len(wasm))), wasmev1.ReasonDigestMismatch, "content that its digest does not cover"},
		"a shorter layer":  {registry.WrongBytes(layer, wasm[:20]), wasmev1.ReasonDigestMismatch, "content that its digest does not cover"},
		"a layer cut off":  {answer("/blobs/", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); _, _ = w.Write(wasm[:20]) }), wasmev1.ReasonRegistryUnavailable, "connection broke"},
		"an endless layer": {answer("/blobs/", endless), wasmev1.ReasonTooLarge, "--max-layer-bytes"},
		"endless manifest": {answer("/manifests/"+digest, endless), wasmev1.ReasonTooLarge, "--max-manifest-bytes"},
		"an endless ping":  {answer("", endless), "", ""},
		"an endless error": {answer("/manifests/", func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError); endless(w) }), wasmev1.ReasonRegistryUnavailable, "status 500"},
		"a redirect loop":  {redirectTo(func(req *http.Request) string { return req.URL.Path }), wasmev1.ReasonRegistryUnavailable, "more than 5 redirects"},
		"no registry":      {answer("", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }), wasmev1.ReasonRegistryUnavailable, "does not answer as a registry does"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			req := Request{Image: push(t, r, "filter:v1", image), PlainHTTP: true}
			r.Inject(c.fault)
			limits := Limits{ManifestBytes: 1 << 20, LayerBytes: 1 << 20, ModuleBytes: 1 << 20, ArchiveEntries: 10}
			_, err := pull(t, PullerOptions{Limits: limits}, req)
			wantError(t, err, c.reason, c.message)
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
			r := startRegistry(t)
			r.Inject(sendManifest(doc))
			before := allocated()
			_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: r.Host() + "/filter:v1", PlainHTTP: true})
			wantError(t, err, wasmev1.ReasonInvalidImage, "lists more than")
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
			w.Header().Set("Docker-Content-Digest", "sha256:"+sumOf(doc))
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

func TestManifestLists(t *testing.T) {
	for name, c := range map[string]struct{ doc, message string }{
		"as many layers as may be":    {`{"layers":[` + strings.Repeat("{},", 126) + `{}],"manifests":null}`, ""},
		"as many manifests as may be": {`{"manifests":[` + strings.Repeat("{},", 999) + `{}],"layers":[]}`, ""},
		"one layer more":              {`{"layers":[` + strings.Repeat("{},", 127) + `{}]}`, "more than 127 layers"},
		"one manifest more":           {`{"manifests":[` + strings.Repeat("{},", 1000) + `{}]}`, "more than 1000 manifests"},
		"layers that are no list":     {`{"layers":{"a":{}}}`, "not the JSON"},
		"layers that are no objects":  {`{"layers":[0]}`, "not the JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseManifest([]byte(c.doc))
			if c.message == "" {
				must(t, err)
				return
			}
			wantError(t, err, wasmev1.ReasonInvalidImage, c.message)
		})
	}
}

func TestARepositoryMayBeNamedManifests(t *testing.T) {
	r := startRegistry(t)
	image := Request{Image: push(t, r, "a/manifests/blobs/manifests:v1", formOf(t, registry.CompatOCI, testModule("named"))), PlainHTTP: true}
	_, err := pull(t, PullerOptions{Limits: DefaultLimits}, image)
	must(t, err)
}

func TestRegistryDown(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CNCFArtifact, testModule("down"))), PlainHTTP: true}
	r.Down()
	_, err := pull(t, PullerOptions{Limits: DefaultLimits}, req)
	wantError(t, err, wasmev1.ReasonRegistryUnavailable, "the connection is refused")
}

func TestARegistryWithoutHEAD(t *testing.T) {
	for name, fault := range map[string]registry.Fault{
		"405":       onHead(func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) }),
		"no digest": onHead(func(w http.ResponseWriter) { w.Header().Set("Content-Type", "x") }),
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			wasm := testModule("no HEAD")
			image := formOf(t, registry.CNCFArtifact, wasm)
			req := Request{Image: push(t, r, "filter:v1", image), PlainHTTP: true}
			r.Inject(fault)
			m, err := pull(t, PullerOptions{Limits: DefaultLimits}, req)
			must(t, err)
			wantModule(t, m, image, wasm)
		})
	}
}

func TestCredentials(t *testing.T) {
	users := map[string]string{"ann": "secret", "bob": "hidden"}
	for name, option := range map[string]registry.Option{"basic": registry.WithBasicAuth(users), "bearer": registry.WithBearerAuth(users)} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, option)
			r.Restrict("anns/filter", "ann")
			image := push(t, r, "anns/filter:v1", formOf(t, registry.CNCFArtifact, testModule("private")))
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
					_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: image, PlainHTTP: true, Credential: c.credential})
					wantError(t, err, wasmev1.ReasonUnauthorized, c.message)
				})
			}
		})
	}
}

func TestCredentialsGoToNoOtherHost(t *testing.T) {
	var sent http.Header
	wasm := testModule("redirected")
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		sent = req.Header.Clone()
		_, _ = w.Write(wasm)
	}))
	defer storage.Close()
	for name, option := range map[string]registry.Option{"basic": registry.WithBasicAuth(map[string]string{"ann": "secret"}), "bearer": registry.WithBearerAuth(map[string]string{"ann": "secret"})} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, option)
			image := push(t, r, "filter:v1", formOf(t, registry.CNCFArtifact, wasm))
			r.Inject(registry.Redirect(named(storage.URL)))
			sent = nil
			_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: image, PlainHTTP: true, Credential: annSecret})
			must(t, err)
			if sent == nil || sent.Get("Authorization") != "" {
				t.Errorf("sent %v", sent)
			}
		})
	}
}

func TestDeniedNetworks(t *testing.T) {
	outside := outsideLoopback(t)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer inside.Close()
	wasm := formOf(t, registry.CNCFArtifact, testModule("denied"))
	const realmMessage = "names a token server that is not allowed"
	for name, c := range map[string]struct {
		options []registry.Option
		fault   registry.Fault
		message string
	}{
		"redirect to a name":     {nil, registry.Redirect(named(inside.URL)), "localhost: its address is in "},
		"redirect to an address": {nil, registry.Redirect(inside.URL), "redirects to a private, loopback or link-local address"},
		"token realm by name":    {[]registry.Option{registry.WithBearerAuth(nil), registry.WithTokenRealm(named(inside.URL))}, nil, "localhost: its address is in "},
		"token realm by address": {[]registry.Option{registry.WithBearerAuth(nil), registry.WithTokenRealm(inside.URL)}, nil, realmMessage},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, c.options...)
			push(t, r, "filter:v1", wasm)
			r.Inject(c.fault)
			_, err := pull(t, PullerOptions{DeniedNetworks: DefaultDeniedNetworks, Limits: DefaultLimits}, Request{Image: outside(r) + "/filter:v1", PlainHTTP: true})
			wantError(t, err, wasmev1.ReasonRegistryForbidden, c.message)
			wantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
		})
	}
}

func TestDeniedAddresses(t *testing.T) {
	custom := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:192.168.0.0/112")}
	for _, c := range []struct {
		denied  []netip.Prefix
		address string
		refused bool
	}{
		{DefaultDeniedNetworks, "127.0.0.1:80", true},
		{DefaultDeniedNetworks, "127.255.0.9:443", true},
		{DefaultDeniedNetworks, "169.254.169.254:80", true},
		{DefaultDeniedNetworks, "[::1]:80", true},
		{DefaultDeniedNetworks, "[fe80::1%eth0]:80", true},
		{DefaultDeniedNetworks, "[::ffff:127.0.0.1]:80", true},
		{DefaultDeniedNetworks, "[::ffff:169.254.169.254]:80", true},
		{DefaultDeniedNetworks, "0.0.0.0:80", true},
		{DefaultDeniedNetworks, "[::]:80", true},
		{DefaultDeniedNetworks, "10.0.0.1:80", false},
		{DefaultDeniedNetworks, "[2001:db8::1]:443", false},
		{custom, "10.1.2.3:80", true},
		{custom, "[::ffff:10.1.2.3]:80", true},
		{custom, "192.168.7.7:80", true},
		{custom, "127.0.0.1:80", false},
		{nil, "127.0.0.1:80", false},
	} {
		g := &guardedDialer{denied: unmapPrefixes(c.denied)}
		if err := g.check("registry.example.com", c.address); (err != nil) != c.refused {
			t.Errorf("%s: %v", c.address, err)
		}
	}
}

func TestADeniedRegistryIsNotConnectedTo(t *testing.T) {
	r := startRegistry(t)
	for _, host := range []string{r.Host(), named(r.Host())} {
		_, err := pull(t, PullerOptions{DeniedNetworks: DefaultDeniedNetworks, Limits: DefaultLimits}, Request{Image: host + "/filter:v1", PlainHTTP: true})
		wantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
	}
	if n := r.Requests("", ""); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAllowedRegistries(t *testing.T) {
	p := NewPuller(PullerOptions{AllowedRegistries: []string{"ghcr.io", "docker.io", "registry.example.com:5000"}, Limits: DefaultLimits})
	for image, allowed := range map[string]bool{
		"ghcr.io/a/b":                     true,
		"ghcr.io:443/a/b":                 true,
		"a/b":                             true,
		"registry.example.com:5000/a/b":   true,
		"registry.example.com/a/b":        false,
		"ghcr.io:8443/a/b":                false,
		"quay.io/a/b":                     false,
		"ghcr.io.example.com/ghcr.io/a/b": false,
	} {
		_, err := p.open(Request{Image: image})
		if message := "--allowed-registries"; allowed {
			must(t, err)
		} else {
			wantError(t, err, wasmev1.ReasonRegistryForbidden, message)
		}
	}
}

func TestPlainHTTPIsRefusedUnlessAllowed(t *testing.T) {
	r, secure := startRegistry(t), startRegistry(t, registry.WithTLS())
	image := formOf(t, registry.CNCFArtifact, testModule("plain"))
	push(t, r, "filter:v1", image)
	push(t, secure, "filter:v1", image)
	for name, host := range map[string]func(*testing.T) string{
		"loopback":  func(*testing.T) string { return r.Host() },
		"localhost": func(*testing.T) string { return named(r.Host()) },
		"private":   func(t *testing.T) string { t.Helper(); return outsideLoopback(t)(r) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: host(t) + "/filter:v1"})
			wantError(t, err, wasmev1.ReasonRegistryForbidden, "set spec.filter.imagePullOptions.plainHttp")
		})
	}
	if n := r.Requests("", ""); n != 0 {
		t.Errorf("%d requests over plain HTTP", n)
	}
	t.Run("redirect", func(t *testing.T) {
		secure.Inject(registry.Redirect("http://" + named(r.Host())))
		_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: secure.Host() + "/filter:v1", InsecureSkipVerify: true})
		wantError(t, err, wasmev1.ReasonRegistryForbidden, "set spec.filter.imagePullOptions.plainHttp")
	})
	t.Run("token realm", func(t *testing.T) {
		realm := startRegistry(t, registry.WithTLS(), registry.WithBearerAuth(nil), registry.WithTokenRealm("http://token.example.com/"))
		_, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: realm.Host() + "/filter:v1", InsecureSkipVerify: true})
		wantError(t, err, wasmev1.ReasonRegistryForbidden, "spec.filter.imagePullOptions.plainHttp")
	})
}

func TestInsecureSkipVerifyIsForOneImage(t *testing.T) {
	r := startRegistry(t, registry.WithTLS())
	wasm := testModule("insecure")
	image := formOf(t, registry.CNCFArtifact, wasm)
	ref := push(t, r, "filter:v1", image)
	p := NewPuller(PullerOptions{Limits: DefaultLimits})
	m, err := pullWith(t, p, Request{Image: ref, InsecureSkipVerify: true})
	must(t, err)
	wantModule(t, m, image, wasm)
	_, err = pullWith(t, p, Request{Image: ref})
	wantError(t, err, wasmev1.ReasonRegistryUnavailable, "its certificate is not trusted: give it one of a known authority, or set spec.filter.imagePullOptions.insecureSkipVerify")
}

func TestAWrongClockIsNamedWithAnInjectedClock(t *testing.T) {
	r := startRegistry(t, registry.WithTLS())
	image := push(t, r, "filter:v1", formOf(t, registry.CNCFArtifact, testModule("clock")))
	at := func(now time.Time) error {
		p := NewPuller(PullerOptions{Limits: DefaultLimits})
		config := p.strict.(*http.Transport).TLSClientConfig
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AddCert(r.Certificate())
		config.Time = func() time.Time { return now }
		_, err := pullWith(t, p, Request{Image: image})
		return err
	}
	must(t, at(time.Now()))
	for name, wrong := range map[string]time.Time{
		"ahead":  r.Certificate().NotAfter.Add(time.Hour),
		"behind": r.Certificate().NotBefore.Add(-time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, at(wrong), wasmev1.ReasonRegistryUnavailable, "its certificate is not valid at this time: renew it, or set the clock of the operator's node right")
		})
	}
}

func TestReferences(t *testing.T) {
	for image, message := range map[string]string{
		"":                       "spec.filter.image",
		"Upper/Case":             "spec.filter.image",
		"https://ghcr.io/a/b":    "spec.filter.image",
		"ghcr.io/a/b@sha256:abc": "spec.filter.image",
	} {
		_, err := NewPuller(PullerOptions{}).open(Request{Image: image})
		wantError(t, err, wasmev1.ReasonInvalidSpec, message)
	}
}

func FuzzUnpack(f *testing.F) {
	wasm := testModule("seed")
	whole := archive(file("runtime-config.json", rootConfig("root")), file("plugin.wasm", wasm))
	for _, seed := range [][]byte{wasm, whole, gzipped(whole), zstandard(whole), gzipped(wasm)} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	s, err := OpenStore(f.TempDir(), 1<<20, clock.RealClock{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, artifact bool) {
		out, err := s.create()
		must(t, err)
		defer out.discard()
		u := &unpacker{limits: Limits{LayerBytes: 64 << 10, ModuleBytes: 32 << 10, ArchiveEntries: 20}, out: out, slots: make(chan struct{}, 1), fetch: func(v1.Descriptor) (*tempFile, error) {
			blob, err := s.create()
			must(t, err)
			_, err = blob.Write(data)
			return blob, err
		}}
		layer := v1.Descriptor{MediaType: types.OCILayer}
		if artifact {
			layer.MediaType = registry.CNCFLayer
		}
		if err := u.unpack(&manifest{Layers: []v1.Descriptor{layer}}); err != nil && asError(err) == nil {
			t.Errorf("not classified: %v", err)
		}
		if out.size > 33<<10 {
			t.Errorf("%d bytes came out", out.size)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x","platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"config":{},"layers":[{"mediaType":"application/wasm","size":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			wantError(t, err, asError(err).Reason, "image")
			return
		}
		if len(m.Manifests) > 0 {
			_, _ = m.child()
		}
		_, _ = m.wasmLayer()
		m.runtimeConfig()
		if len(m.Layers) > 0 {
			agentRefuses(m, extraction{})
			agentRefuses(m, extraction{itself: true})
		}
	})
}

func FuzzRootIDs(f *testing.F) {
	f.Add(rootConfig("root"))
	f.Add([]byte(`{"config":{"rootIds":[1]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ids, err := parseRootIDs(data)
		if err != nil && asError(err) == nil || len(ids) > maxRootIDs {
			t.Errorf("%d root ids, %v", len(ids), err)
		}
	})
}

func TestPicksTheChildOfAnIndex(t *testing.T) {
	platform := func(os, arch string) *v1.Platform { return &v1.Platform{OS: os, Architecture: arch} }
	attestation := map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	for name, c := range map[string]struct {
		manifests []v1.Descriptor
		want      int64
	}{
		"wasm":              {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "amd64")}, {Size: 2, Platform: platform("wasi", "wasm")}}, 2},
		"linux/amd64":       {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "arm64")}, {Size: 2, Platform: platform("linux", "amd64")}}, 2},
		"the first":         {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "arm64")}, {Size: 2}}, 1},
		"no attestation":    {[]v1.Descriptor{{Size: 1, Platform: platform("linux", "amd64"), Annotations: attestation}, {Size: 2}}, 2},
		"the first of wasm": {[]v1.Descriptor{{Size: 1, Platform: platform("wasip1", "wasm")}, {Size: 2, Platform: platform("wasi", "wasm")}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := manifest{Manifests: c.manifests}
			if got, err := m.child(); err != nil || got.Size != c.want {
				t.Errorf("%d, %v; want %d", got.Size, err, c.want)
			}
		})
	}
}

// pull pulls an image as the resolver does, into a store of its own, and
// checks that a failure leaves nothing there.
func pull(t *testing.T, opts PullerOptions, req Request) (Module, error) {
	t.Helper()
	return pullWith(t, NewPuller(opts), req)
}

func pullWith(t *testing.T, p *Puller, req Request) (Module, error) {
	t.Helper()
	store := openStore(t, t.TempDir(), DefaultStoreBytes)
	m, err := pullInto(t, p, req, store)
	if err != nil {
		wantFiles(t, store.dir)
		if store.bytes != 0 {
			t.Errorf("%d bytes are still counted", store.bytes)
		}
		return m, err
	}
	wantFiles(t, store.dir, "modules/"+m.SHA256+".wasm")
	return m, nil
}

func pullInto(t *testing.T, p *Puller, req Request, store *Store) (Module, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), headTimeout)
	defer cancel()
	from, err := p.open(req)
	if err != nil {
		return Module{}, err
	}
	digest, err := from.head(ctx)
	if err != nil {
		return Module{}, err
	}
	return from.pull(ctx, digest, store)
}

func wantModule(t *testing.T, m Module, image v1.Image, wasm []byte) {
	t.Helper()
	sum := sha256.Sum256(wasm)
	if m.SHA256 != hex.EncodeToString(sum[:]) || m.SizeBytes != int64(len(wasm)) {
		t.Errorf("%s with %d bytes is not the module that was pushed", m.SHA256, m.SizeBytes)
	}
	if m.ManifestDigest != digestOf(t, image) {
		t.Errorf("manifest %s, not %s", m.ManifestDigest, digestOf(t, image))
	}
	if !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
		t.Errorf("ABI versions %v", m.ABIVersions)
	}
}

func startRegistry(t *testing.T, options ...registry.Option) *registry.Registry {
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

func formOf(t *testing.T, form registry.Form, wasm []byte, roots ...string) v1.Image {
	t.Helper()
	image, err := registry.Image(form, registry.Module{Bytes: wasm, RootIDs: roots})
	must(t, err)
	return image
}

func imageOf(t *testing.T, layers ...registry.Layer) v1.Image {
	t.Helper()
	image, err := registry.Artifact(types.OCIConfigJSON, []byte("{}"), nil, layers...)
	must(t, err)
	return image
}

func layers(contents ...[]byte) []registry.Layer {
	var made []registry.Layer
	for _, content := range contents {
		made = append(made, registry.Layer{MediaType: types.OCILayer, Bytes: content})
	}
	return made
}

func digestOf(t *testing.T, image remote.Taggable) string {
	t.Helper()
	digest, err := registry.Digest(image)
	must(t, err)
	return digest
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

type tarFile struct {
	header  tar.Header
	content []byte
}

func file(name string, content []byte) tarFile {
	return tarFile{tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}, content}
}

// archive packs files, and headers without content.
func archive(files ...any) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		switch f := f.(type) {
		case tarFile:
			ok(w.WriteHeader(&f.header))
			_, err := w.Write(f.content)
			ok(err)
		case tar.Header:
			ok(w.WriteHeader(&f))
		}
	}
	ok(w.Close())
	return out.Bytes()
}

// header is the block of one tar header.
func header(h tar.Header) []byte {
	var out bytes.Buffer
	ok(tar.NewWriter(&out).WriteHeader(&h))
	return out.Bytes()
}

func gzipped(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	ok(err)
	ok(w.Close())
	return out.Bytes()
}

func zstandard(content []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	ok(err)
	return w.EncodeAll(content, nil)
}

// zstandardWindow is a stream that asks for a window of that size.
func zstandardWindow(size int) []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(size), zstd.WithEncoderConcurrency(1))
	ok(err)
	for range 3 {
		_, err = w.Write(bytes.Repeat([]byte("text"), 1<<18))
		ok(err)
		ok(w.Flush())
	}
	ok(w.Close())
	return out.Bytes()
}

// bomb packs first, and then content a thousand times.
func bomb(pack func([]byte) []byte, first, content []byte) []byte {
	return append(pack(first), bytes.Repeat(pack(content), 1000)...)
}

func rootConfig(ids ...string) []byte {
	return fmt.Appendf(nil, `{"type":"envoy_proxy","abiVersions":["v0"],"config":{"rootIds":["%s"]}}`, strings.Join(ids, `","`))
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

// answer answers requests whose path contains part; pings, when that is empty.
func answer(part string, with func(http.ResponseWriter)) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			asked := part != "" && strings.Contains(req.URL.Path, part)
			if asked && req.Method == http.MethodGet || part == "" && req.URL.Path == "/v2/" {
				with(w)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
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

func endless(w http.ResponseWriter) {
	for chunk := make([]byte, 64<<10); ; {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func redirectTo(location func(*http.Request) string) registry.Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, location(req), http.StatusTemporaryRedirect)
		})
	}
}

func onHead(with func(http.ResponseWriter)) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				with(w)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// named is an address or URL on 127.0.0.1 by the name localhost.
func named(address string) string { return strings.Replace(address, "127.0.0.1", "localhost", 1) }

// outsideLoopback returns what serves a registry on this machine's own address
// as well, which is not in a denied network.
func outsideLoopback(t *testing.T) func(*registry.Registry) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, addr := range addrs {
		ip, isNet := addr.(*net.IPNet)
		if !isNet || ip.IP.IsLoopback() || ip.IP.To4() == nil || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		return func(r *registry.Registry) string {
			listener, err := net.Listen("tcp", net.JoinHostPort(ip.IP.String(), "0"))
			must(t, err)
			server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r}}
			server.Start()
			t.Cleanup(server.Close)
			return listener.Addr().String()
		}
	}
	t.Skip("this machine has no address beside loopback")
	return nil
}
