package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

const (
	root = "../.."
	// repositoryURL begins a link to a file of this repository.
	repositoryURL = "https://github.com/wasme-io/wasme-operator/blob/main/"
	// longest is the longest line that a page may have.
	longest = 120
)

// page is a Markdown file with its parsed form.
type page struct {
	// path is relative to the repository.
	path   string
	source []byte
	parsed ast.Node
}

// quote is a piece of a page with the line it is on.
type quote struct {
	page string
	line int
	text string
	// language is that of the fenced block around the piece; empty for a code span.
	language string
}

func (q quote) problem(format string, args ...any) string {
	return fmt.Sprintf("%s:%d: ", q.page, q.line) + fmt.Sprintf(format, args...)
}

// writtenPages returns the pages that people write, and allPages those that `make docs` generates, too.
func writtenPages(t *testing.T) []page {
	t.Helper()
	return slices.DeleteFunc(allPages(t), func(p page) bool { return bytes.HasPrefix(p.source, []byte("<!-- Generated")) })
}

func allPages(t *testing.T) []page {
	t.Helper()
	var pages []page
	for _, pattern := range []string{"*.md", "charts/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatal(pattern, paths, err)
		}
		for _, path := range paths {
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, parsePage(name, read(t, path)))
		}
	}
	for _, name := range filesUnder(t, "docs", ".md") {
		pages = append(pages, parsePage(name, read(t, filepath.Join(root, name))))
	}
	return pages
}

func parsePage(path, source string) page {
	parser := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser()
	return page{path: path, source: []byte(source), parsed: parser.Parse(text.NewReader([]byte(source)))}
}

// lineAt returns the number of the line with the byte at offset.
func (p page) lineAt(offset int) int { return 1 + bytes.Count(p.source[:offset], []byte("\n")) }

// walk calls visit for every node.
func (p page) walk(visit func(ast.Node)) {
	// The walker never fails: it returns what the function returns.
	_ = ast.Walk(p.parsed, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			visit(node)
		}
		return ast.WalkContinue, nil
	})
}

// spans returns the code spans.
func (p page) spans() []quote {
	var found []quote
	p.walk(func(node ast.Node) {
		if span, ok := node.(*ast.CodeSpan); ok {
			found = append(found, quote{page: p.path, line: p.lineOf(span), text: p.textOf(span)})
		}
	})
	return found
}

// blocks returns the fenced blocks.
func (p page) blocks() []quote {
	var found []quote
	p.walk(func(node ast.Node) {
		block, ok := node.(*ast.FencedCodeBlock)
		if !ok || block.Lines().Len() == 0 {
			return
		}
		first := p.lineAt(block.Lines().At(0).Start)
		found = append(found, quote{p.path, first, string(block.Lines().Value(p.source)), string(block.Language(p.source))})
	})
	return found
}

// lines returns the lines of the fenced blocks in a language.
func (p page) lines(language string) []quote {
	var found []quote
	for _, block := range p.blocks() {
		if block.language != language {
			continue
		}
		for i, line := range strings.Split(strings.TrimSuffix(block.text, "\n"), "\n") {
			found = append(found, quote{p.path, block.line + i, line, language})
		}
	}
	return found
}

// textOf returns the text of a node, in one line.
func (p page) textOf(node ast.Node) string {
	return p.join(node, func(ast.Node) bool { return false })
}

// proseOf returns the text of a node without its code.
func (p page) proseOf(node ast.Node) string {
	return p.join(node, func(n ast.Node) bool { return n.Kind() == ast.KindCodeSpan })
}

