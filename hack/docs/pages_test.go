package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	docsFolder = "../../docs"
	// longest is the longest line that a page may have.
	longest = 120
)

var (
	link    = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]+)?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	// codeParts are where nothing is a link.
	codeParts = regexp.MustCompile("(?s)```.*?```|`[^`\n]+`")
	// notInAnchors is what GitHub leaves out of a heading's anchor.
	notInAnchors = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func TestPagesHaveShortLinesAndLinksThatLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob(docsFolder + "/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		text := read(t, page)
		for i, line := range strings.Split(text, "\n") {
			if len([]rune(line)) > longest {
				t.Errorf("%s:%d has more than %d characters", page, i+1, longest)
			}
		}
		for _, found := range link.FindAllStringSubmatch(codeParts.ReplaceAllString(text, "code"), -1) {
			checkLink(t, page, found[1], strings.TrimPrefix(found[2], "#"))
		}
	}
}

func checkLink(t *testing.T, page, target, anchor string) {
	t.Helper()
	if strings.Contains(target, "://") {
		return
	}
	path := page
	if target != "" {
		path = filepath.Join(filepath.Dir(page), target)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s: %v", page, err)
		return
	}
	if anchor != "" && !hasAnchor(read(t, path), anchor) {
		t.Errorf("%s: %s has no heading for #%s", page, path, anchor)
	}
}

func hasAnchor(text, anchor string) bool {
	for _, found := range heading.FindAllStringSubmatch(text, -1) {
		words := strings.ToLower(notInAnchors.ReplaceAllString(found[1], ""))
		if strings.ReplaceAll(words, " ", "-") == anchor {
			return true
		}
	}
	return false
}

func TestTroubleshootingKnowsEveryReason(t *testing.T) {
	conditions, err := readConditions("../../api/v1")
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, docsFolder+"/troubleshooting.md")
	for _, c := range conditions {
		for _, r := range c.Reasons {
			if c.Type != r.Name && !strings.Contains(text, "`"+r.Name+"`") {
				t.Errorf("docs/troubleshooting.md does not say what to do about %s", r.Name)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
