package policy

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/trust"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/signing"
)

const (
	issuer  = "https://issuer.example"
	release = "release@acme.example"
)

var image = v1.Hash{Algorithm: "sha256", Hex: moduletest.SHA256("image")}

// fixture has a Sigstore instance, and signers with keys.
type fixture struct {
	t        *testing.T
	instance *signing.Instance
	roots    trust.Roots
	keys     map[string]signing.Signer
	pem      map[string]string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	instance, err := signing.NewInstance()
	moduletest.Must(t, err)
	text, err := instance.TrustedRoot(false)
	moduletest.Must(t, err)
	roots, err := trust.ParseRoots(text)
	moduletest.Must(t, err)
	f := &fixture{t: t, instance: instance, roots: roots, keys: map[string]signing.Signer{}, pem: map[string]string{}}
	for _, name := range []string{"anna", "berta", "carl"} {
		f.keys[name], f.pem[name], err = signing.NewKey()
		moduletest.Must(t, err)
	}
	return f
}

func (f *fixture) key(name string) wasmev1.Signer {
	return wasmev1.Signer{Name: name, Key: &wasmev1.SignerKey{PEM: f.pem[name]}}
}

func (f *fixture) signed(by signing.Signer) trust.Signature {
	f.t.Helper()
	layer, err := by.SimpleSigning(image)
	moduletest.Must(f.t, err)
	parsed, err := trust.ParseLayer(layer.Descriptor(), layer.Content)
	moduletest.Must(f.t, err)
	return parsed
}

func keyless(subject string) wasmev1.Signer {
	return wasmev1.Signer{Name: "ci", Keyless: &wasmev1.SignerIdentity{Issuer: issuer, Subject: subject}}
}

func rule(pattern string, signers *wasmev1.Signers) []wasmev1.ImageRule {
	return []wasmev1.ImageRule{{Patterns: []string{pattern}, Signers: signers}}
}

