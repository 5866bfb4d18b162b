package suite

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/suite/schema"
)

// builder turns messages into tests that need nothing more to run.
type builder struct {
	files     files
	regexSize int
	callbacks int64
}

func build(message *schema.TestSuite, read FileReader) (*Suite, error) {
	switch tests := len(message.GetTest()); {
	case tests == 0:
		return nil, errors.New("the file has no test: add one")
	case tests > MaxTests:
		return nil, fmt.Errorf("the file has %d tests, more than %d: split it", tests, MaxTests)
	}
	env, err := buildEnv(message.GetEnv())
	if err != nil {
		return nil, err
	}
	b := &builder{files: files{read: read}}
	suite := &Suite{Env: env}
	for i, message := range message.GetTest() {
		test, err := b.test(message)
		if err != nil {
			return nil, fmt.Errorf("test %d (%s): %w", i+1, quote(message.GetName()), err)
		}
		suite.Tests = append(suite.Tests, test)
	}
	return suite, nil
}

func buildEnv(message *schema.Env) (Env, error) {
	level := message.GetLogLevel()
	if level == schema.Env_UNDEFINED {
		level = schema.Env_INFO
	}
	if _, known := schema.Env_LogLevel_name[int32(level)]; !known {
		return Env{}, fmt.Errorf("env.log_level: %d is unknown: use one of %s", level, names(level.Descriptor().Values()))
	}
	now, err := clock(message.GetTimeSecs())
	if err != nil {
		return Env{}, fmt.Errorf("env.time_secs: %w", err)
	}
	return Env{
		WasmPath: message.GetWasmPath(), ConfigPath: message.GetConfigPath(),
		LogLevel: int(level - schema.Env_TRACE), Now: now,
	}, nil
}

