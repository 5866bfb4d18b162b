package run

import (
	"context"
	"errors"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/suite"
)

// Tests runs the tests in a file, and nothing else. Open returns the content of the files
// that it references. The error says why the module cannot be run, or the file read.
func Tests(ctx context.Context, wasm []byte, filter preflight.Filter, limits preflight.Limits, file module.Tests, open func(path string) ([]byte, error)) (suite.Results, error) {
	r, failed := begin(ctx, wasm, filter, limits, nil)
	if failed != nil {
		return nil, errors.New(failed.Message)
	}
	defer r.end()
	return r.testFile(file, open)
}

// Tried is what became of an exchange.
type Tried struct {
	Sent    host.Exchange
	Outcome host.Outcome
	// Logs are the lines that the module logged meanwhile.
	Logs []host.Line
	// Failure is why the module cannot go on; nil when it can.
	Failure *host.Failure
	// MemoryBytes is the module's memory after it.
	MemoryBytes uint64
}

// maxTriedLines bounds what is kept of what a module logs in one exchange.
const maxTriedLines = 1000

// Try passes exchanges through a module that has just started, one after another. Call-outs
// get what a preflight answers the first of them. The error says why the module does not
// start, with its last log lines.
func Try(ctx context.Context, wasm []byte, filter preflight.Filter, limits preflight.Limits, exchanges ...host.Exchange) ([]Tried, error) {
	r, failed := begin(ctx, wasm, filter, limits, nil)
	if failed != nil {
		return nil, errors.New(failed.Message)
	}
	defer r.end()
	vm, plugin, failed := r.start()
	if failed != nil {
		return nil, errors.New(failed.Message)
	}
	defer vm.Close()
	var lines []host.Line
	r.logs.also = func(line host.Line) {
		if len(lines) < maxTriedLines {
			lines = append(lines, line)
		}
	}
	tried := make([]Tried, 0, len(exchanges))
	for _, sent := range exchanges {
		lines = nil
		drive := vm.NewDrive(plugin, sent)
		for drive.Step() {
		}
		if drive.Waiting() {
			r.serve(vm, 0)
			for drive.Step() {
			}
		}
		outcome := drive.Close()
		tried = append(tried, Tried{Sent: sent, Outcome: outcome, Logs: lines, Failure: vm.Failure(), MemoryBytes: vm.MemoryBytes()})
	}
	return tried, nil
}

// Request returns a request as the synthetic ones are, without a body.
func Request(method, path string) host.Message {
	m := request(0, method)
	m.Headers.Set(":path", path)
	return m
}

// Response returns a response as the synthetic ones are, without a body.
func Response(status string) host.Message { return response(status) }