func TestJudge(t *testing.T) {
	f := newFixture(t)
	ours, theirs := f.signed(f.instance.Keyless(release, issuer)), f.signed(f.instance.Keyless("mallory@evil.example", issuer))
	anna, berta := f.signed(f.keys["anna"]), f.signed(f.keys["berta"])
	anyOf := func(minimum int32) *wasmev1.Signers {
		return &wasmev1.Signers{AnyOf: &wasmev1.AnyOfSigners{Minimum: new(minimum), Signers: []wasmev1.Signer{f.key("anna"), f.key("berta"), f.key("carl")}}}
	}
	allOf := func(signers ...wasmev1.Signer) *wasmev1.Signers { return &wasmev1.Signers{AllOf: signers} }
	expression := wasmev1.Signer{Name: "ci", Keyless: &wasmev1.SignerIdentity{Issuer: issuer, SubjectRegExp: `release@acme\.(example|test)`}}
	fromURL := Subject{Filter: wasmev1.FilterSpec{URL: "https://acme.example/x.wasm"}}
	const acme = "ghcr.io/acme/add-header"
	for name, row := range map[string]struct {
		spec       wasmev1.FilterPolicySpec
		subject    Subject
		signatures []trust.Signature
		reason     string // empty: it meets the policy
		message    string
	}{
		"an empty policy": {},
		"an allowed source": {
			spec: wasmev1.FilterPolicySpec{Sources: []wasmev1.ModuleSource{wasmev1.SourceImage}},
		},
		"a denied source": {
			spec: wasmev1.FilterPolicySpec{Sources: []wasmev1.ModuleSource{wasmev1.SourceImage, wasmev1.SourceConfigMap}}, subject: fromURL,
			reason: wasmev1.ReasonSourceDenied, message: "modules must not come from spec.filter.url: use image or configMap",
		},
		"images do not concern other sources": {
			spec: wasmev1.FilterPolicySpec{Images: rule("ghcr.io/**", nil)}, subject: fromURL,
		},
		"a denied failStrategy": {
			spec:   wasmev1.FilterPolicySpec{FailStrategies: []wasmev1.FailStrategy{wasmev1.FailClosed}},
			reason: wasmev1.ReasonFailStrategyDenied, message: "spec.filter.failStrategy must not be FailReload: use FailClosed",
		},
		"a denied capability": {
			spec:    wasmev1.FilterPolicySpec{DeniedCapabilities: []wasmev1.Capability{wasmev1.CapabilityHTTPCalls}},
			subject: Subject{Capabilities: []wasmev1.Capability{wasmev1.CapabilityHTTPCalls, wasmev1.CapabilityMetrics}},
			reason:  wasmev1.ReasonCapabilityDenied, message: "the module imports functions for HTTPCalls: use a module without them",
		},
		"an image that no pattern matches": {
			spec:   wasmev1.FilterPolicySpec{Images: rule("ghcr.io/other/*", nil)},
			reason: wasmev1.ReasonImageDenied, message: "spec.images has no pattern for ghcr.io/acme/add-header",
		},
		"one star is one part": {
			spec: wasmev1.FilterPolicySpec{Images: rule("ghcr.io/*", nil)}, reason: wasmev1.ReasonImageDenied,
		},
		"two stars are any":          {spec: wasmev1.FilterPolicySpec{Images: rule("ghcr.io/**", nil)}},
		"a host is not a prefix":     {spec: wasmev1.FilterPolicySpec{Images: rule("ghcr.i*/acme/*", nil)}},
		"another host is no match":   {spec: wasmev1.FilterPolicySpec{Images: rule("*.example/acme/*", nil)}, reason: wasmev1.ReasonImageDenied},
		"nothing signed":             {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(f.key("anna")))}, reason: wasmev1.ReasonNotSigned, message: "anna has not signed the image " + image.String() + ": the registry has no signature of it"},
		"signed by key":              {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(f.key("anna")))}, signatures: []trust.Signature{theirs, anna}},
		"all must sign":              {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(f.key("anna"), f.key("berta")))}, signatures: []trust.Signature{anna}, reason: wasmev1.ReasonNotSigned, message: "berta has not signed"},
		"all have signed":            {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(f.key("anna"), f.key("berta")))}, signatures: []trust.Signature{anna, berta}},
		"too few have signed":        {spec: wasmev1.FilterPolicySpec{Images: rule("**", anyOf(2))}, signatures: []trust.Signature{anna, anna}, reason: wasmev1.ReasonNotSigned, message: "1 of the 2 signers that are needed (anna, berta, carl) have signed"},
		"enough have signed":         {spec: wasmev1.FilterPolicySpec{Images: rule("**", anyOf(2))}, signatures: []trust.Signature{anna, berta}},
		"keyless":                    {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(keyless(release)))}, signatures: []trust.Signature{ours}},
		"keyless by expression":      {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(expression))}, signatures: []trust.Signature{ours}},
		"somebody else":              {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(keyless(release)))}, signatures: []trust.Signature{theirs}, reason: wasmev1.ReasonNotSigned, message: "one is by mallory@evil.example (https://issuer.example)"},
		"a subject is not a prefix":  {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(keyless("release@acme")))}, signatures: []trust.Signature{ours}, reason: wasmev1.ReasonNotSigned},
		"a subject is not a pattern": {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(keyless("release@acme.exampl.")))}, signatures: []trust.Signature{ours}, reason: wasmev1.ReasonNotSigned},
		"another issuer": {
			spec:       wasmev1.FilterPolicySpec{Images: rule("**", allOf(wasmev1.Signer{Name: "ci", Keyless: &wasmev1.SignerIdentity{Issuer: issuer + ".evil", Subject: release}}))},
			signatures: []trust.Signature{ours}, reason: wasmev1.ReasonNotSigned,
		},
		"all entries that match hold": {
			spec:       wasmev1.FilterPolicySpec{Images: append(rule("ghcr.io/acme/*", nil), rule("ghcr.io/**", allOf(f.key("carl")))...)},
			signatures: []trust.Signature{anna}, reason: wasmev1.ReasonNotSigned, message: "carl has not signed",
		},
		"a broken key":        {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(wasmev1.Signer{Name: "x", Key: &wasmev1.SignerKey{PEM: "x"}}))}, reason: wasmev1.ReasonPolicyInvalid, message: "spec.images[0].signers.allOf[0].key.pem: it is not one key in PEM"},
		"a broken expression": {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(wasmev1.Signer{Name: "x", Keyless: &wasmev1.SignerIdentity{Issuer: issuer, SubjectRegExp: "("}}))}, reason: wasmev1.ReasonPolicyInvalid, message: "keyless.subjectRegExp: it is not a regular expression (RE2)"},
		"a broken pattern":    {spec: wasmev1.FilterPolicySpec{Images: rule("ghcr.io/[", nil)}, reason: wasmev1.ReasonPolicyInvalid, message: `spec.images[0].patterns[0]: "ghcr.io/[" is not a pattern: close its brackets`},
	} {
		subject := row.subject
		subject.Filter.FailStrategy, subject.Image, subject.Signatures = wasmev1.FailReload, image, row.signatures
		if subject.Filter.URL == "" {
			subject.Repository = acme
		}
		got := Read("FilterPolicy p", row.spec).Judge(subject, f.roots)
		switch {
		case row.reason == "" && len(got.Violations) > 0:
			t.Errorf("%s: %v", name, got.Violations)
		case row.reason == "":
		case len(got.Violations) != 1 || got.Violations[0].Reason != row.reason || !strings.Contains(got.Violations[0].Message, row.message):
			t.Errorf("%s: %v, want %s: %s", name, got.Violations, row.reason, row.message)
		case !strings.HasPrefix(got.Violations[0].Message, "FilterPolicy p: "):
			t.Errorf("%s: %q does not name the policy", name, got.Violations[0].Message)
		}
	}
}

