package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/jstemmer/go-junit-report/v2/junit"
	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
	"github.com/wasme-io/wasme-operator/internal/preflight/suite"
)

// testFlags are those of wasme test.
type testFlags struct {
	from     *sources
	filter   *filterFlags
	format   *output
	requests *requestFlags
	tests    string
	traffic  string
	against  string
}

func newTest(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "test IMAGE|DIR|FILE",
		Short: "Run a filter's tests, and requests, without a proxy",
		Long: `Runs a module as the operator's preflight does, then its tests, then the requests of --request. No
proxy is needed. DIR is a project, which is built first.

The tests are those of the image or the folder (preflight-tests.yaml or preflight-tests.textpb), or
of --tests. With --traffic and --against it passes what wasme record wrote through two modules, and
shows every difference.

It exits with 3 when the module is refused, a test fails, or there is a difference.`,
		Example: `  wasme test . --config world
  wasme test . --request "GET /headers" -H "x-user: me"
  wasme test registry.example.com/filters/hello:v2 --traffic recorded.har --against registry.example.com/filters/hello:v1`,
		Args: cobra.ExactArgs(1),
	}
	t := &testFlags{from: newSources(a, c), filter: newFilterFlags(c), format: newOutput(c, "junit"), requests: newRequestFlags(c)}
	c.Flags().StringVar(&t.tests, "tests", "", "file with tests (default: that of the image or folder)")
	c.Flags().StringVar(&t.traffic, "traffic", "", "file that wasme record wrote")
	c.Flags().StringVar(&t.against, "against", "", "image, folder or .wasm file to compare with, for --traffic")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := t.check(); err != nil {
			return err
		}
		m, err := t.from.load(c.Context(), args[0])
		if err != nil {
			return err
		}
		if t.traffic != "" {
			return t.replay(c.Context(), a, m)
		}
		report, err := t.run(c.Context(), m)
		if err != nil {
			return err
		}
		if err := report.print(a, t.format); err != nil {
			return err
		}
		return report.refusal()
	}
	return c
}

// check refuses flags that do not go together.
func (t *testFlags) check() error {
	compares := t.traffic != "" && t.against != ""
	switch {
	case !compares && t.traffic+t.against != "":
		return misused("--traffic and --against go together: set both")
	case compares && (t.tests != "" || len(t.requests.requests) > 0):
		return misused("--traffic has the requests to compare the modules with: leave --tests and --request out")
	case len(t.requests.requests) == 0 && t.requests.detailed():
		return misused("--header, --data and the --response flags are for a request: add --request")
	case compares && t.format.format == "junit":
		return misused("--traffic has no output junit: use json or yaml")
	}
	return nil
}

func (t *testFlags) replay(ctx context.Context, a *app, m *image.Module) error {
	against, err := t.from.load(ctx, t.against)
	if err != nil {
		return err
	}
	return a.replay(ctx, t.traffic, m, against, t.filter, t.format)
}

// testReport is what wasme test found.
type testReport struct {
	Preflight judged       `json:"preflight"`
	Tests     []testedCase `json:"tests,omitempty"`
	Requests  []tried      `json:"requests,omitempty"`
}

type testedCase struct {
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Failures []string `json:"failures,omitempty"`
}

func (t *testFlags) run(ctx context.Context, m *image.Module) (*testReport, error) {
	requests, err := t.requests.exchanges()
	if err != nil {
		return nil, err
	}
	file, err := t.file(m)
	if err != nil {
		return nil, err
	}
	filter := t.filter.of(m)
	filter.Tests = nil // they run below, one by one
	report := &testReport{Preflight: judgedAs(run.Run(ctx, m.Wasm, filter, preflight.DefaultLimits, nil))}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if file != nil {
		results, err := run.Tests(ctx, m.Wasm, filter, preflight.DefaultLimits, *file, besides(t.tests))
		if err != nil {
			return nil, err
		}
		report.add(results)
	}
	if len(requests) == 0 || report.Preflight.verdict.Refused() {
		return report, nil
	}
	outcomes, err := run.Try(ctx, m.Wasm, filter, preflight.DefaultLimits, requests...)
	if err != nil {
		return nil, err
	}
	for _, outcome := range outcomes {
		report.Requests = append(report.Requests, triedAs(outcome))
	}
	return report, nil
}

