package suite

import (
	"context"
	"fmt"
	"slices"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// Start starts the plugin anew, for one test: the VM, and the plugin with its
// configuration.
type Start func(ctx context.Context) (Plugin, error)

// Plugin is a plugin that runs. After an error of its stream, only Close is called.
type Plugin interface {
	// NewStream begins a stream with attributes by their path, such as source.address.
	// The error of this and of the methods of Stream is that the VM has failed.
	NewStream(properties map[string][]byte) (Stream, error)
	// Logs returns the lines that were logged since the last call, or since the start.
	Logs() []string
	// Close ends the plugin and frees the VM.
	Close() error
}

// Stream has the callbacks of one stream. Headers are changed in place.
type Stream interface {
	RequestHeaders(h *host.Headers, endOfStream bool) (Phase, error)
	RequestBody(chunk []byte, endOfStream bool) (Phase, error)
	ResponseHeaders(h *host.Headers, endOfStream bool) (Phase, error)
	ResponseBody(chunk []byte, endOfStream bool) (Phase, error)
	// Close ends the stream.
	Close() error
}

// Phase is what a callback did.
type Phase struct {
	// Continue reports whether the headers or the chunk go on.
	Continue bool
	// Body is the chunk after the callback.
	Body []byte
	// Immediate is the reply that the plugin has sent in the callback; nil for none.
	Immediate *host.LocalReply
}

// Results are those of all tests of a suite, in its order.
type Results []Result

// Result is that of one test.
type Result struct {
	Name string
	// Failures are the first MaxFailures, and that the plugin failed.
	Failures []Failure
}

// Passed reports whether everything was as expected.
func (r Result) Passed() bool { return len(r.Failures) == 0 }

// Failure is something that is not as expected.
type Failure struct {
	// Phase is where, as the test file names it.
	Phase           string
	Expected, Found string
}

// String returns the failure as a sentence.
func (f Failure) String() string {
	return fmt.Sprintf("%s: expected %s, found %s", f.Phase, f.Expected, f.Found)
}

// Run runs each test of a suite with a plugin of its own. Tests that have not begun
// when the context ends fail.
func Run(ctx context.Context, start Start, suite *Suite) Results {
	results := make(Results, len(suite.Tests))
	for i := range suite.Tests {
		test := &suite.Tests[i]
		results[i] = Result{Name: test.Name, Failures: runTest(ctx, start, test)}
	}
	return results
}

func runTest(ctx context.Context, start Start, test *Test) []Failure {
	if err := context.Cause(ctx); err != nil {
		return []Failure{{pluginInit, "that the test runs", "that there was no time left: " + err.Error()}}
	}
	plugin, err := start(ctx)
	if err != nil {
		return []Failure{{pluginInit, "that the plugin starts", err.Error()}}
	}
	r := &runner{plugin: plugin}
	phase, failed := r.run(test)
	closed := plugin.Close()
	switch {
	case failed != nil:
		r.failures = append(r.failures, Failure{phase, "that the plugin goes on", failed.Error()})
	case closed != nil:
		r.failures = append(r.failures, Failure{pluginDestroy, "that the plugin ends", closed.Error()})
	}
	return r.failures
}

// runner passes one test through a plugin.
type runner struct {
	plugin   Plugin
	stream   Stream
	failures []Failure
	// replied says that the plugin has sent an immediate reply, after which it is not
	// called for other phases.
	replied bool
}

// run runs all phases. An error is that the plugin failed, in the phase with this name.
func (r *runner) run(test *Test) (phase string, err error) {
	r.failures = checkLogs(pluginInit, test.pluginInit, r.plugin.Logs())
	if r.stream, err = r.plugin.NewStream(test.properties); err != nil {
		return streamInit, err
	}
	r.add(checkLogs(streamInit, test.streamInit, r.plugin.Logs()))
	for _, p := range test.phases {
		o, err := r.pass(p)
		if err != nil {
			return p.name, err
		}
		r.add(p.expect.check(p, o))
	}
	if err := r.stream.Close(); err != nil {
		return streamDestroy, err
	}
	r.add(checkLogs(streamDestroy, test.streamDestroy, r.plugin.Logs()))
	return "", nil
}

func (r *runner) add(failures []Failure) {
	r.failures = append(r.failures, failures[:min(len(failures), MaxFailures-len(r.failures))]...)
}

// pass runs one phase. After an immediate reply nothing comes of it.
func (r *runner) pass(p phase) (outcome, error) {
	switch {
	case r.replied:
		return outcome{}, nil
	case p.chunks == nil:
		return r.passHeaders(p)
	}
	return r.passBody(p)
}

// passHeaders passes headers, which never end the stream: a body phase can follow.
func (r *runner) passHeaders(p phase) (outcome, error) {
	call := r.stream.RequestHeaders
	if p.name == responseHeaders {
		call = r.stream.ResponseHeaders
	}
	headers := p.headers.lines()
	did, err := call(&headers, false)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{headers: p.headers.after(headers), logs: r.plugin.Logs(), held: !did.Continue}
	if did.Immediate != nil {
		r.reply(&o, did.Immediate)
	}
	return o, nil
}

func (r *runner) reply(o *outcome, reply *host.LocalReply) {
	r.replied = true
	o.reply, o.headers, o.body = reply, ofReply(reply.Headers), reply.Body
}

// passBody passes a body, whose last chunk ends the stream. Chunks go on even where the
// plugin holds them, and the log lines are those of the last chunk.
func (r *runner) passBody(p phase) (outcome, error) {
	var o outcome
	var body []byte
	for i, chunk := range p.chunks {
		did, err := r.passChunk(p.name, chunk, i == len(p.chunks)-1)
		if err != nil {
			return outcome{}, err
		}
		o.logs = r.plugin.Logs()
		if body = append(body, did.Body...); len(body) > MaxBodyBytes {
			return outcome{}, fmt.Errorf("a body of more than %d bytes", MaxBodyBytes)
		}
		if did.Immediate != nil {
			r.reply(&o, did.Immediate)
			if i < len(p.chunks)-1 {
				o.logs = nil
			}
			break
		}
	}
	if o.reply == nil || p.expect.immediate == nil {
		o.headers, o.body = nil, string(body)
	}
	return o, nil
}

func (r *runner) passChunk(phase string, chunk []byte, last bool) (Phase, error) {
	if phase == responseBody {
		return r.stream.ResponseBody(slices.Clone(chunk), last)
	}
	return r.stream.RequestBody(slices.Clone(chunk), last)
}
