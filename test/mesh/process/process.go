// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package process starts the processes of a mesh, keeps a record of each on
// disk, and ends exactly those.
//
// A record holds a pid and the time at which that process began, so a pid that
// the system has given to another process is never signalled. Records outlive
// the process that wrote them: `mesh down` ends what `mesh up` started.
package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	stopTimeout  = 10 * time.Second // from SIGTERM to SIGKILL, and again until it is gone
	pollInterval = 20 * time.Millisecond
	logTail      = 2000 // bytes of the log that an error quotes
)

// Group is the set of processes of one mesh. Its folder holds records in run
// and each process's output in logs.
type Group struct {
	// Folder of the mesh.
	Folder string
	// Detached processes outlive this one; the others are killed by the system
	// when this process ends, however it ends.
	Detached bool
}

// Command says what to run.
type Command struct {
	// Name within the group: one process per name, and the name of its log.
	Name string
	// Path of the program, then its arguments.
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	// Dir is the working directory; empty: that of this process.
	Dir string
	// KillOnStop leaves SIGTERM out: for what would drain for seconds.
	KillOnStop bool
	// Isolated runs it as init of its own pid namespace, as root of its own user
	// and mount namespace: it may mount, and its children die with it.
	Isolated bool
}

// Process is one that this program started.
type Process struct {
	record record
	file   string
	log    string
	done   chan struct{} // closed when it has ended
	err    error         // how it ended; set before done closes
}

type record struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks after boot, from /proc/<pid>/stat
	Kill      bool   `json:"kill,omitempty"`
}

// Start runs a command and records it.
func (g Group) Start(command Command) (*Process, error) {
	for _, folder := range []string{g.runFolder(), filepath.Join(g.Folder, "logs")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("starting %s: %w", command.Name, err)
		}
	}
	p := &Process{
		file: filepath.Join(g.runFolder(), command.Name+".json"),
		log:  filepath.Join(g.Folder, "logs", command.Name+".log"),
		done: make(chan struct{}),
	}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", command.Name, err)
	}
	defer output.Close()
	cmd := g.prepare(command, output)
	if err := p.launch(cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", command.Name, err)
	}
	p.record.Name, p.record.PID, p.record.Kill = command.Name, cmd.Process.Pid, command.KillOnStop
	if err := p.keep(); err != nil {
		_ = cmd.Process.Kill() // it would outlive its record
		return nil, fmt.Errorf("recording %s: %w", command.Name, err)
	}
	return p, nil
}

func (g Group) runFolder() string { return filepath.Join(g.Folder, "run") }

func (g Group) prepare(command Command, output *os.File) *exec.Cmd {
	cmd := exec.Command(command.Path, command.Args...)
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Dir = command.Dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for this process; it then stops them in order
	if !g.Detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if command.Isolated {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// launch starts the command from a thread that lives as long as the process:
// the system sends the parent-death signal when the starting thread ends.
func (p *Process) launch(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- explain(err, cmd)
			return
		}
		// Read before Wait: until then the pid is the process's, even if it has ended.
		stat, err := statOf(cmd.Process.Pid)
		p.record.StartTime = stat.Starttime
		started <- err
		p.err = cmd.Wait()
		close(p.done)
	}()
	return <-started
}

// explain adds the usual cause to an error that does not say it.
func explain(err error, cmd *exec.Cmd) error {
	refused := errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC)
	if cmd.SysProcAttr.Cloneflags != 0 && refused {
		return fmt.Errorf("%w (this system does not let you make user namespaces: "+
			"see sysctl kernel.apparmor_restrict_unprivileged_userns, kernel.unprivileged_userns_clone, user.max_user_namespaces)", err)
	}
	return err
}

func (p *Process) keep() error {
	content, err := json.Marshal(p.record)
	if err != nil {
		return err
	}
	return os.WriteFile(p.file, content, 0o600)
}

// PID is the process's id; after it has ended the system may reuse it.
func (p *Process) PID() int { return p.record.PID }

// Log is the path of the process's output.
func (p *Process) Log() string { return p.log }

// ErrNotReady is wrapped by the error of WaitReady when the timeout is over.
var ErrNotReady = errors.New("it is not ready in time")