// file returns the file with the tests; nil for none.
func (t *testFlags) file(m *image.Module) (*module.Tests, error) {
	if t.tests == "" {
		return m.Tests, nil
	}
	content, err := os.ReadFile(t.tests)
	if err != nil {
		return nil, fmt.Errorf("reading the tests: %w", err)
	}
	return &module.Tests{Name: filepath.Base(t.tests), Content: content}, nil
}

// besides opens the files that a test file references: those of its folder.
func besides(file string) func(string) ([]byte, error) {
	if file == "" {
		return func(path string) ([]byte, error) {
			return nil, fmt.Errorf("the tests reference %s: run them from a file, with --tests", path)
		}
	}
	return func(path string) ([]byte, error) {
		folder, err := os.OpenRoot(filepath.Dir(file))
		if err != nil {
			return nil, err
		}
		defer folder.Close()
		return folder.ReadFile(path)
	}
}

func (r *testReport) add(results suite.Results) {
	for _, result := range results {
		tested := testedCase{Name: result.Name, Passed: result.Passed()}
		for _, failure := range result.Failures {
			tested.Failures = append(tested.Failures, failure.String())
		}
		r.Tests = append(r.Tests, tested)
	}
}

// refusal returns why the answer is no; nil when it is yes.
func (r *testReport) refusal() error {
	var reasons []string
	if r.Preflight.verdict.Refused() {
		reasons = append(reasons, "the operator's preflight refuses the module")
	}
	failed := 0
	for _, tested := range r.Tests {
		if !tested.Passed {
			failed++
		}
	}
	if failed > 0 {
		reasons = append(reasons, fmt.Sprintf("%d of %d tests failed", failed, len(r.Tests)))
	}
	for _, request := range r.Requests {
		if request.Failure != "" {
			reasons = append(reasons, "the module crashed in "+request.Name)
			break
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return refuse("%s", strings.Join(reasons, ", "))
}

func (r *testReport) print(a *app, format *output) error {
	switch format.format {
	case "":
		return r.write(a.Out)
	case "junit":
		return r.junit().WriteXML(a.Out)
	}
	return format.print(a, r, nil)
}

// write writes the report for people.
func (r *testReport) write(to io.Writer) error {
	w := &textWriter{to: to}
	w.line("preflight: %s: %s", r.Preflight.Reason, r.Preflight.Message)
	for _, logged := range r.Preflight.Logs {
		w.line("  log: %s", logged)
	}
	for _, warning := range r.Preflight.Warnings {
		w.line("  warning: it crashes on %s", warning)
	}
	for _, tested := range r.Tests {
		verdict := "ok  "
		if !tested.Passed {
			verdict = "FAIL"
		}
		w.line("%s %s", verdict, tested.Name)
		for _, failure := range tested.Failures {
			w.line("     %s", failure)
		}
	}
	for _, request := range r.Requests {
		if w.err == nil {
			w.err = showExchange(to, request.exchange)
		}
	}
	return w.err
}

// textWriter writes lines until one fails.
type textWriter struct {
	to  io.Writer
	err error
}

func (l *textWriter) line(format string, args ...any) {
	if l.err == nil {
		_, l.err = fmt.Fprintf(l.to, format+"\n", args...)
	}
}

// junit returns the report in the form that build servers read.
func (r *testReport) junit() *junit.Testsuites {
	var suites junit.Testsuites
	verdict := junit.Testcase{Name: "preflight"}
	if r.Preflight.verdict.Refused() {
		verdict.Failure = &junit.Result{Message: r.Preflight.Reason, Data: r.Preflight.Message}
	}
	checks := junit.Testsuite{Name: "wasme test"}
	checks.AddTestcase(verdict)
	for _, tested := range r.Tests {
		result := junit.Testcase{Name: tested.Name}
		if !tested.Passed {
			result.Failure = &junit.Result{Message: tested.Failures[0], Data: strings.Join(tested.Failures, "\n")}
		}
		checks.AddTestcase(result)
	}
	for _, request := range r.Requests {
		result := junit.Testcase{Name: request.Name}
		if request.Failure != "" {
			result.Failure = &junit.Result{Message: request.Failure, Data: strings.Join(request.Logs, "\n")}
		}
		checks.AddTestcase(result)
	}
	suites.AddSuite(checks)
	return &suites
}
