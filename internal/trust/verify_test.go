package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/testing/data"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/signing"
)

const (
	identity = "https://github.com/acme/filters/.github/workflows/release.yaml@refs/heads/main"
	issuer   = "https://token.actions.githubusercontent.com"
)

func digestOf(text string) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: moduletest.SHA256(text)}
}

func newInstance(t *testing.T) *signing.Instance {
	t.Helper()
	made, err := signing.NewInstance()
	moduletest.Must(t, err)
	return made
}

func rootsOf(t *testing.T, instances ...*signing.Instance) Roots {
	t.Helper()
	var all []byte
	for _, instance := range instances {
		one, err := instance.TrustedRoot(false)
		moduletest.Must(t, err)
		all = append(all, one...)
	}
	roots, err := ParseRoots(all)
	moduletest.Must(t, err)
	return roots
}

// forms are all ways to sign.
var forms = map[string]struct {
	sign func(signing.Signer, v1.Hash) (signing.Layer, error)
	form wasmev1.SignatureForm
}{
	"simple signing": {signing.Signer.SimpleSigning, wasmev1.SignatureTag},
	"bundle": {func(s signing.Signer, image v1.Hash) (signing.Layer, error) {
		return s.Bundle(image, signing.Signed)
	}, wasmev1.SignatureBundle},
	"attestation": {func(s signing.Signer, image v1.Hash) (signing.Layer, error) {
		return s.Bundle(image, signing.Provenance)
	}, wasmev1.SignatureAttestation},
}

func parse(t *testing.T, layer signing.Layer) Signature {
	t.Helper()
	if !HasSignatures(layer.Descriptor()) {
		t.Fatalf("%s is not a signature", layer.MediaType)
	}
	parsed, err := ParseLayer(layer.Descriptor(), layer.Content)
	moduletest.Must(t, err)
	return parsed
}

func TestEveryFormVerifiesByKeyAndKeyless(t *testing.T) {
	instance := newInstance(t)
	byKey, text, err := signing.NewKey()
	moduletest.Must(t, err)
	key, err := ParseKey(text)
	moduletest.Must(t, err)
	image := digestOf("image")
	for name, row := range forms {
		layer, err := row.sign(instance.Keyless(identity, issuer), image)
		moduletest.Must(t, err)
		who, form, err := parse(t, layer).Keyless(image, rootsOf(t, newInstance(t), instance))
		if want := (Identity{Issuer: issuer, Subject: identity}); err != nil || who != want || form != row.form {
			t.Errorf("%s, keyless: %+v, %q, %v", name, who, form, err)
		}
		layer, err = row.sign(byKey, image)
		moduletest.Must(t, err)
		if form, err := parse(t, layer).ByKey(image, key); err != nil || form != row.form {
			t.Errorf("%s, key: %q, %v", name, form, err)
		}
	}
}

func TestWhatIsNotASignatureOfTheImageIsRefused(t *testing.T) {
	instance, image := newInstance(t), digestOf("image")
	roots := rootsOf(t, instance)
	byKey, _, err := signing.NewKey()
	moduletest.Must(t, err)
	_, other, err := signing.NewKey()
	moduletest.Must(t, err)
	otherKey, err := ParseKey(other)
	moduletest.Must(t, err)
	for name, row := range forms {
		signed := func(by signing.Signer, image v1.Hash) signing.Layer {
			layer, err := row.sign(by, image)
			moduletest.Must(t, err)
			return layer
		}
		ours := instance.Keyless(identity, issuer)
		const unlogged = "the transparency log of the trusted root does not have it"
		for _, row := range []struct {
			layer signing.Layer
			why   string
		}{
			{signed(ours, digestOf("another")), anotherImage},
			{signed(newInstance(t).Keyless(identity, issuer), image), unlogged},
			{signed(ours.At(time.Now().Add(20*time.Minute)), image), "its certificate was not valid when it was made"},
			{signed(byKey, image), unlogged},
		} {
			if _, _, err := parse(t, row.layer).Keyless(image, roots); err == nil || err.Error() != row.why {
				t.Errorf("%s: it is refused because %v, want: %s", name, err, row.why)
			}
		}
		for _, row := range []struct {
			layer signing.Layer
			why   string
		}{
			{signed(byKey, digestOf("another")), anotherImage},
			{signed(byKey, image), notByKey},
			{signed(ours, image), "it is by an identity, not by a key"},
		} {
			_, err := parse(t, row.layer).ByKey(image, otherKey)
			want := row.why
			if name != "simple signing" && want == anotherImage { // a statement is read once its signature is known to be right
				want = notByKey
			}
			if err == nil || err.Error() != want {
				t.Errorf("%s: it is refused because %v, want: %s", name, err, want)
			}
		}
	}
}

