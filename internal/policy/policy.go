// Package policy decides whether a filter meets the FilterPolicies and
// ClusterFilterPolicies that apply to it. It reads nothing: what it needs to know of the
// module, its signatures and the trusted roots are parameters.
//
//	policy.go  policies, read once: keys, patterns and expressions
//	judge.go   what a filter breaks
package policy

import (
	"crypto"
	"fmt"
	"regexp"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/trust"
)

// Policy is one that applies to a filter.
type Policy struct {
	// Name is how messages call it, such as FilterPolicy signed.
	Name string
	wasmev1.FilterPolicySpec

	images []imageRule
	// invalid says what is wrong with it.
	invalid error
}

// imageRule is an entry of spec.images.
type imageRule struct {
	patterns []string
	allOf    []signer
	anyOf    []signer
	minimum  int
}

// signer is one with its key or expression.
type signer struct {
	name    string
	key     crypto.PublicKey
	issuer  string
	subject *regexp.Regexp
}

// Read reads a policy. What is wrong with it is found by Judge: nothing meets it.
func Read(name string, spec wasmev1.FilterPolicySpec) Policy {
	p := Policy{Name: name, FilterPolicySpec: spec}
	for i, rule := range spec.Images {
		read, err := readRule(rule)
		if err != nil {
			p.invalid = fmt.Errorf("spec.images[%d].%w", i, err)
			break
		}
		p.images = append(p.images, read)
	}
	return p
}

func readRule(rule wasmev1.ImageRule) (imageRule, error) {
	read := imageRule{}
	for i, pattern := range rule.Patterns {
		if !doublestar.ValidatePattern(pattern) {
			return read, fmt.Errorf("patterns[%d]: %q is not a pattern: close its brackets", i, pattern)
		}
		read.patterns = append(read.patterns, canonical(pattern))
	}
	if rule.Signers == nil {
		return read, nil
	}
	var err error
	if read.allOf, err = readSigners("signers.allOf", rule.Signers.AllOf); err != nil {
		return read, err
	}
	if anyOf := rule.Signers.AnyOf; anyOf != nil {
		read.minimum = int(ptr.Deref(anyOf.Minimum, 1))
		read.anyOf, err = readSigners("signers.anyOf.signers", anyOf.Signers)
	}
	return read, err
}

// canonical returns the pattern for the names that references have: Docker Hub's is
// index.docker.io there.
func canonical(pattern string) string {
	if path, hub := strings.CutPrefix(pattern, "docker.io/"); hub {
		return "index.docker.io/" + path
	}
	return pattern
}

func readSigners(field string, specs []wasmev1.Signer) ([]signer, error) {
	var all []signer
	for i, spec := range specs {
		one := signer{name: spec.Name}
		switch {
		case spec.Key != nil:
			key, err := trust.ParseKey(spec.Key.PEM)
			if err != nil {
				return nil, fmt.Errorf("%s[%d].key.pem: %w", field, i, err)
			}
			one.key = key
		case spec.Keyless != nil:
			expression := spec.Keyless.SubjectRegExp
			if expression == "" {
				expression = regexp.QuoteMeta(spec.Keyless.Subject)
			}
			subject, err := regexp.Compile(`\A(?:` + expression + `)\z`)
			if err != nil {
				return nil, fmt.Errorf("%s[%d].keyless.subjectRegExp: it is not a regular expression (RE2)", field, i)
			}
			one.issuer, one.subject = spec.Keyless.Issuer, subject
		}
		all = append(all, one)
	}
	return all, nil
}

// rulesFor returns the entries that an image matches.
func (p Policy) rulesFor(repository string) []imageRule {
	var all []imageRule
	for _, rule := range p.images {
		for _, pattern := range rule.patterns {
			if doublestar.MatchUnvalidated(pattern, repository) {
				all = append(all, rule)
				break
			}
		}
	}
	return all
}

// Needs are what deciding takes beside the spec.
type Needs struct {
	// Signatures says that those of the image must be known.
	Signatures bool
	// Roots says that the trusted root must be known.
	Roots bool
	// Capabilities says that the module's must be known.
	Capabilities bool
}

// With returns what deciding about two policies takes.
func (n Needs) With(other Needs) Needs {
	return Needs{n.Signatures || other.Signatures, n.Roots || other.Roots, n.Capabilities || other.Capabilities}
}

// Needs returns what must be known of an image to decide about it. Repository is its name
// without tag and digest (name.Repository); empty for other modules.
func (p Policy) Needs(repository string) Needs {
	needs := Needs{Capabilities: len(p.DeniedCapabilities) > 0}
	for _, rule := range p.rulesFor(repository) {
		for _, one := range append(rule.allOf, rule.anyOf...) {
			needs.Signatures = true
			needs.Roots = needs.Roots || one.key == nil
		}
	}
	return needs
}
