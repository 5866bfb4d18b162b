package policy

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestPatterns(t *testing.T) {
	for _, row := range []struct{ pattern, matching, others string }{
		{"**", "h/a h/a/b", ""},
		{"*/a", "h/a h:5000/a", "h/b h/a/b"},
		{"h/*", "h/a h/b", "h/a/b i/a"},
		{"h/**", "h/a h/a/b/c", "i/a hh/a"},
		{"h/**/c", "h/c h/a/c h/a/b/c h/c/c", "h/a h/c/a h/ac"},
		{"**/c", "h/c h/a/c", "h/a"},
		{"h/**/b/**/d", "h/b/d h/a/b/c/d h/b/b/d", "h/b h/d/b"},
		{"h/a*", "h/a h/ab", "h/b h/a/b"},
		{"h/*-filter", "h/-filter h/my-filter h/a-filter-filter", "h/filter h/my-filters"},
		{"h/a*b*c", "h/abc h/aXbYc h/abbcc", "h/ab h/acb"},
		{"h.io/a", "h.io/a", "hxio/a"},
		{"H.io:443/a", "h.io/a", "h.io/A"},
		{"h.io:80/a", "h.io/a", ""},
		{"H.io:*/a", "h.io:5000/a", "h.io/a"},
		{"docker.io/acme/*", "index.docker.io/acme/a", "index.docker.io/a"},
	} {
		read, err := readPattern(row.pattern)
		moduletest.Must(t, err)
		for repository := range strings.FieldsSeq(row.matching) {
			if !read.matches(repository) {
				t.Errorf("%s does not match %s", row.pattern, repository)
			}
		}
		for repository := range strings.FieldsSeq(row.others) {
			if read.matches(repository) {
				t.Errorf("%s matches %s", row.pattern, repository)
			}
		}
	}
}

func TestPatternsHaveNoOtherWildcards(t *testing.T) {
	for text, why := range map[string]string{
		"h/{a,b}": "use letters", "h/[ab]": "use letters", "h/a?": "use letters", `h/a\*`: "use letters", "": "use letters", "h/a b": "use letters",
		"h/a**": "** must be a whole part", "h/***": "** must be a whole part",
	} {
		if _, err := readPattern(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want: %s", text, err, why)
		}
	}
}

// An image of 255 letters, and the pattern for which most is tried.
func TestPatternsTakeLittleTime(t *testing.T) {
	within, across := strings.Repeat("*a", 250)+"*b", strings.Repeat("**/a/", 100)+"b"
	begin := time.Now()
	for range 100 {
		for text, repository := range map[string]string{"h/" + within: "h/" + strings.Repeat("a", 255), "h/" + across: "h" + strings.Repeat("/a", 127)} {
			read, err := readPattern(text)
			moduletest.Must(t, err)
			if read.matches(repository) {
				t.Errorf("%s matches", text)
			}
		}
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("200 of them take %s", took)
	}
}

func TestNamesOfTheSameImageAreTheSame(t *testing.T) {
	for want, images := range map[string][]string{
		"ghcr.io/acme/payments/x": {
			"ghcr.io/acme/payments/x:v1", "GHCR.IO/acme/payments/x", "ghcr.io:443/acme/payments/x", "ghcr.io:80/acme/payments/x",
		},
		"index.docker.io/acme/x": {
			"acme/x", "docker.io/acme/x", "Docker.io/acme/x", "registry-1.docker.io/acme/x", "registry.hub.docker.com/acme/x", "index.docker.io:443/acme/x",
		},
		"registry.example:5000/x": {"registry.example:5000/x@sha256:" + moduletest.SHA256("")},
	} {
		for _, image := range images {
			reference, err := name.ParseReference(image)
			moduletest.Must(t, err)
			if got := RepositoryOf(reference); got != want {
				t.Errorf("%s is %s, want %s", image, got, want)
			}
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("ghcr.io/**/a*", "ghcr.io/acme/add")
	f.Fuzz(func(t *testing.T, text, repository string) {
		read, err := readPattern(text)
		if err != nil || strings.Contains(repository, "\n") {
			return
		}
		// A slower matcher, by its definition.
		expression := "/" + strings.Join(read, "/")
		expression = regexp.QuoteMeta(expression)
		expression = strings.ReplaceAll(expression, `/\*\*`, `(/[^/]*)*`)
		expression = strings.ReplaceAll(expression, `\*`, `[^/]*`)
		if want := regexp.MustCompile(`\A(?s:` + expression + `)\z`).MatchString("/" + repository); read.matches(repository) != want {
			t.Errorf("%q matches %q: %v, want %v", text, repository, !want, want)
		}
	})
}
