package policy

import (
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

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

// repeated is a signer with an expression of n thousand letters.
func repeated(n int) wasmev1.Signer {
	return wasmev1.Signer{Name: "x", Keyless: &wasmev1.SignerIdentity{Issuer: issuer, SubjectRegExp: strings.Repeat("a{1000}", n)}}
}

func rule(pattern string, signers *wasmev1.Signers) []wasmev1.ImageRule {
	return []wasmev1.ImageRule{{Patterns: []string{pattern}, Signers: signers}}
}

func TestJudge(t *testing.T) {
	f := newFixture(t)
	ours, theirs := f.signed(f.instance.Keyless(release, issuer)), f.signed(f.instance.Keyless("mallory@evil.example", issuer))
	anna, berta := f.signed(f.keys["anna"]), f.signed(f.keys["berta"])
	sameKey := wasmev1.Signer{Name: "anna again", Key: f.key("anna").Key}
	anyone := wasmev1.Signer{Name: "anyone", Keyless: &wasmev1.SignerIdentity{Issuer: issuer, SubjectRegExp: ".*"}}
	twoOf := func(signers ...wasmev1.Signer) *wasmev1.Signers {
		return &wasmev1.Signers{AnyOf: &wasmev1.AnyOfSigners{Minimum: new(int32(2)), Signers: signers}}
	}
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
			reason: wasmev1.ReasonImageDenied, message: "no pattern of the policy's spec.images matches ghcr.io/acme/add-header: use another image",
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
		"too few have signed":        {spec: wasmev1.FilterPolicySpec{Images: rule("**", anyOf(2))}, signatures: []trust.Signature{anna, anna}, reason: wasmev1.ReasonNotSigned, message: "1 of anna, berta, carl has signed the image " + image.String() + ", 2 must"},
		"enough have signed":         {spec: wasmev1.FilterPolicySpec{Images: rule("**", anyOf(2))}, signatures: []trust.Signature{anna, berta}},
		"one identity counts once":   {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(keyless(release), expression, anyone))}, signatures: []trust.Signature{ours, ours}, reason: wasmev1.ReasonNotSigned, message: "1 of ci, "},
		"one key counts once":        {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(f.key("anna"), sameKey))}, signatures: []trust.Signature{anna}, reason: wasmev1.ReasonNotSigned, message: "1 of anna, anna again has signed"},
		"one signer counts once":     {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(anyone, f.key("anna")))}, signatures: []trust.Signature{ours, theirs}, reason: wasmev1.ReasonNotSigned, message: "1 of anyone, anna has signed"},
		"two people, in any order":   {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(anyone, keyless(release)))}, signatures: []trust.Signature{ours, theirs}},
		"two people, the other way":  {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(keyless(release), anyone))}, signatures: []trust.Signature{ours, theirs}},
		"a person and a key":         {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(anyone, f.key("anna")))}, signatures: []trust.Signature{ours, anna}},
		"nobody of two":              {spec: wasmev1.FilterPolicySpec{Images: rule("**", twoOf(anyone, f.key("anna")))}, signatures: []trust.Signature{berta}, reason: wasmev1.ReasonNotSigned, message: "0 of anyone, anna have signed the image"},
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
		"a broken pattern":    {spec: wasmev1.FilterPolicySpec{Images: rule("ghcr.io/{a,b}", nil)}, reason: wasmev1.ReasonPolicyInvalid, message: `spec.images[0].patterns[0]: "ghcr.io/{a,b}" is not a pattern: use letters, digits and ._:/- with the wildcards * and **`},
		"a broken root":       {spec: wasmev1.FilterPolicySpec{TrustedRoot: &wasmev1.TrustedRoot{Inline: "<html>"}}, reason: wasmev1.ReasonPolicyInvalid, message: "spec.trustedRoot.inline: it is not JSON"},
		"large expressions":   {spec: wasmev1.FilterPolicySpec{Images: rule("**", allOf(repeated(10), repeated(10)))}, reason: wasmev1.ReasonPolicyInvalid, message: "allOf[1].keyless.subjectRegExp: the expressions of the policy are too large, more than 16384 instructions"},
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

