// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/version"
)

// versionTimeout bounds how long an installed program may take to print its version.
const versionTimeout = 3 * time.Second

// installed says how to recognise an installed program, and which of its
// versions fit. The zero value: the program is always built.
//
// A version fits if its major version is the pinned one, and its minor version
// at most older below and newer above the pinned one. kube-apiserver must have
// the pinned minor version: it decides what tests and demo see. kubectl may be
// one minor version off on both sides, as Kubernetes' version skew policy says.
// etcd may be one minor version older: Kubernetes supports both. Patch versions
// and suffixes such as -rc.1 do not matter.
type installed struct {
	arguments []string // that make the program print its version
	prefix    string   // of the line with the version
	older     uint     // minor versions
	newer     uint
}

// fits reports whether an installed version may run in place of the pinned one.
func (i installed) fits(found, pinned *version.Version) bool {
	return found.Major() == pinned.Major() && found.Minor()+i.older >= pinned.Minor() && found.Minor() <= pinned.Minor()+i.newer
}

// fitting names the versions that fit: "1.36 to 1.38".
func (i installed) fitting(pinned *version.Version) string {
	lowest := fmt.Sprintf("%d.%d", pinned.Major(), pinned.Minor()-i.older)
	highest := fmt.Sprintf("%d.%d", pinned.Major(), pinned.Minor()+i.newer)
	if lowest == highest {
		return lowest
	}
	return lowest + " to " + highest
}

// Installed returns the path of an installed program whose version fits: that
// in the folder KUBEBUILDER_ASSETS, or else the first on the PATH. The path is
// empty if there is none. What the choice was, and why, is in notes.
func (p Program) Installed(ctx context.Context) (path string, notes []string, err error) {
	if p.installed.prefix == "" {
		return "", nil, nil
	}
	_, required, err := p.pinned()
	if err != nil {
		return "", nil, err
	}
	pinned, err := version.ParseGeneric(required)
	if err != nil {
		return "", nil, fmt.Errorf("parsing the pinned version of %s: %w", p.Name, err)
	}
	for _, candidate := range p.candidates() {
		found, err := p.versionOf(ctx, candidate)
		switch {
		case err != nil:
			notes = append(notes, fmt.Sprintf("not using %s: %v", candidate, err))
		case !p.installed.fits(found, pinned):
			notes = append(notes, fmt.Sprintf("not using %s: its version is %s, but %s is needed", candidate, found, p.installed.fitting(pinned)))
		default:
			return candidate, append(notes, fmt.Sprintf("using %s, version %s", candidate, found)), nil
		}
	}
	return "", notes, ctx.Err()
}

// candidates returns the absolute paths at which the program is installed.
func (p Program) candidates() []string {
	var paths []string
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		path := filepath.Join(assets, p.Name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			paths = append(paths, path)
		}
	}
	if path, err := exec.LookPath(p.Name); err == nil {
		paths = append(paths, path)
	}
	absolute := paths[:0]
	for _, path := range paths {
		if path, err := filepath.Abs(path); err == nil {
			absolute = append(absolute, path)
		}
	}
	return absolute
}

// versionOf asks a program for its version. It may be any program: what hangs
// is killed.
func (p Program) versionOf(ctx context.Context, path string) (*version.Version, error) {
	bounded, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(bounded, path, p.installed.arguments...)
	command.Stdout, command.Stderr = &stdout, &stderr
	question := fmt.Sprintf("`%s %s`", p.Name, strings.Join(p.installed.arguments, " "))
	err := runGroup(command, syscall.SIGKILL, time.Second)
	if bounded.Err() != nil {
		return nil, fmt.Errorf("%s did not answer within %s", question, versionTimeout)
	}
	if err != nil {
		return nil, fmt.Errorf("%s failed: %w: %s", question, err, cmp.Or(strings.TrimSpace(stderr.String()), "it printed nothing"))
	}
	for line := range strings.Lines(stdout.String()) {
		if text, ok := strings.CutPrefix(line, p.installed.prefix); ok {
			return version.ParseGeneric(strings.TrimSpace(text))
		}
	}
	return nil, fmt.Errorf("%s printed no version", question)
}