// WaitReady polls ready until it returns nil, and fails when the process ends
// before, or when the timeout or ctx is over. Its error quotes the last lines
// of the log.
func (p *Process) WaitReady(ctx context.Context, timeout time.Duration, ready func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, timeout, true, func(ctx context.Context) (bool, error) {
		select {
		case <-p.done:
			return false, fmt.Errorf("it ended: %w", endOf(p.err))
		default:
		}
		last = ready(ctx)
		return last == nil, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		err = ErrNotReady
	}
	if err != nil {
		return fmt.Errorf("waiting for %s: %w\nlast of %s:\n%s", p.record.Name, errors.Join(err, last), p.log, p.tail())
	}
	return nil
}

func endOf(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (p *Process) tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-logTail):])
}

// Stop ends the process, waits until it is gone and removes its record.
// Stopping a process that has ended already is no error.
func (p *Process) Stop() error {
	if err := p.record.end(p.Ended); err != nil {
		return err
	}
	return removeRecord(p.file)
}

// Kill ends the process as a crash would, waits until it is gone and removes
// its record.
func (p *Process) Kill() error {
	p.record.Kill = true
	return p.Stop()
}

// Pause has the process do nothing until Resume: its connections stay open, and it does not
// answer. One that has ended is left alone.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume has a process continue that Pause stopped.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(signal syscall.Signal) error {
	if !p.record.alive() {
		return nil
	}
	if err := syscall.Kill(p.record.PID, signal); err != nil {
		return fmt.Errorf("signalling %s: %w", p.record.Name, err)
	}
	return nil
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// StopAll ends every process on record, the youngest first, waits until they
// are gone and removes their records. A folder without records is no error.
func (g Group) StopAll() error {
	files, err := filepath.Glob(filepath.Join(g.runFolder(), "*.json"))
	if err != nil {
		return fmt.Errorf("listing the processes on record: %w", err)
	}
	var all []stored
	var failed []error
	for _, file := range files {
		r, err := readRecord(file)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, stored{r, file})
	}
	slices.SortFunc(all, func(a, b stored) int { return cmp.Compare(b.StartTime, a.StartTime) })
	for _, s := range all {
		if err := s.end(func() bool { return !s.alive() }); err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, removeRecord(s.file))
	}
	return errors.Join(failed...)
}

type stored struct {
	record
	file string
}

// Running names the processes on record that are alive.
func (g Group) Running() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(g.runFolder(), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing the processes on record: %w", err)
	}
	var names []string
	for _, file := range files {
		r, err := readRecord(file)
		if err != nil {
			return nil, err
		}
		if r.alive() {
			names = append(names, r.Name)
		}
	}
	return names, nil
}

func readRecord(file string) (record, error) {
	var r record
	content, err := os.ReadFile(file)
	if err != nil {
		return r, fmt.Errorf("reading the record of a process: %w", err)
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, fmt.Errorf("reading the record %s: %w", file, err)
	}
	return r, nil
}

func removeRecord(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the record of a process: %w", err)
	}
	return nil
}

// end signals the process, if it still is the one on record, until ended says so.
func (r record) end(ended func() bool) error {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}
	if r.Kill {
		signals = signals[1:]
	}
	for _, signal := range signals {
		if r.alive() {
			_ = syscall.Kill(r.PID, signal) // it may have ended just now; the wait below decides
		}
		err := wait.PollUntilContextTimeout(context.Background(), pollInterval, stopTimeout, true,
			func(context.Context) (bool, error) { return ended(), nil })
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("stopping %s (pid %d): still there after SIGKILL", r.Name, r.PID)
}

// alive reports whether the process on record still runs: it has the pid and has
// not ended. An ended process keeps its pid until its parent waits for it.
func (r record) alive() bool {
	stat, err := statOf(r.PID)
	return err == nil && stat.Starttime == r.StartTime && !strings.ContainsAny(stat.State, "ZX")
}

func statOf(pid int) (procfs.ProcStat, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, fmt.Errorf("looking up process %d: %w", pid, err)
	}
	stat, err := process.Stat()
	if err != nil {
		return procfs.ProcStat{}, fmt.Errorf("looking up process %d: %w", pid, err)
	}
	return stat, nil
}