func TestNothingIsNeededForAnInvalidPolicy(t *testing.T) {
	spec := wasmev1.FilterPolicySpec{
		DeniedCapabilities: []wasmev1.Capability{wasmev1.CapabilityMetrics},
		Images:             append(rule("**", &wasmev1.Signers{AllOf: []wasmev1.Signer{keyless(release)}}), rule("?", nil)...),
	}
	if got := Read("p", spec).Needs("ghcr.io/acme/filter"); got != (Needs{}) {
		t.Errorf("%+v", got)
	}
}

func TestSignersAreForImagesOnly(t *testing.T) {
	spec := wasmev1.FilterPolicySpec{Images: rule("**", &wasmev1.Signers{AllOf: []wasmev1.Signer{keyless(release)}})}
	if got := Read("p", spec).Needs(""); got != (Needs{}) {
		t.Errorf("%+v", got)
	}
}

func TestStricterEntriesHoldHoweverAnImageIsWritten(t *testing.T) {
	spec := wasmev1.FilterPolicySpec{Images: append(
		rule("ghcr.io/acme/payments/**", &wasmev1.Signers{AllOf: []wasmev1.Signer{keyless(release)}}), rule("**", nil)...)}
	for _, written := range []string{"ghcr.io/acme/payments/x", "GHCR.io:443/acme/payments/x"} {
		reference, err := name.ParseReference(written)
		moduletest.Must(t, err)
		got := Read("p", spec).Judge(Subject{Repository: RepositoryOf(reference), Image: image}, nil)
		if len(got.Violations) != 1 || got.Violations[0].Reason != wasmev1.ReasonNotSigned {
			t.Errorf("%s: %v", written, got.Violations)
		}
	}
}

func TestPoliciesOfTheClusterApplyWhereTheySelect(t *testing.T) {
	selecting := func(by *metav1.LabelSelector) *Policy {
		return ReadCluster("ClusterFilterPolicy p", wasmev1.ClusterFilterPolicySpec{NamespaceSelector: by})
	}
	team := labels.Set{"team": "a"}
	for name, row := range map[string]struct {
		policy           *Policy
		applies, selects bool
	}{
		"all":           {selecting(nil), true, false},
		"this one":      {selecting(&metav1.LabelSelector{MatchLabels: team}), true, true},
		"another one":   {selecting(&metav1.LabelSelector{MatchLabels: labels.Set{"team": "b"}}), false, true},
		"all, by label": {selecting(&metav1.LabelSelector{}), true, true},
	} {
		if row.policy.AppliesTo(team) != row.applies || row.policy.SelectsNamespaces() != row.selects {
			t.Errorf("%s: it applies: %v, by labels: %v", name, row.policy.AppliesTo(team), row.policy.SelectsNamespaces())
		}
		if got := row.policy.Judge(Subject{}, nil); len(got.Violations) > 0 {
			t.Errorf("%s: %v", name, got.Violations)
		}
	}
	broken := selecting(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpIn}}})
	got := broken.Judge(Subject{}, nil)
	if !broken.AppliesTo(nil) || len(got.Violations) != 1 || got.Violations[0].Reason != wasmev1.ReasonPolicyInvalid || !strings.Contains(got.Violations[0].Message, "ClusterFilterPolicy p: spec.namespaceSelector: ") {
		t.Errorf("a selector that cannot be read: applies %v, %v", broken.AppliesTo(nil), got.Violations)
	}
}

// What an expression is estimated to take is what it takes, within a factor.
func TestInstructionsAreEstimated(t *testing.T) {
	for _, text := range []string{
		"a", `https://github\.com/acme/[^/]+/\.github/workflows/release\.yaml@refs/tags/v.+`, "a{1000}", "(a{30}){30}", "(a|bc|[d-f]*){2,50}", "(ab?){7,}x+", `(\w+\.){20}`,
	} {
		parsed, err := syntax.Parse(text, syntax.Perl)
		moduletest.Must(t, err)
		program, err := syntax.Compile(parsed.Simplify())
		moduletest.Must(t, err)
		if got, is := instructionsOf(parsed), len(program.Inst); got < is/3 || got > 5*is {
			t.Errorf("%s is estimated at %d instructions, and has %d", text, got, is)
		}
	}
}
