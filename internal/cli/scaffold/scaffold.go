// Package scaffold writes the projects that authors of filters begin with: a filter that
// adds the response header hello, with tests, and with all versions pinned.
//
// Projects are in templates/: a folder a language, and shared for all. A file is there
// under its name with .tmpl behind it, so that no tool takes it for a part of this
// repository, and files that begin with a dot are without it.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
)

//go:embed templates
var templates embed.FS

// RootID is the root id of all projects: the one that the examples of wasme have always had.
const RootID = "add_header_root_id"

// shared is the folder of the templates for all languages.
const shared = "shared"

// project is what the templates have.
type project struct {
	Name     string
	Language toolchain.Language
	about
	RootID, RootIDs string
}

// Write writes a project into a folder, which it makes, and returns the paths of the files
// that it has written, relative to it. It refuses a folder that has something in it.
func Write(dir string, language toolchain.Language) ([]string, error) {
	files, err := write(dir, language)
	if err != nil {
		return nil, fmt.Errorf("writing a project to %s: %w", dir, err)
	}
	return files, nil
}

func write(dir string, language toolchain.Language) ([]string, error) {
	if err := checkEmpty(dir); err != nil {
		return nil, err
	}
	files, err := render(dir, language)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if err := create(filepath.Join(dir, filepath.FromSlash(name)), files[name]); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// checkEmpty checks that a folder is empty, or not there.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("the folder is not empty (it has %s): name a new one", entries[0].Name())
	}
	return nil
}

// render returns the files of a project by their paths.
func render(dir string, language toolchain.Language) (map[string][]byte, error) {
	if _, err := toolchain.Parse(string(language)); err != nil {
		return nil, err
	}
	about := languages[language]
	name, err := nameOf(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	p := project{Name: name, Language: language, about: about, RootID: RootID, RootIDs: about.rootIDs()}
	for _, folder := range []string{shared, string(language)} {
		if err := renderFolder(path.Join("templates", folder), p, files); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func renderFolder(folder string, p project, files map[string][]byte) error {
	return fs.WalkDir(templates, folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := renderFile(file, p)
		if err != nil {
			return err
		}
		files[target(strings.TrimPrefix(file, folder+"/"))] = content
		return nil
	})
}

// renderFile renders a template. The languages have {{ and [[ themselves.
func renderFile(file string, p project) ([]byte, error) {
	text, err := templates.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t, err := template.New(file).Delims("<%", "%>").Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, p)
	return out.Bytes(), err
}

// hidden are the files that begin with a dot in a project.
var hidden = []string{"gitignore", "bazelrc", "bazelversion"}

// target returns the name in a project of a template.
func target(file string) string {
	name := strings.TrimSuffix(file, ".tmpl")
	if slices.Contains(hidden, name) {
		return "." + name
	}
	return name
}

// create writes a file that is not there yet.
func create(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

// nameOf returns the name of a project in a folder: what package managers and references
// of images take, such as my-filter.
func nameOf(dir string) (string, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	words := strings.FieldsFunc(strings.ToLower(filepath.Base(absolute)), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	if len(words) == 0 || words[0][0] <= '9' {
		words = slices.Insert(words, 0, "filter")
	}
	return strings.Join(words, "-"), nil
}
