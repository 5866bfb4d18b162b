package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// commitTime is that of the only commit of a clone.
const commitTime = "2026-01-02T03:04:05Z"

func TestTheSameCommitGivesTheSameImageEverywhere(t *testing.T) {
	r := moduletest.StartRegistry(t)
	pushed := printed(t, append([]string{"push", r.Host() + "/wasme-operator:v1"}, binariesOf(t)...)...)
	elsewhere := printed(t, append([]string{"digest"}, binariesOf(t)...)...)
	if want := r.Host() + "/wasme-operator:v1@" + elsewhere; pushed != want {
		t.Errorf("pushed %s, another clone gives %s", pushed, want)
	}
	reference, err := name.NewDigest(pushed)
	moduletest.Must(t, err)
	index, err := remote.Index(reference)
	moduletest.Must(t, err)
	manifest, err := index.IndexManifest()
	moduletest.Must(t, err)
	wantAnnotations(t, manifest.Annotations)
	platforms := map[string]bool{}
	for _, image := range manifest.Manifests {
		platforms[image.Platform.String()] = true
		child, err := index.Image(image.Digest)
		moduletest.Must(t, err)
		config, err := child.ConfigFile()
		moduletest.Must(t, err)
		wantAnnotations(t, config.Config.Labels)
		if config.Architecture != image.Platform.Architecture || config.Created.Format("2006-01-02T15:04:05Z07:00") != commitTime {
			t.Errorf("%s: %s, of %s", image.Platform, config.Architecture, config.Created)
		}
	}
	if len(platforms) != 2 || !platforms["linux/amd64"] || !platforms["linux/arm64"] {
		t.Errorf("platforms: %v", platforms)
	}
}

func TestTheManagerRunsInItsImage(t *testing.T) {
	folder := t.TempDir()
	binary, file := filepath.Join(folder, "manager"), filepath.Join(folder, "image.tar")
	goBuild(t, "../..", runtime.GOARCH, binary, "./cmd/manager")
	printed(t, "archive", "wasme-operator:dev", file, binary)
	tag, err := name.NewTag("wasme-operator:dev")
	moduletest.Must(t, err)
	image, err := tarball.ImageFromPath(file, &tag)
	moduletest.Must(t, err)
	config, err := image.ConfigFile()
	moduletest.Must(t, err)
	if config.Config.User != "65532:65532" {
		t.Errorf("user %q", config.Config.User)
	}
	root := unpacked(t, image)
	for argument, want := range map[string]string{
		"--version": runtime.Version() + " linux/" + runtime.GOARCH,
		"--help":    "-module-server-url",
	} {
		if output := runIn(t, root, append(config.Config.Entrypoint, argument)); !strings.Contains(output, want) {
			t.Errorf("%s: %q has no %q", argument, output, want)
		}
	}
	wantRoots(t, filepath.Join(root, rootsFile))
}

func TestRefusesWhatCannotBeAnImage(t *testing.T) {
	text := filepath.Join(t.TempDir(), "manager")
	moduletest.Must(t, os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600))
	for want, arguments := range map[string][]string{
		"usage: ":          {"push", "wasme-operator:dev"},
		"unrecognized":     {"digest", text},
		"no such file":     {"digest", text + ".missing"},
		"can only contain": {"push", "wasme operator", text},
	} {
		if err := run(t.Context(), io.Discard, arguments); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q in it", arguments, err, want)
		}
	}
	for _, settings := range []map[string]string{
		{"CGO_ENABLED": "1", "GOOS": "linux"}, {"CGO_ENABLED": "0", "GOOS": "darwin"}, {"GOOS": "linux"},
	} {
		info := &buildinfo.BuildInfo{}
		for key, value := range settings {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: key, Value: value})
		}
		if _, err := about(info); err == nil || !strings.Contains(err.Error(), "build it with CGO_ENABLED=0 GOOS=linux") {
			t.Errorf("%v: %v", settings, err)
		}
	}
}

