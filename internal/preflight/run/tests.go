package run

import (
	"context"
	"fmt"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/suite"
)

// test runs the tests that came with the filter, if any did.
func (r *run) test() *preflight.Verdict {
	for _, file := range r.filter.Tests {
		results, err := r.testFile(file, noFiles)
		if err != nil {
			return &preflight.Verdict{Reason: wasmev1.ReasonTestsFailed, Message: cutTo(err.Error(), maxTestMessage)}
		}
		if failed := failedTests(file.Name, results); failed != nil {
			return failed
		}
		r.tests += len(results)
	}
	return nil
}

// testFile runs the tests of one file. The error says why it cannot be read.
func (r *run) testFile(file module.Tests, open func(path string) ([]byte, error)) (suite.Results, error) {
	tests, err := suite.Parse(file.Name, file.Content, open)
	if err != nil {
		return nil, fmt.Errorf("the tests in %s cannot be read: %w", file.Name, err)
	}
	r.notes.doing("in the tests in " + file.Name)
	return suite.Run(r.ctx, func(context.Context) (suite.Plugin, error) { return r.startForTest(tests.Env) }, tests), nil
}

// noFiles refuses the files that a test file references: it comes alone.
func noFiles(path string) ([]byte, error) {
	return nil, fmt.Errorf("the operator has the test file only, not %s: put its content into the test file", path)
}

// shownTests is the number of failed tests in a message.
const shownTests = 3

// failedTests returns the verdict on the results of tests; nil when all have passed.
func failedTests(file string, results suite.Results) *preflight.Verdict {
	var failed []string
	for _, result := range results {
		if !result.Passed() {
			failed = append(failed, fmt.Sprintf("%q in %s", result.Name, result.Failures[0]))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	message := fmt.Sprintf("the module fails %d of the %d tests in %s: %s", len(failed), len(results), file, strings.Join(failed[:min(len(failed), shownTests)], "; "))
	return &preflight.Verdict{Reason: wasmev1.ReasonTestsFailed, Message: cutTo(clean(message), maxTestMessage)}
}

// maxTestMessage bounds the characters of a message about tests.
const maxTestMessage = 900

// tested is a plugin under test, in a VM of its own.
type tested struct {
	vm     *host.VM
	plugin *host.Plugin
	lines  []string
	bytes  int
}

// maxTestLogs bounds what is kept of what a module logs in one phase of a test.
const maxTestLogs = 1 << 20

// startForTest starts the filter as a test file wants it.
func (r *run) startForTest(env suite.Env) (suite.Plugin, error) {
	t := &tested{plugin: r.plugin()}
	options := r.options()
	options.Now = func() time.Time { return env.Now }
	options.LogLevel = host.Level(env.LogLevel) //nolint:gosec // the suite bounds it
	options.Log = func(line host.Line) {
		if line.Level >= options.LogLevel && t.bytes < maxTestLogs {
			t.lines = append(t.lines, line.Text)
			t.bytes += len(line.Text) + 1
		}
	}
	vm, err := r.program.NewVM(host.NewWorld(r.ctx), options)
	if err != nil {
		return nil, err
	}
	t.vm = vm
	if err := vm.Configure(t.plugin); err != nil {
		_ = vm.Close() // memory only
		return nil, err
	}
	return t, nil
}

// NewStream implements suite.Plugin.
func (t *tested) NewStream(properties map[string][]byte) (suite.Stream, error) {
	s := t.vm.NewStream(t.plugin, properties)
	if f := t.vm.Failure(); f != nil {
		return nil, f
	}
	return testedStream{s}, nil
}

// Logs implements suite.Plugin.
func (t *tested) Logs() []string {
	lines := t.lines
	t.lines, t.bytes = nil, 0
	return lines
}

// Close implements suite.Plugin.
func (t *tested) Close() error {
	t.vm.Remove(t.plugin)
	failure := t.vm.Failure()
	_ = t.vm.Close() // memory only
	if failure != nil {
		return failure
	}
	return nil
}

// testedStream has the phases of a test.
type testedStream struct{ *host.Stream }

func phase(did host.Reaction, err error) (suite.Phase, error) {
	return suite.Phase{Continue: did.Continue, Body: did.Body, Immediate: did.Local}, err
}

// RequestHeaders implements suite.Stream.
func (s testedStream) RequestHeaders(h *host.Headers, endOfStream bool) (suite.Phase, error) {
	return phase(s.Headers(host.ToUpstream, h, endOfStream))
}

// RequestBody implements suite.Stream.
func (s testedStream) RequestBody(chunk []byte, endOfStream bool) (suite.Phase, error) {
	return phase(s.Body(host.ToUpstream, chunk, endOfStream))
}

// ResponseHeaders implements suite.Stream.
func (s testedStream) ResponseHeaders(h *host.Headers, endOfStream bool) (suite.Phase, error) {
	return phase(s.Headers(host.ToClient, h, endOfStream))
}

// ResponseBody implements suite.Stream.
func (s testedStream) ResponseBody(chunk []byte, endOfStream bool) (suite.Phase, error) {
	return phase(s.Body(host.ToClient, chunk, endOfStream))
}