func TestChangedSignaturesAreRefused(t *testing.T) {
	instance, image := newInstance(t), digestOf("image")
	roots := rootsOf(t, instance)
	layer, err := instance.Keyless(identity, issuer).SimpleSigning(image)
	moduletest.Must(t, err)
	changed := layer
	changed.Content = bytes.Replace(layer.Content, []byte("registry.example"), []byte("registry.evil000"), 1)
	if _, _, err := parse(t, changed).Keyless(image, roots); err == nil {
		t.Error("a changed payload is accepted")
	}
	layer, err = instance.Keyless(identity, issuer).Bundle(digestOf("another"), signing.Signed)
	moduletest.Must(t, err)
	var content map[string]any
	moduletest.Must(t, json.Unmarshal(layer.Content, &content))
	mine, err := instance.Keyless(identity, issuer).Bundle(image, signing.Signed)
	moduletest.Must(t, err)
	var wanted map[string]any
	moduletest.Must(t, json.Unmarshal(mine.Content, &wanted))
	envelope := content["dsseEnvelope"].(map[string]any)
	envelope["payload"] = wanted["dsseEnvelope"].(map[string]any)["payload"]
	layer.Content, err = json.Marshal(content)
	moduletest.Must(t, err)
	if _, _, err := parse(t, layer).Keyless(image, roots); err == nil {
		t.Error("a statement under the signature of another one is accepted")
	}
}

func TestVerificationsAreRemembered(t *testing.T) {
	instance, image := newInstance(t), digestOf("image")
	layer, err := instance.Keyless(identity, issuer).Bundle(image, signing.Signed)
	moduletest.Must(t, err)
	signed, roots, others := parse(t, layer), rootsOf(t, instance), rootsOf(t, newInstance(t))
	for range 3 {
		if who, _, err := signed.Keyless(image, roots); err != nil || who.Subject != identity {
			t.Errorf("by its root: %v, %v", who, err)
		}
		if _, _, err := signed.Keyless(image, others); err == nil {
			t.Error("by another root it is accepted")
		}
		if _, _, err := signed.Keyless(digestOf("another"), roots); err == nil {
			t.Error("for another image it is accepted")
		}
	}
	if got := signed.verified.Len(); got != 3 {
		t.Errorf("%d verifications are remembered", got)
	}
}

func TestOtherStatementsDoNotCount(t *testing.T) {
	instance, image := newInstance(t), digestOf("image")
	layer, err := instance.Keyless(identity, issuer).Bundle(image, signing.Scanned)
	moduletest.Must(t, err)
	if _, _, err := parse(t, layer).Keyless(image, rootsOf(t, instance)); err == nil || !strings.Contains(err.Error(), "neither a signature nor its provenance") {
		t.Errorf("a scan is %v", err)
	}
}