// printed returns what a run prints.
func printed(t *testing.T, arguments ...string) string {
	t.Helper()
	var out bytes.Buffer
	moduletest.Must(t, run(t.Context(), &out, arguments))
	return strings.TrimSpace(out.String())
}

// binariesOf builds a small program in a new clone of one commit, for each platform.
func binariesOf(t *testing.T) []string {
	t.Helper()
	clone, out := t.TempDir(), t.TempDir()
	moduletest.Must(t, os.WriteFile(filepath.Join(clone, "go.mod"), []byte("module example.com/small\n\ngo 1.26\n"), 0o600))
	moduletest.Must(t, os.WriteFile(filepath.Join(clone, "main.go"), []byte("package main\n\nfunc main() { println(\"small\") }\n"), 0o600))
	for _, arguments := range [][]string{
		{"init", "--quiet"}, {"add", "."},
		{"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--no-gpg-sign", "--message=a"},
		{"tag", "v1.2.3"},
	} {
		command(t, clone, "git", arguments...)
	}
	var binaries []string
	for _, architecture := range []string{"amd64", "arm64"} {
		binaries = append(binaries, filepath.Join(out, architecture))
		goBuild(t, clone, architecture, binaries[len(binaries)-1], ".")
	}
	return binaries
}

// goBuild builds a binary as the Makefile does.
func goBuild(t *testing.T, folder, architecture, to, pkg string) {
	t.Helper()
	command(t, folder, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture,
		"go", "build", "-trimpath", "-buildvcs=true", "-ldflags=-s -w", "-o", to, pkg)
}

func command(t *testing.T, folder, program string, arguments ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, arguments...)
	c.Dir = folder
	c.Env = append(os.Environ(), "GIT_AUTHOR_DATE="+commitTime, "GIT_COMMITTER_DATE="+commitTime)
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", program, arguments, err, output)
	}
}

func wantAnnotations(t *testing.T, annotations map[string]string) {
	t.Helper()
	for key, want := range map[string]string{"version": "v1.2.3", "created": commitTime, "source": "https://github.com/wasme-io/wasme-operator"} {
		if got := annotations["org.opencontainers.image."+key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if len(annotations["org.opencontainers.image.revision"]) != 40 {
		t.Errorf("annotations: %v", annotations)
	}
}

// unpacked returns a folder with the files of an image.
func unpacked(t *testing.T, image v1.Image) string {
	t.Helper()
	root := t.TempDir()
	files := mutate.Extract(image)
	defer files.Close()
	archive := tar.NewReader(files)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return root
		}
		moduletest.Must(t, err)
		path := filepath.Join(root, header.Name)
		if header.Typeflag == tar.TypeDir {
			moduletest.Must(t, os.MkdirAll(path, header.FileInfo().Mode().Perm()))
			continue
		}
		content, err := io.ReadAll(archive)
		moduletest.Must(t, err)
		moduletest.Must(t, os.WriteFile(path, content, header.FileInfo().Mode().Perm()))
	}
}

// runIn runs a command with the files of an image alone, and returns what it prints.
func runIn(t *testing.T, root string, arguments []string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), arguments[0], arguments[1:]...)
	c.Dir = "/"
	c.Env = []string{}
	c.SysProcAttr = &syscall.SysProcAttr{
		Chroot:      root,
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 65532, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 65532, HostID: os.Getgid(), Size: 1}},
	}
	output, err := c.CombinedOutput()
	if err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return string(output)
}

// wantRoots holds a file to what it must let a registry be trusted by.
func wantRoots(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	moduletest.Must(t, err)
	var got, unconstrained, constrained int
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		_, err := x509.ParseCertificate(block.Bytes)
		moduletest.Must(t, err)
		got++
	}
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			unconstrained++
		} else if constrained++; bytes.Contains(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})) {
			t.Errorf("a root is there that Mozilla trusts for some certificates only")
		}
	}
	if got != unconstrained || got < 100 {
		t.Errorf("%d roots of %d, and %d with constraints", got, unconstrained, constrained)
	}
}
