// Package cli is the command line wasme: its commands, their flags, and what they print.
//
// A file has one command, which reads its flags, calls the package that does the work,
// and prints what came of it. The packages below it, those for authors first:
//
//	scaffold   the files of a new project (init)
//	toolchain  builds modules with compilers that are installed (build)
//	envoy      a real Envoy with a filter (run)
//	traffic    requests that were recorded, and their replay (record, test)
//	image      images that hold a module
//	store      the images on this machine
//	progress   how far a transfer is
//	view       what is shown of the objects in a cluster; pure, as are all below it
//	undo       how a FilterDeployment goes back to an earlier revision (rollout undo)
//	emit       the objects that the operator would make (render)
//	chain      which filters requests pass in a proxy (describe)
//	cost       what a change would do to workloads (diff)
//	migrate    what would replace filters that others put there (migrate)
//	doctor     what is wrong with an installation (doctor)
//
// Errors go to the standard error stream and say how to fix what is wrong. What scripts
// read goes to the standard output and nothing else does.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/version"
)

// The codes that wasme exits with.
const (
	exitDone = 0
	// exitFailed: the command could not do what it was asked for.
	exitFailed = 1
	// exitUsage: the command line is wrong.
	exitUsage = 2
	// exitRefused: the command did what it was asked for, and the answer is no: a test
	// failed, a module was refused, a rollout went back, or there is a difference.
	exitRefused = 3
	// exitInterrupted: Ctrl-C, or a termination signal.
	exitInterrupted = 130
)

// app is what all commands share.
type app struct {
	genericiooptions.IOStreams
}

// refusal is an error whose exit code is exitRefused.
type refusal struct{ error }

// refuse returns an error for a command whose answer is no.
func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// usage is an error of the command line.
type usage struct{ error }

// misused returns an error about the command line.
func misused(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

// Run runs wasme with arguments and returns its exit code.
func Run(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	root := New(streams)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command ") { // cobra has no type for it
		err = misused("%w", err)
	}
	for _, part := range parts(err) {
		if ctx.Err() == nil || !errors.Is(part, context.Canceled) {
			fmt.Fprintln(streams.ErrOut, "Error:", part)
		}
	}
	return codeOf(ctx, err)
}

// parts returns the errors that were joined: one of them may be that the command was
// interrupted, which its user knows, and another what was left behind.
func parts(err error) []error {
	switch joined := err.(type) { //nolint:errorlint // what wraps joined errors has words of its own
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		return joined.Unwrap()
	}
	return []error{err}
}

func codeOf(ctx context.Context, err error) int {
	_, refused := errors.AsType[refusal](err)
	_, wrong := errors.AsType[usage](err)
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case refused:
		return exitRefused
	case wrong:
		return exitUsage
	}
	return exitFailed
}

// New returns the command wasme with all its subcommands.
func New(streams genericiooptions.IOStreams) *cobra.Command {
	if _, file := streams.ErrOut.(*os.File); !file {
		streams.ErrOut = &lockedWriter{to: streams.ErrOut}
	}
	a := &app{IOStreams: streams}
	root := &cobra.Command{
		Use:           "wasme",
		Short:         "Build, test, publish and deploy Wasm filters for Envoy",
		Version:       version.Read().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	if strings.HasPrefix(filepath.Base(os.Args[0]), pluginPrefix) {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl wasme"}
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.ErrOut)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return misused("%w: see %s --help", err, c.CommandPath())
	})
	root.AddGroup(
		&cobra.Group{ID: groupAuthor, Title: "Write a filter:"},
		&cobra.Group{ID: groupImage, Title: "Store and publish it:"},
		&cobra.Group{ID: groupCluster, Title: "Run it in a cluster:"},
	)
	for _, group := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupAuthor, []*cobra.Command{newInit(a), newBuild(a), newTest(a), newRun(a), newBench(a)}},
		{groupImage, []*cobra.Command{newList(a), newTag(a), newPush(a), newPull(a), newInspect(a), newSave(a), newLoad(a), newLogin(a), newLogout(a)}},
		{groupCluster, []*cobra.Command{newDeploy(a), newUndeploy(a), newStatus(a), newRollout(a), newRender(a), newDescribe(a), newDiff(a), newDoctor(a), newRecord(a), newMigrate(a)}},
	} {
		for _, c := range group.commands {
			c.GroupID = group.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(newVersion(a))
	checkArgs(root)
	return root
}

// lockedWriter is a writer for several goroutines, as a file is.
type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

// Write implements io.Writer.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// checkArgs has all commands say how they are used when their arguments are wrong.
func checkArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return misused("%w: see %s --help", err, c.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkArgs(sub)
	}
}

// pluginPrefix begins the names of programs that kubectl runs as its subcommands.
const pluginPrefix = "kubectl-"

const (
	groupAuthor  = "author"
	groupImage   = "image"
	groupCluster = "cluster"
)
