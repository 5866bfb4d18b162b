// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/wasme-io/wasme-operator/test/mesh/progress"
)

// Source decides where programs come from: whether they are built in their
// pinned versions, or are installed on this machine. It decides once for each.
type Source struct {
	// Log receives what is built, and which installed programs are used or not
	// used. A progress.Printer also shows for how long.
	Log io.Writer
	// Installed allows installed programs whose versions fit. That is for those
	// who try the operator by hand and do not want to wait for builds. Tests leave
	// it off: they must run the same programs on every machine.
	Installed bool

	deciding sync.Mutex
	decided  map[string]string // path of an installed program by its name; empty: it is built
}

// Path returns the path of a program, building it first if it is to be built
// and this machine does not have it yet.
func (s *Source) Path(ctx context.Context, program Program) (string, error) {
	path, err := s.installed(ctx, program)
	if path != "" || err != nil {
		return path, err
	}
	return program.Path(ctx, s.Log)
}

// installed returns the path of the installed program to use; empty: none.
func (s *Source) installed(ctx context.Context, program Program) (string, error) {
	if !s.Installed {
		return "", nil
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	if path, ok := s.decided[program.Name]; ok {
		return path, nil
	}
	path, notes, err := program.Installed(ctx)
	if err != nil {
		return "", err
	}
	for _, note := range notes {
		fmt.Fprintf(s.Log, "   %s\n", note)
	}
	if s.decided == nil {
		s.decided = map[string]string{}
	}
	s.decided[program.Name] = path
	return path, nil
}

// Build is one of several builds that Prepare runs.
type Build struct {
	// Title says what is done: "compiling the operator".
	Title string
	// Takes is how long that takes on two cores; 0: that is not known.
	Takes time.Duration
	// Run does it.
	Run func(context.Context) error
}

// Compile returns a build that leaves packages of this repository, compiled as
// Own does it but not linked, in Go's build cache.
func Compile(title string, takes time.Duration, packages ...string) Build {
	return Build{Title: title, Takes: takes, Run: func(ctx context.Context) error {
		compile, err := ownCommand(ctx, append([]string{"list", "-export", "-deps", "-f", "", "-trimpath"}, packages...)...)
		if err != nil {
			return err
		}
		return Run(compile)
	}}
}

// meshPrograms are the programs of a mesh. Those in a row share most of their
// packages, and are built one after the other: so each package is compiled once.
var meshPrograms = [][]Program{
	{APIServer, ControllerManager, Kubectl},
	{Istiod, PilotAgent},
	{Etcd},
}

// Prepare provides all programs of a mesh, and runs further builds. Downloads go
// on beside builds; of those, one runs for every two cores: a build needs that
// many most of the time, and together they would only need more memory.
func (s *Source) Prepare(ctx context.Context, further ...Build) (err error) {
	rows, takes, err := s.missing(ctx)
	if err != nil {
		return err
	}
	lanes := max(1, runtime.NumCPU()/2)
	if takes > 0 {
		end := progress.Begin(s.Log, "preparing everything, once on this machine", takes/time.Duration(lanes))
		defer func() { end(err) }()
	}
	group, ctx := errgroup.WithContext(ctx)
	cores := semaphore.NewWeighted(int64(lanes))
	group.Go(func() error {
		_, err := Envoy(ctx, s.Log, DefaultEnvoy)
		return err
	})
	for _, row := range rows {
		group.Go(func() error { return s.buildAll(ctx, cores, row) })
	}
	group.Go(func() error { return s.runAll(ctx, cores, further) })
	return group.Wait()
}

// missing returns what must be built of meshPrograms, and how long that takes.
func (s *Source) missing(ctx context.Context) (rows [][]Program, takes time.Duration, err error) {
	for _, row := range meshPrograms {
		missing, err := s.missingOf(ctx, row)
		if err != nil {
			return nil, 0, err
		}
		for _, program := range missing {
			takes += program.Takes
		}
		if len(missing) > 0 {
			rows = append(rows, missing)
		}
	}
	return rows, takes, nil
}

// missingOf returns what must be built of a row. The first build takes as long
// as that of the row's first program: it compiles what all of them share.
func (s *Source) missingOf(ctx context.Context, row []Program) ([]Program, error) {
	var missing []Program
	compiled := false // whether what they share is in Go's build cache
	for _, program := range row {
		installed, err := s.installed(ctx, program)
		if err != nil {
			return nil, err
		}
		built, err := program.built()
		if err != nil {
			return nil, err
		}
		if installed == "" && !built {
			if !compiled {
				program.Takes = row[0].Takes
			}
			missing = append(missing, program)
		}
		compiled = compiled || built || len(missing) > 0
	}
	return missing, nil
}

// built reports whether this machine has the program in its pinned version.
func (p Program) built() (bool, error) {
	a, err := p.artifact()
	if err != nil {
		return false, err
	}
	path, err := a.path()
	return present(path), err
}

// buildAll builds programs one after the other, once their sources are there.
func (s *Source) buildAll(ctx context.Context, cores *semaphore.Weighted, programs []Program) error {
	for _, program := range programs {
		if err := program.download(ctx, s.Log); err != nil {
			return err
		}
	}
	for _, program := range programs {
		err := withCores(ctx, cores, func() error {
			_, err := program.Path(ctx, s.Log)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// download downloads the modules that the program is built from. A build would
// do that too, but not beside another one.
func (p Program) download(ctx context.Context, log io.Writer) (err error) {
	folder, version, err := p.pinned()
	if err != nil {
		return err
	}
	end := progress.Begin(log, fmt.Sprintf("downloading the source of %s %s", p.Name, version), 0)
	defer func() { end(err) }()
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "", p.pkg)
	list.Dir = folder
	list.Env = pinnedEnvironment()
	return Run(list)
}

func (s *Source) runAll(ctx context.Context, cores *semaphore.Weighted, builds []Build) error {
	for _, build := range builds {
		err := withCores(ctx, cores, func() (err error) {
			end := progress.Begin(s.Log, build.Title, build.Takes)
			defer func() { end(err) }()
			return build.Run(ctx)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", build.Title, err)
		}
	}
	return nil
}

// withCores runs a build when its turn comes.
func withCores(ctx context.Context, cores *semaphore.Weighted, build func() error) error {
	if err := cores.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("waiting for another build: %w", err)
	}
	defer cores.Release(1)
	return build()
}
