// Package suite reads the tests that a plugin's author has written, and runs them: what
// a plugin is given, phase by phase, and what is expected of it.
//
// Test files are those of the test runner of Google's service-extensions (plugins/test,
// Apache-2.0), as textproto or YAML; package schema has their messages. What passes
// there passes here. These are the differences:
//
//   - Files have limits, and `file` leads to files in the folder of the test file only.
//   - What can only fail there when it runs, such as an invalid regex, a body with fewer
//     bytes than num_chunks, or has_header without a key, is refused by Parse.
//   - An Input has one of its fields, a YAML mapping has each key and one field of each
//     oneof once, and a test file has at least one test.
//   - HTTP/1.1 in `content` has the version in its request line, and a colon in each
//     header line.
//   - Proxies have header names in lower case. A matcher of `headers` sees each line
//     with the name in lower case, as Canonical-Form, and as the test file spells it.
//   - A body phase can expect an immediate reply, and then its body matchers see the
//     reply's body. There, `immediate` always fails in a body phase. As there, a body
//     phase that expects none does not fail because of one.
package suite

import "time"

// The limits of a test file.
const (
	// MaxFileBytes is the largest test file, and the largest file that it references.
	// The worst YAML of this size took 131 MiB to decode, the worst textproto 64 MiB.
	MaxFileBytes = 1 << 20
	// MaxFilesBytes is the size of all files that a test file references, each counted as
	// often as it is referenced.
	MaxFilesBytes = 16 << 20
	// MaxTests is the number of tests in a file. Each starts the plugin anew.
	MaxTests = 1000
	// MaxCallbacks is the number of headers and chunks of all tests.
	MaxCallbacks = 20_000
	// MaxRegexBytes is the length of a regular expression.
	MaxRegexBytes = 4 << 10
	// MaxRegexSize is the size of all regular expressions of a file: their characters,
	// classes and operators, each times its repetitions. Compiled, so many took 19 MiB.
	MaxRegexSize = 200_000
	// MaxBodyBytes is the size to which a plugin can grow a body.
	MaxBodyBytes = 16 << 20
	// MaxFailures is how many failures of a test are kept.
	MaxFailures = 20
)

// Suite is a test file that can be run.
type Suite struct {
	Env   Env
	Tests []Test
}

// Env is how the file wants the plugin to be run. Whoever starts the plugin honours it.
type Env struct {
	// WasmPath and ConfigPath are the paths of the module and of its configuration, as
	// the file has them; empty for none. The original runner takes them relative to its
	// working directory.
	WasmPath, ConfigPath string
	// LogLevel is the lowest level of the lines that Plugin.Logs returns, as proxy-wasm
	// numbers them: 0 is trace, 5 is critical. It is 2, info, when the file has none.
	LogLevel int
	// Now is what the plugin's clocks say, all the time.
	Now time.Time
}

// Test is one stream through a plugin that has just started.
type Test struct {
	// Name is what the file calls the test. Several can have the same.
	Name string
	// Benchmark reports whether the test is to be measured, too.
	Benchmark bool

	properties                            map[string][]byte
	phases                                []phase
	pluginInit, streamInit, streamDestroy []matcher // of log lines
}

// The names of phases, as test files have them.
const (
	pluginInit      = "plugin_init"
	streamInit      = "stream_init"
	requestHeaders  = "request_headers"
	requestBody     = "request_body"
	responseHeaders = "response_headers"
	responseBody    = "response_body"
	streamDestroy   = "stream_destroy"
	pluginDestroy   = "plugin_destroy"
)

// phase is headers or a body that the plugin is given.
type phase struct {
	name    string
	headers headerMap
	chunks  [][]byte // nil in a phase of headers
	expect  expectation
}
