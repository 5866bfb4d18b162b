package agreement_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
	"github.com/wasme-io/wasme-operator/test/agreement"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/filters/foreign"
)

var (
	streams = flag.Int("streams", 25, "random streams that pass each module")
	update  = flag.Bool("update", false, "write the table of docs/agreement.md")
)

// versions are the oldest and the newest Envoy of the matrix.
var versions = []string{"1.36.4", "1.40.0"}

// subject is a module with what it is tried with.
type subject struct {
	name, language string
	rootID         string
	good           string
	bad            []string
	build          func(context.Context) ([]byte, error)
	// unknown says what only a real proxy can tell the module; its streams are not compared.
	unknown string
}

// unknown are the modules whose streams are not compared, and why.
var unknown = map[string]string{
	"rust/properties":           "addresses and ids of connections",
	"assemblyscript/properties": "addresses and ids of connections",
	"go/properties":             "addresses and ids of connections",
	"go/ticks":                  "when ticks come",
}

// holdsUntilTick is the module, of those that are compared, that holds requests until a tick.
const holdsUntilTick = "rust/postpone"

// subjects are all modules that can be built here.
func subjects() []subject {
	var all []subject
	for _, name := range []string{filters.Hello, filters.Refuse, filters.Trap, filters.Import, filters.Environ, filters.Tracking, filters.Flawed} {
		s := subject{name: name, language: "go", rootID: filters.RootID, build: func(ctx context.Context) ([]byte, error) { return filters.Build(ctx, name) }}
		switch name {
		case filters.Hello, filters.Trap:
			s.bad = []string{filters.RefusedConfiguration}
		case filters.Tracking:
			s.good = `{"tracking_header": "x-tracking"}`
		case filters.Flawed:
			s.good = `{"fail": 3}`
		}
		all = append(all, s)
	}
	for _, m := range foreign.All {
		s := subject{
			name: m.Name, language: string(m.Language), rootID: m.RootID, good: m.Configuration, bad: m.Refused,
			build: func(ctx context.Context) ([]byte, error) { return foreign.Build(ctx, m.Name) }, unknown: unknown[m.Name],
		}
		all = append(all, s)
	}
	return all
}

// row is what the table says of a module.
type row struct {
	module, language, verdicts string
	streams                    int
	differences                string
}

// TestThePreflightAgreesWithEnvoy passes every module through the preflight and through
// real Envoys, with good and bad configurations and random streams.
func TestThePreflightAgreesWithEnvoy(t *testing.T) {
	all := subjects()
	table := make([]row, len(all))
	t.Run("modules", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				table[i] = compare(t, s)
			})
		}
	})
	if !t.Failed() {
		checkTable(t, table)
	}
}

// compare passes one module through the preflight and through both Envoys.
func compare(t *testing.T, s subject) row {
	t.Helper()
	module, err := s.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := row{module: s.name, language: s.language, differences: cmp.Or(s.unknown, "none")}
	r.verdicts = compareVerdicts(t, s, module)
	if s.unknown == "" && strings.HasPrefix(r.verdicts, "accepted") {
		for _, version := range versions {
			r.streams += compareStreams(t, version, s, module)
		}
	}
	return r
}

// compareVerdicts starts the module with each configuration in an Envoy and in the
// preflight, and returns what both said of the good one and how many of the bad ones both
// refused.
func compareVerdicts(t *testing.T, s subject, module []byte) string {
	t.Helper()
	refused := 0
	said := ""
	for i, configuration := range append([]string{s.good}, s.bad...) {
		v := run.Run(t.Context(), module, preflight.Filter{RootID: s.rootID, Configuration: []byte(configuration)}, preflight.DefaultLimits, nil)
		byHost := slices.Contains(startReasons, v.Reason) || v.Reason == wasmev1.ReasonTrapped && !strings.Contains(v.Message, "stream")
		for _, version := range versions {
			if byEnvoy := startRefused(t, setupOf(version, s, module, configuration)); byEnvoy != byHost {
				t.Errorf("Envoy %s, configuration %q: refused %v, by the preflight %v (%s: %s)", version, configuration, byEnvoy, byHost, v.Reason, v.Message)
			}
		}
		switch {
		case i > 0 && byHost:
			refused++
		case i == 0 && byHost:
			said = "refused: " + v.Reason
		case i == 0:
			said = "accepted"
		}
	}
	if len(s.bad) > 0 {
		said += fmt.Sprintf(", %d of %d bad configurations refused", refused, len(s.bad))
	}
	return said
}

// startReasons are the reasons of a preflight for which a proxy refuses to start a module.
var startReasons = []string{
	wasmev1.ReasonStartFailed, wasmev1.ReasonConfigurationRefused, wasmev1.ReasonMissingImport, wasmev1.ReasonMissingExport,
	wasmev1.ReasonInvalidModule, wasmev1.ReasonUnknownRootID,
}

func setupOf(version string, s subject, module []byte, configuration string) agreement.Setup {
	return agreement.Setup{
		Version: version, Module: module, RootID: s.rootID, Configuration: configuration, VMID: "vm", Environment: map[string]string{"A": "b"},
		Answer: allowing, Serve: http.HandlerFunc(serveGRPC), Patience: patience,
	}
}

