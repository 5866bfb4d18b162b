package suite

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/wasme-io/wasme-operator/internal/preflight/suite/schema"
)

func TestSamples(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	for _, name := range samples(t) {
		content := sample(t, name)
		if _, err := Parse(name, content, sampleFile); err != nil {
			t.Error(err)
		}
		message, err := decode(name, content)
		if err != nil {
			t.Fatal(err)
		}
		collectFields(t, message, seen)
	}
	for _, field := range fieldsOf(schema.File_internal_preflight_suite_schema_suite_proto.Messages()) {
		if !seen[field] {
			t.Errorf("no sample has %s", field)
		}
	}
}

func TestFormsAreEqual(t *testing.T) {
	fromText, err := decode("a.textpb", sample(t, "all-fields.textpb"))
	if err != nil {
		t.Fatal(err)
	}
	fromYAML, err := decode("a.yaml", sample(t, "all-fields.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	fromText.Test[1].ResponseBody[0].Input.Content = []byte("\x00ÿ four") // YAML has text only
	if !proto.Equal(fromText, fromYAML) {
		t.Errorf("%v is not %v", fromYAML, fromText)
	}
}

func TestParseEnv(t *testing.T) {
	for name, c := range map[string]struct {
		env  string
		want Env
	}{
		"defaults": {``, Env{LogLevel: 2, Now: time.UnixMilli(1).UTC()}},
		"paths":    {`env { wasm_path: "w" config_path: "c" }`, Env{WasmPath: "w", ConfigPath: "c", LogLevel: 2, Now: time.UnixMilli(1).UTC()}},
		"trace":    {`env { log_level: TRACE }`, Env{LogLevel: 0, Now: time.UnixMilli(1).UTC()}},
		"critical": {`env { log_level: CRITICAL }`, Env{LogLevel: 5, Now: time.UnixMilli(1).UTC()}},
		"time":     {`env { time_secs: 1700000000 }`, Env{LogLevel: 2, Now: time.Unix(1700000000, 0).UTC()}},
		"time 0":   {`env { time_secs: 0 }`, Env{LogLevel: 2, Now: time.UnixMilli(1).UTC()}},
	} {
		t.Run(name, func(t *testing.T) {
			suite, err := Parse("a.textpb", []byte(c.env+` test { name: "t" }`), nil)
			if err != nil {
				t.Fatal(err)
			}
			if suite.Env != c.want {
				t.Errorf("%+v, not %+v", suite.Env, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	many := func(n int, text string) string { return strings.Repeat(text, n) }
	for name, c := range map[string]struct{ file, content, want string }{
		"an unknown form":             {"a.json", `{}`, "the form of the file is unknown: end its name with .textpb"},
		"a file too large":            {"a.yaml", many(MaxFileBytes+1, " "), "the file has 1048577 bytes, more than 1048576: split it"},
		"no tests":                    {"a.textpb", ``, "the file has no test: add one"},
		"an empty YAML file":          {"a.yaml", ``, "the file has no test: add one"},
		"a YAML file with comments":   {"a.yaml", "# none\n", "the file has no test: add one"},
		"a null":                      {"a.yaml", "~", "the file has no test: add one"},
		"too many tests":              {"a.textpb", many(MaxTests+1, `test{name:"t"}`), "the file has 1001 tests, more than 1000: split it"},
		"an unknown field":            {"a.textpb", "\ntest { nam: \"t\" }", "(line 2:8): unknown field: nam: write a TestSuite as textproto"},
		"an unknown key":              {"a.yaml", "test:\n- nam: t", `line 2: Test has no field "nam": its fields are name, benchmark, request_headers`},
		"a merge key":                 {"a.yaml", "test:\n- &a {name: t}\n- <<: *a", `line 3: Test has no field "<<"`},
		"invalid YAML":                {"a.yaml", "test: [", "line 1: did not find expected node content: correct the YAML"},
		"two documents":               {"a.yaml", "test: [{name: t}]\n---\ntest: []", "more than one YAML document: use one"},
		"a key twice":                 {"a.yaml", "test:\n- name: t\n  name: u", "line 3: name is there twice: remove one"},
		"two of a oneof":              {"a.yaml", "test:\n- num_chunks: 1\n  chunk_size: 1", "line 3: num_chunks and chunk_size exclude each other: remove one"},
		"a list for a mapping":        {"a.yaml", "env: []", `line 1: Env is not a mapping: write some of its fields, such as "test_path:"`},
		"a mapping for a list":        {"a.yaml", "test: {}", "line 1: test is not a sequence: begin each entry with a dash"},
		"a text for a list":           {"a.yaml", "test: t", "line 1: test is not a sequence"},
		"nothing for a text":          {"a.yaml", "test:\n- name:", `line 2: name has no value: write one, "" for an empty text`},
		"a list for a text":           {"a.yaml", "test: [{name: [t]}]", "name has no value"},
		"a text for a number":         {"a.yaml", "test: [{num_chunks: two}]", `num_chunks cannot be "two": write a number of type int32`},
		"a number too large":          {"a.yaml", "test: [{num_chunks: 2147483648}]", `num_chunks cannot be "2147483648"`},
		"a number below zero":         {"a.yaml", "env: {time_secs: -1}", `time_secs cannot be "-1": write a number of type uint64`},
		"a text for a bool":           {"a.yaml", "test: [{benchmark: maybe}]", `benchmark cannot be "maybe": write true or false`},
		"an unknown level":            {"a.yaml", "env: {log_level: LOUD}", `log_level cannot be "LOUD": write one of UNDEFINED, TRACE`},
		"a level out of range":        {"a.yaml", "env: {log_level: 9}", `log_level cannot be "9"`},
		"a level out of range, text":  {"a.textpb", `env { log_level: 9 } test { name: "t" }`, "env.log_level: 9 is unknown: use one of UNDEFINED, TRACE"},
		"a time out of range":         {"a.textpb", `env { time_secs: 9223372037 } test { name: "t" }`, "env.time_secs: 9223372037 is after the year 2262: use an earlier time"},
		"aliases that grow":           {"a.yaml", "test:\n- name: t\n  request_headers: &a {input: {header: &b [" + many(1000, "{key: a},") + "]}}\n" + many(999, "- {name: t, request_headers: *a}\n"), "the aliases make the file larger than 2097152 bytes: use fewer"},
		"a test without a name":       {"a.textpb", `test { name: "t" } test {}`, `test 2 (""): the test has no name: set name`},
		"a header without a name":     {"a.textpb", headersTest(`input { header { value: "v" } }`), `test 1 ("t"): request_headers.input.header[0]: the header has no name: set key`},
		"has_header without a name":   {"a.textpb", headersTest(`result { has_header { value: "v" } }`), `request_headers.result.has_header[0]: the header has no name: set key`},
		"no_header without a name":    {"a.textpb", headersTest(`result { no_header { value: "v" } }`), `request_headers.result.no_header[0]: the header has no name: set key`},
		"an empty matcher":            {"a.textpb", headersTest(`result { headers {} }`), `request_headers.result.headers[0]: the matcher is empty: set exact, regex or file`},
		"an invalid regex":            {"a.textpb", headersTest(`result { log { exact: "" } log { regex: "[a" } }`), "request_headers.result.log[1].regex: error parsing regexp: missing closing ]: `[a`: write an RE2 expression"},
		"a regex of a lifecycle":      {"a.textpb", `test { name: "t" stream_destroy { log { regex: "(" } } }`, `test 1 ("t"): stream_destroy.log[0].regex: error parsing regexp`},
		"a long regex":                {"a.textpb", headersTest(`result { body { regex: "` + many(MaxRegexBytes+1, "a") + `" } }`), "the expression has 4097 bytes, more than 4096: shorten it"},
		"large regexes":               {"a.textpb", headersTest(`result { ` + many(201, `body { regex: ".{1000}" } `) + `}`), "body[99].regex: the regular expressions of the file are too large"},
		"a regex of a body":           {"a.textpb", bodyTest("", `result { body { regex: "(" } }`), "request_body[0].result.body[0].regex: error parsing regexp"},
		"two inputs":                  {"a.textpb", headersTest(`input { content: "GET / HTTP/1.1" file: "f" }`), "request_headers.input: header, content and file exclude each other: use one"},
		"headers for a body":          {"a.textpb", bodyTest("", `input { header { key: "a" } content: "b" }`), "request_body[0].input: header, content and file exclude each other"},
		"an absolute path":            {"a.textpb", headersTest(`input { file: "/etc/passwd" }`), `request_headers.input.file: "/etc/passwd" is not in the folder of the test file: move it there`},
		"a path that leads out":       {"a.textpb", headersTest(`result { body { file: "a/../../b" } }`), `request_headers.result.body[0].file: "a/../../b" is not in the folder of the test file`},
		"a file that is missing":      {"a.textpb", bodyTest("", `input { file: "missing" }`), `request_body[0].input.file: reading "missing": open testdata/missing: no such file`},
		"a request without its line":  {"a.textpb", headersTest(`input { content: "Host: a" }`), `request_headers.input: "Host: a" is no request line: begin with one such as GET /path HTTP/1.1`},
		"a plan for two bodies":       {"a.textpb", `test { name: "t" chunk_size: 1 response_body {} response_body {} }`, `response_body: there are 2 bodies and a plan to cut one into chunks: remove num_chunks or chunk_size, or use one body`},
		"no chunks":                   {"a.textpb", bodyTest("num_chunks: 0", `input { content: "b" }`), "request_body[0]: num_chunks is 0: use 1 or more"},
		"chunks of no size":           {"a.textpb", bodyTest("chunk_size: -1", `input { content: "b" }`), "request_body[0]: chunk_size is -1: use 1 or more"},
		"more chunks than bytes":      {"a.textpb", bodyTest("num_chunks: 5", `input { content: "abc" }`), "the body has 3 bytes, fewer than num_chunks, 5: use a longer body or fewer chunks"},
		"more chunks than callbacks":  {"a.textpb", bodyTest("chunk_size: 1", `input { content: "`+many(MaxCallbacks+1, "a")+`" }`), "request_body[0]: the tests have more than 20000 headers and chunks: use fewer, or split the file"},
		"more bodies than callbacks":  {"a.textpb", `test { name: "t" ` + many(MaxCallbacks, "request_body {} ") + "response_headers {} }", "response_headers: the tests have more than 20000 headers and chunks"},
		"two of a oneof, as text":     {"a.textpb", `test { num_chunks: 1 chunk_size: 1 }`, "(line 1:"},
		"a field of text twice":       {"a.textpb", `test { name: "t" name: "u" }`, "(line 1:18)"},
		"headers that are no headers": {"a.textpb", headersTest(`input { content: "GET / HTTP/1.1\nno colon" }`), `write header lines such as "name: value"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.file, []byte(c.content), sampleFile)
			if err == nil || !strings.HasPrefix(err.Error(), c.file+": ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %s", err, c.want)
			}
		})
	}
}

func TestParseBoundsFiles(t *testing.T) {
	oneFile := headersTest(`result { body { file: "f" } }`)
	for name, c := range map[string]struct {
		content string
		size    int
		want    string
	}{
		"as large as may be": {oneFile, MaxFileBytes, ""},
		"too large":          {oneFile, MaxFileBytes + 1, `"f" has 1048577 bytes, more than 1048576: shorten it`},
		"all as large":       {headersTest("result {" + strings.Repeat(` body { file: "f" }`, 16) + "}"), MaxFileBytes, ""},
		"all too large":      {headersTest("result {" + strings.Repeat(` body { file: "f" }`, 17) + "}"), MaxFileBytes, "body[16].file: the files that the tests reference have more than 16777216 bytes together"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("a.textpb", []byte(c.content), func(string) ([]byte, error) { return make([]byte, c.size), nil })
			wantError(t, err, c.want)
		})
	}
	t.Run("no folder", func(t *testing.T) {
		_, err := Parse("a.textpb", []byte(oneFile), nil)
		wantError(t, err, `"f" cannot be read, because the test file has no folder: write the text into the test file`)
	})
}

func TestCut(t *testing.T) {
	for name, c := range map[string]struct {
		plan, body string
		want       []string
	}{
		"no plan":              {"", "abc", []string{"abc"}},
		"no body":              {"", "", []string{""}},
		"one chunk":            {"num_chunks: 1", "abc", []string{"abc"}},
		"chunks of one size":   {"num_chunks: 3", "abcdef", []string{"ab", "cd", "ef"}},
		"the rest in the last": {"num_chunks: 3", "abcdefgh", []string{"ab", "cd", "efgh"}},
		"a size that fits":     {"chunk_size: 2", "abcd", []string{"ab", "cd"}},
		"a size that does not": {"chunk_size: 2", "abcde", []string{"ab", "cd", "e"}},
		"a size too large":     {"chunk_size: 9223372036854775807", "abc", []string{"abc"}},
		"a size of no body":    {"chunk_size: 2", "", []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			suite, err := Parse("a.textpb", []byte(bodyTest(c.plan, `input { content: "`+c.body+`" }`)), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, chunk := range suite.Tests[0].phases[0].chunks {
				got = append(got, string(chunk))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range samples(f) {
		f.Add(filepath.Ext(name) == ".textpb", sample(f, name))
	}
	f.Add(false, []byte("test: [&a {name: t, request_headers: {input: &b {content: \"GET / HTTP/1.1\"}}}, *a]"))
	f.Add(false, []byte("test: &a [*a]"))
	f.Add(false, []byte("? [test]\n: - x"))
	f.Add(true, []byte(headersTest(`result { log { regex: "(?i)\\pL{3,}|\\Qx" } }`)))
	f.Fuzz(func(t *testing.T, text bool, content []byte) {
		name := "a.yaml"
		if text {
			name = "a.textpb"
		}
		suite, err := Parse(name, content, func(string) ([]byte, error) { return content, nil })
		if err != nil {
			if !strings.HasPrefix(err.Error(), name+": ") {
				t.Errorf("%v", err)
			}
			return
		}
		if len(suite.Tests) == 0 || len(suite.Tests) > MaxTests {
			t.Errorf("%d tests", len(suite.Tests))
		}
		sameAsText(t, name, content)
	})
}

// sameAsText checks that what was decoded is decoded again from its textproto.
func sameAsText(t *testing.T, name string, content []byte) {
	t.Helper()
	message, err := decode(name, content)
	if err != nil {
		t.Fatal(err)
	}
	text, err := prototext.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	again, err := decode("a.textpb", text)
	if err != nil || !proto.Equal(message, again) {
		t.Errorf("%v: %s", err, text)
	}
}

func headersTest(invocation string) string {
	return fmt.Sprintf(`test { name: "t" request_headers { %s } }`, invocation)
}

func bodyTest(plan, invocation string) string {
	return fmt.Sprintf(`test { name: "t" %s request_body { %s } }`, plan, invocation)
}

func samples(tb testing.TB) []string {
	tb.Helper()
	var names []string
	for _, pattern := range []string{"*.textpb", "*.yaml", "*.yml"} {
		matches, err := fs.Glob(os.DirFS("testdata"), pattern)
		if err != nil || len(matches) == 0 {
			tb.Fatal(pattern, err)
		}
		names = append(names, matches...)
	}
	return names
}

func sample(tb testing.TB, name string) []byte {
	tb.Helper()
	content, err := sampleFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

func sampleFile(path string) ([]byte, error) { return os.ReadFile(filepath.Join("testdata", path)) }

func collectFields(t *testing.T, message proto.Message, seen map[protoreflect.FullName]bool) {
	t.Helper()
	err := protorange.Range(message.ProtoReflect(), func(path protopath.Values) error {
		if step := path.Index(-1).Step; step.Kind() == protopath.FieldAccessStep {
			seen[step.FieldDescriptor().FullName()] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func fieldsOf(messages protoreflect.MessageDescriptors) []protoreflect.FullName {
	var fields []protoreflect.FullName
	for i := range messages.Len() {
		message := messages.Get(i)
		for j := range message.Fields().Len() {
			fields = append(fields, message.Fields().Get(j).FullName())
		}
		fields = append(fields, fieldsOf(message.Messages())...)
	}
	return fields
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%v, not %s", err, want)
	}
}