func (p page) join(node ast.Node, skip func(ast.Node) bool) string {
	var all strings.Builder
	_ = ast.Walk(node, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if skip(n) {
			return ast.WalkSkipChildren, nil
		}
		if piece, ok := n.(*ast.Text); ok && entering {
			all.Write(piece.Value(p.source))
			if piece.SoftLineBreak() {
				all.WriteString(" ")
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.ReplaceAll(all.String(), "\n", " ")
}

// lineOf returns the line that an inline node begins on.
func (p page) lineOf(node ast.Node) int {
	line := 1
	_ = ast.Walk(node, func(n ast.Node, _ bool) (ast.WalkStatus, error) {
		if piece, ok := n.(*ast.Text); ok {
			line = p.lineAt(piece.Segment.Start)
			return ast.WalkStop, nil
		}
		return ast.WalkContinue, nil
	})
	return line
}

// anchors returns the anchors that GitHub gives the headings.
func (p page) anchors() []string {
	var found []string
	p.walk(func(node ast.Node) {
		if heading, ok := node.(*ast.Heading); ok {
			found = append(found, anchorOf(p.textOf(heading)))
		}
	})
	return found
}

// unresolved is what is left in the text of a link whose reference is defined nowhere.
var unresolved = regexp.MustCompile(`\]\[[^\]]*\]`)

// brokenLinks returns a problem for each link of the page that leads nowhere.
func (p page) brokenLinks() []string {
	var problems []string
	p.walk(func(node ast.Node) {
		switch node := node.(type) {
		case *ast.Link:
			target, anchor, _ := strings.Cut(string(node.Destination), "#")
			if err := p.followLink(target, anchor); err != nil {
				problems = append(problems, quote{page: p.path, line: p.lineOf(node)}.problem("%v", err))
			}
		case *ast.Paragraph, *ast.TextBlock:
			if found := unresolved.FindString(p.proseOf(node)); found != "" {
				line := p.lineAt(node.Lines().At(0).Start)
				problems = append(problems, quote{page: p.path, line: line}.problem("the reference of the link …%s is not defined", found))
			}
		}
	})
	return problems
}

// followLink returns an error when a link of the page leads to no file or heading of the repository.
func (p page) followLink(target, anchor string) error {
	path := filepath.Join(filepath.Dir(p.path), target)
	if inRepository, ok := strings.CutPrefix(target, repositoryURL); ok {
		path = inRepository
	} else if strings.Contains(target, "://") {
		return nil
	}
	linked := p
	if target != "" && path != p.path {
		source, err := os.ReadFile(filepath.Join(root, path))
		if info, statErr := os.Stat(filepath.Join(root, path)); statErr == nil && info.IsDir() && anchor == "" {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the link to %s leads nowhere", target)
		}
		linked = parsePage(path, string(source))
	}
	if anchor != "" && !slices.Contains(linked.anchors(), anchor) {
		return fmt.Errorf("%s has no heading for the link to #%s", linked.path, anchor)
	}
	return nil
}

func TestPagesHaveShortLines(t *testing.T) {
	for _, p := range allPages(t) {
		for i, line := range strings.Split(string(p.source), "\n") {
			// The defaults of some flags are lists without a space, and cobra wraps no line.
			generated := strings.HasPrefix(line, "Default: `") || strings.HasPrefix(p.path, "docs/cli/")
			if len([]rune(line)) > longest && !generated {
				t.Errorf("%s:%d: the line has more than %d characters", p.path, i+1, longest)
			}
		}
	}
}

// index is the page that leads to all others, and the home of the site.
const index = "docs/README.md"

func TestIndexLeadsToEveryPage(t *testing.T) {
	linked := map[string]page{}
	for _, p := range allPages(t) {
		linked[p.path] = p
	}
	reached := []string{index}
	for i := 0; i < len(reached); i++ {
		for _, target := range linked[reached[i]].links() {
			if _, exists := linked[target]; exists && !slices.Contains(reached, target) {
				reached = append(reached, target)
			}
		}
	}
	for path := range linked {
		if strings.HasPrefix(path, "docs/") && !slices.Contains(reached, path) {
			t.Errorf("no link leads from %s to %s: add it to a table there, or to a page of its folder", index, path)
		}
	}
}

// links returns the files that the page links to, as paths from the repository's root.
func (p page) links() []string {
	var targets []string
	p.walk(func(node ast.Node) {
		if link, ok := node.(*ast.Link); ok {
			target, _, _ := strings.Cut(string(link.Destination), "#")
			targets = append(targets, filepath.Join(filepath.Dir(p.path), target))
		}
	})
	return targets
}

var (
	fence = regexp.MustCompile("^ *```")
	// shallow is a list or a block within a list, less than four spaces deep.
	shallow = regexp.MustCompile("^ {1,3}([-*] |[0-9]+\\. |```)")
	item    = regexp.MustCompile(`^([-*]|[0-9]+\.) `)
	prose   = regexp.MustCompile(`^[^\s|>-]`)
)

// wrongLists returns a problem for each list that GitHub shows as one, and the Markdown of the site does not.
func (p page) wrongLists() []string {
	var problems []string
	before, inBlock := "", false
	for i, line := range strings.Split(string(p.source), "\n") {
		at := quote{page: p.path, line: i + 1}
		if !inBlock && shallow.MatchString(line) {
			problems = append(problems, at.problem("indent what belongs to an item of a list by four spaces"))
		}
		if !inBlock && item.MatchString(line) && prose.MatchString(before) && !item.MatchString(before) {
			problems = append(problems, at.problem("put an empty line before the list"))
		}
		if fence.MatchString(line) {
			inBlock = !inBlock
		}
		before = line
	}
	return problems
}

func TestListsAreListsOnTheSiteToo(t *testing.T) {
	for _, p := range allPages(t) {
		if strings.HasPrefix(p.path, "docs/") {
			report(t, p.wrongLists())
		}
	}
	for source, want := range map[string]int{
		"a:\n\n- b\n  c\n- d\n\n    - e\n\n    ```sh\n    f\n    ```": 0,
		"```yaml\nlist:\n- a\n- b:\n  - c\n```":                       0,
		"a:\n- b":                                                     1,
		"- a\n\n  - b":                                                1,
		"1. a\n\n   ```sh\n   b\n   ```\n":                            1,
	} {
		if problems := parsePage("X.md", source).wrongLists(); len(problems) != want {
			t.Errorf("%q: %q", source, problems)
		}
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, p := range allPages(t) {
		report(t, p.brokenLinks())
	}
}

// TestLinksOutsideThePagesLeadSomewhere looks at what the alerts, the manifests and the messages link to.
func TestLinksOutsideThePagesLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(regexp.QuoteMeta(repositoryURL) + `([\w./-]+)(?:#([\w-]+))?`)
	found := 0
	for _, folder := range []string{"config", "api", "cmd", "controllers", "internal"} {
		for _, path := range filesUnder(t, folder, ".yaml", ".lua", ".go") {
			for i, line := range strings.Split(read(t, filepath.Join(root, path)), "\n") {
				for _, match := range link.FindAllStringSubmatch(line, -1) {
					found++
					if err := (page{path: path}).followLink(repositoryURL+match[1], match[2]); err != nil {
						t.Errorf("%s:%d: %v", path, i+1, err)
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no link was found: has the repository another address?")
	}
}

func TestBrokenLinksAreFound(t *testing.T) {
	for source, broken := range map[string]bool{
		"# A b\n[x](#a-b)":                      false,
		"# A `b`!\n[x](#a-b)":                   false,
		"[x](https://example.com/y#z)":          false,
		"[x](docs/README.md#documentation)":     false,
		"[x](docs)":                             false,
		"[x][y]\n\n[y]: LICENSE":                false,
		"`[x][y]` is code":                      false,
		"[x](" + repositoryURL + "LICENSE)":     false,
		"# A b\n[x](#ab)":                       true,
		"[x](docs/README.md#nothing)":           true,
		"[x](docs/nothing.md)":                  true,
		"[x][y]\n\n[z]: LICENSE":                true,
		"- in a list, [x][y]":                   true,
		"[x](" + repositoryURL + "LICENCE)":     true,
		"[x](" + repositoryURL + "README.md#x)": true,
	} {
		if problems := parsePage("X.md", source).brokenLinks(); len(problems) > 0 != broken {
			t.Errorf("%q: %q", source, problems)
		}
	}
}

// filesUnder returns the files with these extensions under a folder of the
// repository, but for tests, as paths from the repository's root.
func filesUnder(t *testing.T, folder string, extensions ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") || !slices.Contains(extensions, filepath.Ext(path)) {
			return err
		}
		name, err := filepath.Rel(root, path)
		found = append(found, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func report(t *testing.T, problems []string) {
	t.Helper()
	for _, problem := range problems {
		t.Error(problem)
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