// clock returns the time of the plugin's clocks. Plugins get it in nanoseconds. Those
// written in Go do not start when it is 0.
func clock(seconds uint64) (time.Time, error) {
	switch {
	case seconds == 0:
		return time.UnixMilli(1).UTC(), nil
	case seconds > math.MaxInt64/uint64(time.Second):
		return time.Time{}, fmt.Errorf("%d is after the year 2262: use an earlier time", seconds)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

func (b *builder) test(message *schema.Test) (Test, error) {
	if message.GetName() == "" {
		return Test{}, errors.New("the test has no name: set name")
	}
	test := Test{Name: message.GetName(), Benchmark: message.GetBenchmark(), properties: properties(message.GetProperties())}
	if err := b.lifecycle(message, &test); err != nil {
		return Test{}, err
	}
	err := b.phases(message, &test)
	return test, err
}

// properties returns properties by path: the first of a path counts.
func properties(messages []*schema.Property) map[string][]byte {
	values := map[string][]byte{}
	for _, property := range messages {
		if _, found := values[property.GetPath()]; !found {
			values[property.GetPath()] = property.GetValue()
		}
	}
	return values
}

// lifecycle builds what is expected outside of the phases: nothing but log lines.
func (b *builder) lifecycle(message *schema.Test, test *Test) error {
	for _, part := range []struct {
		name    string
		message *schema.Expectation
		into    *[]matcher
	}{
		{pluginInit, message.GetPluginInit(), &test.pluginInit},
		{streamInit, message.GetStreamInit(), &test.streamInit},
		{streamDestroy, message.GetStreamDestroy(), &test.streamDestroy},
	} {
		matchers, err := b.matchers(part.name+".log", part.message.GetLog())
		if err != nil {
			return err
		}
		*part.into = matchers
	}
	return nil
}

// phases builds the phases in the order in which they run.
func (b *builder) phases(message *schema.Test, test *Test) error {
	if err := b.headersPhase(requestHeaders, message.GetRequestHeaders(), test); err != nil {
		return err
	}
	if err := b.bodyPhases(requestBody, message.GetRequestBody(), message, test); err != nil {
		return err
	}
	if err := b.headersPhase(responseHeaders, message.GetResponseHeaders(), test); err != nil {
		return err
	}
	return b.bodyPhases(responseBody, message.GetResponseBody(), message, test)
}

func (b *builder) headersPhase(name string, message *schema.Invocation, test *Test) error {
	if message == nil {
		return nil
	}
	headers, err := b.headers(name+".input", message.GetInput(), name == requestHeaders)
	if err != nil {
		return err
	}
	if err := b.count(1); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	expect, err := b.expectation(name+".result", message.GetResult())
	test.phases = append(test.phases, phase{name: name, headers: headers, expect: expect})
	return err
}

func (b *builder) bodyPhases(name string, messages []*schema.Invocation, message *schema.Test, test *Test) error {
	if len(messages) > 1 && message.GetBodyChunkingPlan() != nil {
		return fmt.Errorf("%s: there are %d bodies and a plan to cut one into chunks: remove num_chunks or chunk_size, or use one body", name, len(messages))
	}
	for i, invocation := range messages {
		path := entry(name, i)
		body, err := b.body(path+".input", invocation.GetInput())
		if err != nil {
			return err
		}
		chunks, size, err := plan(int64(len(body)), message)
		if err == nil {
			err = b.count(chunks)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		expect, err := b.expectation(path+".result", invocation.GetResult())
		if err != nil {
			return err
		}
		test.phases = append(test.phases, phase{name: name, chunks: cut(body, chunks, size), expect: expect})
	}
	return nil
}

// count adds callbacks to those of the other phases of the file.
func (b *builder) count(callbacks int64) error {
	if b.callbacks += callbacks; b.callbacks > MaxCallbacks {
		return fmt.Errorf("the tests have more than %d headers and chunks: use fewer, or split the file", MaxCallbacks)
	}
	return nil
}

// entry returns the path of an entry of a repeated field.
func entry(path string, index int) string { return fmt.Sprintf("%s[%d]", path, index) }

// headers returns the headers of an input, whichever field has them.
func (b *builder) headers(path string, input *schema.Input, isRequest bool) (headerMap, error) {
	content, err := b.body(path, input)
	if err != nil {
		return nil, err
	}
	if len(content) > 0 || input.GetFile() != "" {
		headers, err := parseHTTP1(content, isRequest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return headers, nil
	}
	headers := headerMap{}
	for i, header := range input.GetHeader() {
		if header.GetKey() == "" {
			return nil, noKey(entry(path+".header", i))
		}
		headers.add(header.GetKey(), string(header.GetValue()))
	}
	return headers, nil
}

func noKey(path string) error { return fmt.Errorf("%s: the header has no name: set key", path) }

// body returns the content of an input; nil when the input has none.
func (b *builder) body(path string, input *schema.Input) ([]byte, error) {
	fields := 0
	for _, set := range []bool{len(input.GetHeader()) > 0, len(input.GetContent()) > 0, input.GetFile() != ""} {
		if set {
			fields++
		}
	}
	if fields > 1 {
		return nil, fmt.Errorf("%s: header, content and file exclude each other: use one", path)
	}
	if input.GetFile() == "" {
		return input.GetContent(), nil
	}
	content, err := b.files.content(input.GetFile())
	if err != nil {
		return nil, fmt.Errorf("%s.file: %w", path, err)
	}
	return content, nil
}

func (b *builder) expectation(path string, message *schema.Expectation) (expectation, error) {
	e := expectation{immediate: message.GetImmediate()}
	for i, header := range message.GetHasHeader() {
		if header.GetKey() == "" {
			return e, noKey(entry(path+".has_header", i))
		}
		e.hasHeaders = append(e.hasHeaders, host.Header{Name: header.GetKey(), Value: string(header.GetValue())})
	}
	for i, header := range message.GetNoHeader() {
		if header.GetKey() == "" {
			return e, noKey(entry(path+".no_header", i))
		}
		e.noHeaders = append(e.noHeaders, header.GetKey())
	}
	var err error
	if e.headers, err = b.matchers(path+".headers", message.GetHeaders()); err != nil {
		return e, err
	}
	if e.body, err = b.matchers(path+".body", message.GetBody()); err != nil {
		return e, err
	}
	e.logs, err = b.matchers(path+".log", message.GetLog())
	return e, err
}

func (b *builder) matchers(path string, messages []*schema.StringMatcher) ([]matcher, error) {
	var matchers []matcher
	for i, message := range messages {
		m, err := b.matcher(message)
		if err != nil {
			return nil, fmt.Errorf("%s%w", entry(path, i), err)
		}
		matchers = append(matchers, m)
	}
	return matchers, nil
}

// matcher builds a matcher. Errors begin with the rest of the path.
func (b *builder) matcher(message *schema.StringMatcher) (matcher, error) {
	m := matcher{none: message.GetInvert()}
	var err error
	switch with := message.GetMatcher().(type) {
	case *schema.StringMatcher_Exact:
		m.exact = string(with.Exact)
	case *schema.StringMatcher_Regex:
		if m.regex, err = compile(with.Regex, &b.regexSize); err != nil {
			return m, fmt.Errorf(".regex: %w", err)
		}
	case *schema.StringMatcher_File:
		content, err := b.files.content(with.File)
		if err != nil {
			return m, fmt.Errorf(".file: %w", err)
		}
		m.exact = string(content)
	default:
		return m, errors.New(": the matcher is empty: set exact, regex or file")
	}
	return m, nil
}
