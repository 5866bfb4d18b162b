// Package policy decides whether a filter meets the FilterPolicies and
// ClusterFilterPolicies that apply to it. It reads nothing: what it needs to know of the
// module, its signatures and the trusted roots are parameters.
//
//	policy.go   policies, read once: keys, patterns, expressions and trusted roots
//	pattern.go  names of images
//	judge.go    what a filter breaks
//	count.go    how many of some signers have signed
package policy

import (
	"crypto"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/trust"
)

// maxInstructions bounds the expressions of a policy together, compiled: some 50 bytes each
// are kept, and each is tried on every letter of a subject.
const maxInstructions = 16 << 10

// Policy is one that was read. Its methods may be called concurrently.
type Policy struct {
	// Name is how messages call it, such as FilterPolicy signed.
	Name string
	wasmev1.FilterPolicySpec
	// Roots are those of spec.trustedRoot; nil without it.
	Roots trust.Roots

	images []imageRule
	// namespaces selects by their labels those where the policy applies; nil for all.
	namespaces labels.Selector
	// invalid says what is wrong with it.
	invalid error
}

// imageRule is an entry of spec.images.
type imageRule struct {
	patterns []pattern
	allOf    []signer
	anyOf    []signer
	minimum  int
}

// signer is one with its key, or with its identity.
type signer struct {
	name   string
	key    crypto.PublicKey
	issuer string
	// subject is matched if there is no expression.
	subject    string
	expression *regexp.Regexp
}

// Read reads a policy. What is wrong with it is found by Judge: nothing meets it.
func Read(name string, spec wasmev1.FilterPolicySpec) *Policy {
	p := &Policy{Name: name, FilterPolicySpec: spec}
	p.invalid = p.read()
	return p
}

// ReadCluster reads a ClusterFilterPolicy. One whose selector cannot be read applies
// everywhere.
func ReadCluster(name string, spec wasmev1.ClusterFilterPolicySpec) *Policy {
	p := Read(name, spec.FilterPolicySpec)
	if spec.NamespaceSelector == nil {
		return p
	}
	selector, err := metav1.LabelSelectorAsSelector(spec.NamespaceSelector)
	if err != nil {
		p.invalid = fmt.Errorf("spec.namespaceSelector: %w", err)
		return p
	}
	p.namespaces = selector
	return p
}

// SelectsNamespaces reports whether it depends on the labels of a namespace whether the
// policy applies there.
func (p *Policy) SelectsNamespaces() bool { return p.namespaces != nil }

// AppliesTo reports whether the policy applies in a namespace with these labels.
func (p *Policy) AppliesTo(namespace labels.Set) bool {
	return p.namespaces == nil || p.namespaces.Matches(namespace)
}

func (p *Policy) read() error {
	if p.TrustedRoot != nil {
		var err error
		if p.Roots, err = trust.ParseRoots([]byte(p.TrustedRoot.Inline)); err != nil {
			return fmt.Errorf("spec.trustedRoot.inline: %w", err)
		}
	}
	reader := &reader{instructions: maxInstructions}
	for i, rule := range p.Images {
		read, err := reader.rule(rule)
		if err != nil {
			return fmt.Errorf("spec.images[%d].%w", i, err)
		}
		p.images = append(p.images, read)
	}
	return nil
}

// reader reads the entries of a policy.
type reader struct {
	// instructions are left for expressions.
	instructions int
}

func (r *reader) rule(rule wasmev1.ImageRule) (imageRule, error) {
	read := imageRule{}
	for i, text := range rule.Patterns {
		one, err := readPattern(text)
		if err != nil {
			return read, fmt.Errorf("patterns[%d]: %q is not a pattern: %w", i, text, err)
		}
		read.patterns = append(read.patterns, one)
	}
	if rule.Signers == nil {
		return read, nil
	}
	var err error
	if read.allOf, err = r.signers("signers.allOf", rule.Signers.AllOf); err != nil {
		return read, err
	}
	if anyOf := rule.Signers.AnyOf; anyOf != nil {
		read.minimum = int(ptr.Deref(anyOf.Minimum, 1))
		read.anyOf, err = r.signers("signers.anyOf.signers", anyOf.Signers)
	}
	return read, err
}

func (r *reader) signers(field string, specs []wasmev1.Signer) ([]signer, error) {
	var all []signer
	for i, spec := range specs {
		one := signer{name: spec.Name}
		var err error
		switch {
		case spec.Key != nil:
			if one.key, err = trust.ParseKey(spec.Key.PEM); err != nil {
				return nil, fmt.Errorf("%s[%d].key.pem: %w", field, i, err)
			}
		case spec.Keyless != nil:
			one.issuer, one.subject = spec.Keyless.Issuer, spec.Keyless.Subject
			if one.expression, err = r.expression(spec.Keyless.SubjectRegExp); err != nil {
				return nil, fmt.Errorf("%s[%d].keyless.subjectRegExp: %w", field, i, err)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// expression compiles an expression, if there is one, that whole texts must match. Its size
// is known before it takes that.
func (r *reader) expression(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, errors.New("it is not a regular expression (RE2)")
	}
	if r.instructions -= instructionsOf(parsed); r.instructions < 0 {
		return nil, fmt.Errorf("the expressions of the policy are too large, more than %d instructions: use smaller counts in {}, or fewer classes of letters", maxInstructions)
	}
	return regexp.Compile(`\A(?:` + text + `)\z`)
}

// instructionsOf estimates how large an expression is when it is compiled: what is repeated
// n times is there n times.
func instructionsOf(expression *syntax.Regexp) int {
	size := len(expression.Rune)
	for _, sub := range expression.Sub {
		size += instructionsOf(sub)
	}
	switch expression.Op {
	case syntax.OpLiteral:
		return size
	case syntax.OpRepeat:
		return size * max(expression.Min, expression.Max, 1)
	}
	return size + 1
}

// rulesFor returns the entries that an image matches.
func (p *Policy) rulesFor(repository string) []imageRule {
	var all []imageRule
	for _, rule := range p.images {
		if slices.ContainsFunc(rule.patterns, func(one pattern) bool { return one.matches(repository) }) {
			all = append(all, rule)
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
// (RepositoryOf); empty for other modules. Nothing is needed for a policy that is invalid.
func (p *Policy) Needs(repository string) Needs {
	if p.invalid != nil {
		return Needs{}
	}
	needs := Needs{Capabilities: len(p.DeniedCapabilities) > 0}
	if repository == "" { // images do not apply
		return needs
	}
	for _, rule := range p.rulesFor(repository) {
		for _, one := range slices.Concat(rule.allOf, rule.anyOf) {
			needs.Signatures = true
			needs.Roots = needs.Roots || one.key == nil
		}
	}
	return needs
}
