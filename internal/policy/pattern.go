package policy

import (
	"errors"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// RepositoryOf returns the name of an image, without tag and digest, to which patterns are
// compared. All ways to write a name that lead to the same place have the same one, so
// that none of them avoids a pattern.
func RepositoryOf(image name.Reference) string {
	return canonicalHost(image.Context().RegistryStr()) + "/" + image.Context().RepositoryStr()
}

// canonicalHost leaves the standard port of plain HTTP out, too: where that is allowed,
// both are tried.
func canonicalHost(written string) string {
	return strings.TrimSuffix(module.CanonicalHost(written), ":80")
}

// pattern is one of the names of images, by the parts of its path.
type pattern []string

// anyParts matches any number of parts, and anything matches any text in a part.
const (
	anyParts = "**"
	anything = '*'
)

// patternForm is the form of patterns. The schema has it, too.
var patternForm = regexp.MustCompile(`^[A-Za-z0-9._:/*-]+$`)

// readPattern reads a pattern. Its host is written in as many ways as that of an image.
func readPattern(text string) (pattern, error) {
	if !patternForm.MatchString(text) {
		return nil, errors.New("use letters, digits and ._:/- with the wildcards * and **")
	}
	parts := pattern(strings.Split(text, "/"))
	for _, part := range parts {
		if part != anyParts && strings.Contains(part, anyParts) {
			return nil, errors.New("** must be a whole part of the path: use * within a part")
		}
	}
	if strings.ContainsRune(parts[0], anything) { // no host to read
		parts[0] = strings.ToLower(parts[0])
	} else {
		parts[0] = canonicalHost(parts[0])
	}
	return parts, nil
}

// matches takes time in proportion to the lengths of both, multiplied.
func (p pattern) matches(repository string) bool {
	return glob(p, strings.Split(repository, "/"), func(part string) bool { return part == anyParts }, matchesPart)
}

func matchesPart(pattern, part string) bool {
	return glob([]byte(pattern), []byte(part), func(c byte) bool { return c == anything }, func(a, b byte) bool { return a == b })
}

// glob reports whether a sequence matches a pattern, some elements of which match any
// number of elements. Only the last of those before a mismatch needs to take more: what an
// earlier one could take, it can take as well.
func glob[E any](pattern, sequence []E, isAny func(E) bool, match func(pattern, element E) bool) bool {
	p, lastAny, taken := 0, -1, 0
	for s := 0; s < len(sequence); {
		switch {
		case p < len(pattern) && isAny(pattern[p]):
			lastAny, taken = p, s
			p++
		case p < len(pattern) && match(pattern[p], sequence[s]):
			p, s = p+1, s+1
		case lastAny >= 0:
			taken++
			p, s = lastAny+1, taken
		default:
			return false
		}
	}
	for p < len(pattern) && isAny(pattern[p]) {
		p++
	}
	return p == len(pattern)
}