// startRefused reports whether an Envoy refuses to start with a module.
func startRefused(t *testing.T, setup agreement.Setup) bool {
	t.Helper()
	e, err := agreement.Start(t.Context(), setup)
	if err == nil {
		err = e.Close()
		if err != nil {
			t.Fatal(err)
		}
		return false
	}
	if _, refused := errors.AsType[*agreement.Refused](err); !refused {
		t.Fatal(err)
	}
	return true
}

// hosted is a module in the preflight's host.
type hosted struct {
	vm     *host.VM
	plugin *host.Plugin
	world  *host.World
	lines  []host.Line
}

// startHosted starts a module in the preflight's host.
func startHosted(t *testing.T, s subject, module []byte) *hosted {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	program, err := host.Compile(ctx, module, host.Interruptible)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close(ctx) })
	h := &hosted{world: host.NewWorld(ctx)}
	h.vm, err = program.NewVM(h.world, host.Options{
		Limits: host.Limits{MemoryBytes: 256 << 20}, VMID: "vm", Environment: map[string]string{"A": "b"}, LogLevel: host.Trace,
		Log: func(l host.Line) { h.lines = append(h.lines, host.Line{Level: l.Level, Text: l.Text}) }, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.plugin = &host.Plugin{Name: agreement.PluginName, RootID: s.rootID, Configuration: s.good}
	if err := h.vm.Configure(h.plugin); err != nil {
		t.Fatal(err)
	}
	h.lines = nil
	return h
}

// send passes an exchange through the host as Envoy passes it, with the same answers to
// call-outs.
func (h *hosted) send(exchange host.Exchange) (host.Outcome, []host.Line) {
	drive := h.vm.NewDrive(h.plugin, asParsed(exchange))
	for drive.Step() || h.serve(drive) {
		h.answer() // as Envoy has all answers before the next part comes
		drive.Settle()
	}
	outcome := drive.Close()
	h.world.DeliverQueues()
	lines := h.lines
	h.lines = nil
	return outcome, lines
}

// asParsed returns an exchange as Envoy has it once it has parsed HTTP/1.1: with :scheme,
// the pseudo headers in an order of its own, the length of no body, and the end of a body
// after its last byte.
func asParsed(exchange host.Exchange) host.Exchange {
	var pseudo, others host.Headers
	for _, name := range []string{":authority", ":path", ":method"} {
		value, _ := exchange.Request.Headers.Get(name)
		pseudo.Add(name, value)
	}
	pseudo.Add(":scheme", "http")
	for _, line := range exchange.Request.Headers {
		if !strings.HasPrefix(line.Name, ":") {
			others = append(others, line)
		}
	}
	exchange.Request.Headers = slices.Concat(pseudo, others)
	if len(exchange.Response.Body) == 0 {
		exchange.Response.Headers = append(slices.Clone(exchange.Response.Headers), host.Header{Name: "content-length", Value: "0"})
	}
	for _, m := range []*host.Message{&exchange.Request, &exchange.Response} {
		if n := len(m.Body); n > 0 && len(m.Body[n-1]) > 0 && len(m.Trailers) == 0 {
			m.Body = append(slices.Clone(m.Body), nil)
		}
	}
	return exchange
}

// serve answers what the module asks while it holds an exchange, and reports whether that
// may have let it go on.
func (h *hosted) serve(drive *host.Drive) bool {
	if !drive.Waiting() {
		return false
	}
	answered := h.answer()
	drive.Settle()
	if answered || !drive.Waiting() {
		return true
	}
	ticked := h.vm.Tick()
	drive.Settle()
	return ticked && !drive.Waiting()
}

// answer answers the calls of the module, and reports whether there were any.
func (h *hosted) answer() bool {
	calls := h.vm.Calls()
	for _, made := range calls {
		if made.GRPC {
			h.vm.Answer(made, &host.Message{Headers: host.Headers{{Name: ":status", Value: "200"}}, Body: [][]byte{{}}})
			continue
		}
		response := allowing(made.Request)
		response.Headers = append(response.Headers, pairs("transfer-encoding", "chunked", "x-envoy-upstream-service-time", "0")...)
		h.vm.Answer(made, &response)
	}
	return len(calls) > 0
}

// compareStreams passes the same random streams through an Envoy and through the host, and
// returns how many there were.
func compareStreams(t *testing.T, version string, s subject, module []byte) int {
	t.Helper()
	e := start(t, setupOf(version, s, module, s.good))
	h := startHosted(t, s, module)
	random := rand.New(rand.NewPCG(7, 11))
	for i := range *streams {
		exchange := randomExchange(random)
		if s.name == holdsUntilTick {
			exchange.AbortAfter = 0 // whether a tick comes before the client leaves is chance
		}
		seen := send(t, e, exchange)
		outcome, lines := h.send(exchange)
		if difference := differenceOf(seen, outcome, lines); difference != "" {
			t.Errorf("Envoy %s, stream %d (%s): %s", version, i, describeExchange(exchange), difference)
			return i
		}
	}
	return *streams
}

// differenceOf returns the first difference between what an Envoy and the host made of an
// exchange; empty for none.
func differenceOf(seen agreement.Seen, outcome host.Outcome, lines []host.Line) string {
	for _, part := range []struct {
		name        string
		envoy, mine *host.Message
	}{{"the request", seen.Request, outcome.Request}, {"the response", seen.Response, outcome.Response}} {
		if r, m := flatten(part.envoy), flatten(part.mine); r != m {
			return fmt.Sprintf("%s is\n%s\nand by the host\n%s", part.name, r, m)
		}
	}
	switch {
	case seen.Paused != outcome.Paused:
		return fmt.Sprintf("paused %v, by the host %v", seen.Paused, outcome.Paused)
	case seen.Reset != outcome.Reset:
		return fmt.Sprintf("reset %v, by the host %v", seen.Reset, outcome.Reset)
	case !slices.Equal(seen.Lines, lines):
		return fmt.Sprintf("logged\n%v\nand by the host\n%v", seen.Lines, lines)
	}
	return ""
}

// flatten returns a message as text: headers in the order of their names, lines of one
// name in theirs; the body as a whole.
func flatten(m *host.Message) string {
	if m == nil {
		return "nothing"
	}
	byName := func(a, b host.Header) int { return strings.Compare(a.Name, b.Name) }
	framing := func(line host.Header) bool { return line.Name == ":scheme" || line.Name == "content-length" }
	headers, trailers := slices.DeleteFunc(slices.Clone(m.Headers), framing), slices.Clone(m.Trailers)
	slices.SortStableFunc(headers, byName)
	slices.SortStableFunc(trailers, byName)
	return fmt.Sprintf("%v %q %v", headers, bytes.Join(m.Body, nil), trailers)
}

func describeExchange(e host.Exchange) string {
	method, _ := e.Request.Headers.Get(":method")
	path, _ := e.Request.Headers.Get(":path")
	return fmt.Sprintf("%s %s, %d chunks, answered in %d, aborted after %d", method, path, len(e.Request.Body), len(e.Response.Body), e.AbortAfter)
}

// randomExchange returns an exchange of the sort that clients and upstreams send.
func randomExchange(random *rand.Rand) host.Exchange {
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	request := get()
	if random.IntN(2) == 0 {
		request = post(nil, nil, randomChunks(random)...)
	}
	request.Headers.Set(":path", pick("/", "/a?b=c", "/json", "/very/long/"+strings.Repeat("x", 30)))
	for _, name := range []string{"x-secret", "x-user", "x-one", "x-request-id", "user-agent", "cookie", "accept", "x-remove", "authorization"} {
		if random.IntN(3) == 0 {
			request.Headers.Add(name, pick("a", "yes", "me", "", "1, 2"))
		}
	}
	if len(request.Body) > 0 {
		request.Headers.Add("content-type", pick("application/json", "text/plain", "application/octet-stream"))
		if random.IntN(3) == 0 {
			request.Trailers = pairs("x-end", pick("1", "2"))
		}
	}
	response := answer(pick("200", "404", "500", "301"))
	for _, name := range []string{"x-one", "set-cookie", "server", "x-remove"} {
		if random.IntN(3) == 0 {
			response.Headers.Add(name, pick("a", "b"))
		}
	}
	if random.IntN(2) == 0 {
		for _, chunk := range randomChunks(random) {
			response.Body = append(response.Body, []byte(chunk))
		}
		response.Body = append(response.Body, nil)
	}
	exchange := host.Exchange{Request: request, Response: response}
	if random.IntN(5) == 0 {
		exchange.AbortAfter = 1 + random.IntN(4)
		if len(request.Body) > 0 && len(request.Trailers) == 0 {
			exchange.Request.Body = append(exchange.Request.Body, nil) // its end is a part of its own
		}
	}
	return exchange
}

func randomChunks(random *rand.Rand) []string {
	chunks := make([]string, 1+random.IntN(3))
	for i := range chunks {
		chunks[i] = []string{`{"id": 1}`, "hello", `{"id"`, ": 2}", strings.Repeat("long ", 500), "\x00\xff\x80"}[random.IntN(6)]
	}
	return chunks
}

const tableFile = "../../docs/agreement.md"

// checkTable compares the table in the docs with what was found, or writes it.
func checkTable(t *testing.T, table []row) {
	t.Helper()
	var text strings.Builder
	text.WriteString("| module | language | verdict | differences |\n|---|---|---|---|\n")
	for _, r := range table {
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r.module, r.language, r.verdicts, r.differences)
	}
	page, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- the table -->\n"
	head, _, found := strings.Cut(string(page), mark)
	if !found {
		t.Fatalf("%s has no line %q", tableFile, mark)
	}
	want := head + mark + text.String()
	if *update {
		if err := os.WriteFile(tableFile, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(page) {
		t.Errorf("%s is not what was found: run go test ./test/agreement -run TestThePreflight -update", tableFile)
	}
	for _, r := range table {
		t.Logf("%-28s %-15s %-60s %5d streams, differences: %s", r.module, r.language, r.verdicts, r.streams, r.differences)
	}
}