func TestJudgementNamesTheSigners(t *testing.T) {
	f := newFixture(t)
	spec := wasmev1.FilterPolicySpec{Images: rule("**", &wasmev1.Signers{
		AllOf: []wasmev1.Signer{keyless(release)},
		AnyOf: &wasmev1.AnyOfSigners{Signers: []wasmev1.Signer{f.key("anna"), f.key("berta")}},
	})}
	got := Read("p", spec).Judge(Subject{
		Repository: "ghcr.io/acme/x", Image: image,
		Signatures: []trust.Signature{f.signed(f.keys["berta"]), f.signed(f.instance.Keyless(release, issuer))},
	}, f.roots)
	if len(got.Violations) > 0 || strings.Join(got.By, " ") != "ci berta" || got.Form != wasmev1.SignatureTag {
		t.Errorf("the judgement is %+v", got)
	}
}

func TestNeedsAreThoseOfTheEntriesThatMatch(t *testing.T) {
	f := newFixture(t)
	spec := wasmev1.FilterPolicySpec{
		DeniedCapabilities: []wasmev1.Capability{wasmev1.CapabilityMetrics},
		Images: append(rule("docker.io/library/**", &wasmev1.Signers{AllOf: []wasmev1.Signer{f.key("anna")}}),
			rule("ghcr.io/**", &wasmev1.Signers{AllOf: []wasmev1.Signer{keyless(release)}})...),
	}
	for repository, want := range map[string]Needs{
		"":                               {Capabilities: true},
		"quay.io/acme/filter":            {Capabilities: true},
		"index.docker.io/library/filter": {Capabilities: true, Signatures: true},
		"ghcr.io/acme/filter":            {Capabilities: true, Signatures: true, Roots: true},
	} {
		if got := Read("p", spec).Needs(repository); got != want {
			t.Errorf("%q: %+v, want %+v", repository, got, want)
		}
	}
}
