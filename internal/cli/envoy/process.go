package envoy

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// stopBound is how long Envoy may take to end when it is asked to.
const stopBound = 5 * time.Second

// process is Envoy's. It has a process group of its own, so that Ctrl-C on a terminal reaches
// only wasme, which then ends it.
type process struct {
	command *exec.Cmd
	ended   chan struct{} // closed when the process has ended and its log is read
	err     error         // set before that
}

// startProcess starts Envoy, and reads its log into a journal.
func startProcess(path string, arguments []string, output io.Writer, log *journal) (*process, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting Envoy: %w", err)
	}
	p := &process{command: exec.Command(path, arguments...), ended: make(chan struct{})} //nolint:noctx // it ends with Close
	p.command.Stdout, p.command.Stderr, p.command.SysProcAttr = output, writer, attributes()
	started := make(chan error)
	go func() {
		// Where the system ends Envoy with wasme, it does so when this thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.command.Start()
		_ = writer.Close() // nothing was written to this end
		started <- err
		if err == nil {
			p.err = p.command.Wait()
			<-log.ended
			close(p.ended)
		}
		_ = reader.Close() // nothing to read is left
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting Envoy: %w: name another with --envoy", err)
	}
	go log.read(reader)
	return p, nil
}

// stop ends the process, and returns when it has ended.
func (p *process) stop() {
	interrupt(p.command.Process)
	select {
	case <-p.ended:
	case <-time.After(stopBound):
		kill(p.command.Process)
		<-p.ended
	}
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// option is one of Envoy's command line.
type option struct{ name, short, value string }

// arguments returns Envoy's command line. The user's arguments replace those that they repeat.
func arguments(s *Setup, p places) []string {
	options := []option{
		{"--config-path", "-c", p.bootstrap},
		{"--admin-address-path", "", p.admin},
		{"--log-format", "", logFormat},
		{"--concurrency", "", "2"},
		{"--file-flush-interval-msec", "", "10"},
		{"--log-level", "-l", "error"},
		{"--component-log-level", "", "config:warning,wasm:" + cmp.Or(s.LogLevel, "info")},
	}
	// Without it, one Envoy at a time could run on a machine.
	line := []string{"--disable-hot-restart"}
	for _, o := range options {
		if !slices.ContainsFunc(s.Arguments, o.isSetBy) {
			line = append(line, o.name, o.value)
		}
	}
	return append(line, s.Arguments...)
}

func (o option) isSetBy(argument string) bool {
	name, _, _ := strings.Cut(argument, "=")
	return name == o.name || o.short != "" && name == o.short
}