func TestCertificatesMustBeInTheLogThatARootHas(t *testing.T) {
	instance, image := newInstance(t), digestOf("image")
	text, err := instance.TrustedRoot(true)
	moduletest.Must(t, err)
	roots, err := ParseRoots(text)
	moduletest.Must(t, err)
	for name, row := range forms {
		layer, err := row.sign(instance.Keyless(identity, issuer), image)
		moduletest.Must(t, err)
		if _, _, err := parse(t, layer).Keyless(image, roots); err == nil || !strings.Contains(err.Error(), "certificate transparency log") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A provenance that GitHub's own action has written, under the public instance of Sigstore,
// for a package of npm: all but its subject is right.
func TestPublicInstanceVerifiesWhatGitHubSigned(t *testing.T) {
	trusted := Roots{data.TrustedRoot(t, "public-good.json")}
	signed := Signature{bundle: data.Bundle(t, "sigstore.js@2.0.0-provenance.sigstore.json")}
	if _, _, err := signed.Keyless(digestOf("image"), trusted); err == nil || err.Error() != anotherImage {
		t.Errorf("it is refused because %v", err)
	}
}

func TestPanicsAreErrors(t *testing.T) {
	read := func() (err error) {
		defer survive(&err)
		var empty *Signature
		return errors.New(string(empty.payload))
	}
	if err := read(); err == nil || !strings.Contains(err.Error(), "it could not be read") {
		t.Errorf("a panic is %v", err)
	}
}

func TestBrokenLayersAreErrors(t *testing.T) {
	instance := newInstance(t)
	good, err := instance.Keyless(identity, issuer).SimpleSigning(digestOf("image"))
	moduletest.Must(t, err)
	with := func(annotation, value string) signing.Layer {
		changed := good
		changed.Annotations = map[string]string{}
		maps.Copy(changed.Annotations, good.Annotations)
		changed.Annotations[annotation] = value
		return changed
	}
	for name, layer := range map[string]signing.Layer{
		"an empty bundle":           {MediaType: signing.BundleType, Content: []byte("{}")},
		"a bundle that is no JSON":  {MediaType: signing.BundleType, Content: []byte("<html>")},
		"a signature not in base64": with(signatureAnnotation, "?"),
		"no signature":              with(signatureAnnotation, ""),
		"no certificate":            with(certificateAnnotation, "x"),
		"no log entry":              with(rekorAnnotation, "x"),
		"no timestamp":              with(timestampAnnotation, "x"),
	} {
		if _, err := ParseLayer(layer.Descriptor(), layer.Content); err == nil {
			t.Errorf("%s is read", name)
		}
	}
	for name, content := range map[string]string{"nothing": "", "no JSON": "x", "another object": `{"a": 1}`} {
		if _, err := ParseRoots([]byte(content)); err == nil {
			t.Errorf("%s is a trusted root", name)
		}
	}
	for name, content := range map[string]string{"nothing": "", "no key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := ParseKey(content); err == nil {
			t.Errorf("%s is a key", name)
		}
	}
}

func FuzzParseLayer(f *testing.F) {
	instance, err := signing.NewInstance()
	if err != nil {
		f.Fatal(err)
	}
	for _, row := range forms {
		layer, err := row.sign(instance.Keyless(identity, issuer), digestOf("image"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(layer.MediaType), layer.Annotations[signatureAnnotation], layer.Annotations[certificateAnnotation], layer.Annotations[rekorAnnotation], layer.Content)
	}
	text, err := instance.TrustedRoot(false)
	if err != nil {
		f.Fatal(err)
	}
	roots, err := ParseRoots(text)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, mediaType, signed, certificate, rekor string, content []byte) {
		layer := signing.Layer{MediaType: simpleSigning, Content: content, Annotations: map[string]string{
			signatureAnnotation: signed, certificateAnnotation: certificate, rekorAnnotation: rekor,
		}}
		if strings.HasPrefix(mediaType, bundlePrefix) {
			layer.MediaType = signing.BundleType
		}
		if parsed, err := ParseLayer(layer.Descriptor(), content); err == nil {
			_, _, _ = parsed.Keyless(digestOf("image"), roots)
		}
	})
}
