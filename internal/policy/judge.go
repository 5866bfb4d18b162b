package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/trust"
)

// Subject is what is decided about.
type Subject struct {
	Filter wasmev1.FilterSpec
	// Repository is the image's name (RepositoryOf); empty for other modules.
	Repository string
	// Image is the digest that the reference had.
	Image v1.Hash
	// Signatures are those that the registry has for that digest.
	Signatures []trust.Signature
	// Unreadable are what the registry has there and is not a signature.
	Unreadable []error
	// Capabilities are those of the module.
	Capabilities []wasmev1.Capability
}

// Violation is what a filter breaks of a policy.
type Violation struct {
	// Reason is one of the condition Admitted.
	Reason string
	// Message names the policy, the field and the fix.
	Message string
}

// Judgement is what a policy says of a filter.
type Judgement struct {
	// Violations are what the filter breaks; none when it meets the policy.
	Violations []Violation
	// By are the names of the signers that have signed, and Form is that of the first one.
	By   []string
	Form wasmev1.SignatureForm
}

// Judge says what a filter breaks of a policy. Roots are those of the policy.
func (p *Policy) Judge(subject Subject, roots trust.Roots) Judgement {
	var found Judgement
	broken := func(reason, format string, args ...any) {
		found.Violations = append(found.Violations, Violation{reason, p.Name + ": " + fmt.Sprintf(format, args...)})
	}
	if p.invalid != nil {
		broken(wasmev1.ReasonPolicyInvalid, "%v", p.invalid)
		return found
	}
	if source := sourceOf(subject.Filter); len(p.Sources) > 0 && !slices.Contains(p.Sources, source) {
		broken(wasmev1.ReasonSourceDenied, "modules must not come from spec.filter.%s: use %s", fields[source], list(p.Sources, func(s wasmev1.ModuleSource) string { return fields[s] }))
	}
	if strategy := subject.Filter.FailStrategy; len(p.FailStrategies) > 0 && !slices.Contains(p.FailStrategies, strategy) {
		broken(wasmev1.ReasonFailStrategyDenied, "spec.filter.failStrategy must not be %s: use %s", strategy, list(p.FailStrategies, func(s wasmev1.FailStrategy) string { return string(s) }))
	}
	for _, capability := range subject.Capabilities {
		if slices.Contains(p.DeniedCapabilities, capability) {
			broken(wasmev1.ReasonCapabilityDenied, "the module imports functions for %s: use a module without them", capability)
		}
	}
	if subject.Repository == "" || len(p.images) == 0 {
		return found
	}
	rules := p.rulesFor(subject.Repository)
	if len(rules) == 0 {
		broken(wasmev1.ReasonImageDenied, "no pattern of the policy's spec.images matches %s: use another image, or add a pattern to the policy", subject.Repository)
	}
	evidence := claimsOf(subject, roots)
	for _, rule := range rules {
		for _, lack := range rule.check(evidence, &found) {
			broken(wasmev1.ReasonNotSigned, "%s%s", lack, evidence.describe())
		}
	}
	return found
}

// fields are those of spec.filter that name a source.
var fields = map[wasmev1.ModuleSource]string{
	wasmev1.SourceImage: "image", wasmev1.SourceURL: "url", wasmev1.SourceConfigMap: "configMap",
}

func sourceOf(filter wasmev1.FilterSpec) wasmev1.ModuleSource {
	switch {
	case filter.ConfigMap != nil:
		return wasmev1.SourceConfigMap
	case filter.URL != "":
		return wasmev1.SourceURL
	}
	return wasmev1.SourceImage
}

func list[T any](things []T, name func(T) string) string {
	names := make([]string, 0, len(things))
	for _, thing := range things {
		names = append(names, name(thing))
	}
	return strings.Join(names, " or ")
}

// evidence is all that shows who has signed an image.
type evidence struct {
	image      v1.Hash
	claims     []claim
	unreadable int
	// rootless says that no identity could be verified.
	rootless bool
}

// claim is a signature, with the identity that it proves, or why it proves none.
type claim struct {
	trust.Signature
	who  trust.Identity
	form wasmev1.SignatureForm
	err  error
}

func claimsOf(subject Subject, roots trust.Roots) evidence {
	all := evidence{image: subject.Image, unreadable: len(subject.Unreadable), rootless: len(roots) == 0}
	for _, signature := range subject.Signatures {
		one := claim{Signature: signature}
		one.who, one.form, one.err = signature.Keyless(subject.Image, roots)
		all.claims = append(all.claims, one)
	}
	return all
}

// check returns who has not signed, and notes who has.
func (r imageRule) check(shown evidence, found *Judgement) []string {
	var lacks []string
	for _, one := range r.allOf {
		if !one.hasSigned(shown, found) {
			lacks = append(lacks, fmt.Sprintf("%s has not signed the image %s", one.name, shown.image))
		}
	}
	if signed := r.countAnyOf(shown, found); signed < r.minimum {
		names := condition.Enumerate(r.anyOf, ", ", func(s signer) string { return s.name })
		have := "has"
		if signed != 1 {
			have = "have"
		}
		lacks = append(lacks, fmt.Sprintf("%d of %s %s signed the image %s, %d must", signed, names, have, shown.image, r.minimum))
	}
	return lacks
}

func (s signer) hasSigned(shown evidence, found *Judgement) bool {
	for _, one := range shown.claims {
		if form, signed := s.made(one, shown.image); signed {
			found.note(s, form)
			return true
		}
	}
	return false
}

// note notes that a signer has signed.
func (j *Judgement) note(by signer, form wasmev1.SignatureForm) {
	if !slices.Contains(j.By, by.name) {
		j.By = append(j.By, by.name)
	}
	j.Form = cmp.Or(j.Form, form)
}

// made reports whether the signer has made a signature, and how it is attached.
func (s signer) made(one claim, image v1.Hash) (wasmev1.SignatureForm, bool) {
	if s.key != nil {
		form, err := one.ByKey(image, s.key)
		return form, err == nil
	}
	return one.form, one.err == nil && s.is(one.who)
}

// is reports whether an identity is the signer's.
func (s signer) is(who trust.Identity) bool {
	switch {
	case who.Issuer != s.issuer:
		return false
	case s.expression != nil:
		return s.expression.MatchString(who.Subject)
	}
	return who.Subject == s.subject
}

// describe says which signatures the image has.
func (e evidence) describe() string {
	if len(e.claims)+e.unreadable == 0 {
		return ": the registry has no signature of it: sign it with cosign"
	}
	lines := make([]string, 0, len(e.claims)+e.unreadable)
	for _, one := range e.claims {
		switch {
		case e.rootless:
			lines = append(lines, "one is not by a key of the policy, or is for another image")
		case one.err != nil:
			lines = append(lines, "one does not count, because "+one.err.Error())
		default:
			lines = append(lines, fmt.Sprintf("one is by %s (%s)", one.who.Subject, one.who.Issuer))
		}
	}
	for range e.unreadable {
		lines = append(lines, "one cannot be read")
	}
	slices.Sort(lines)
	return "; of its signatures, " + condition.Enumerate(slices.Compact(lines), ", ", func(line string) string { return line })
}
