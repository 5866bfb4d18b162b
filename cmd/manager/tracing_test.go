package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/wasme-io/wasme-operator/internal/tracing"
)

// collected is a request to a collector.
type collected struct {
	path, header string
	spans        []string
	attributes   map[string]string
}

// collector takes traces as a real one does, and passes them on.
func collector(t *testing.T) (url string, requests chan collected) {
	t.Helper()
	requests = make(chan collected, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var sent collectorpb.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &sent) != nil {
			t.Errorf("%v: %q", err, body)
		}
		got := collected{path: r.URL.Path, header: r.Header.Get("X-Tenant"), attributes: map[string]string{}}
		for _, resource := range sent.GetResourceSpans() {
			for _, attribute := range resource.GetResource().GetAttributes() {
				got.attributes[attribute.GetKey()] = attribute.GetValue().GetStringValue()
			}
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					got.spans = append(got.spans, span.GetName())
				}
			}
		}
		requests <- got
	}))
	t.Cleanup(server.Close)
	return server.URL, requests
}

// trace records one span with a manager of these flags, and stops it.
func trace(t *testing.T, flags ...string) {
	t.Helper()
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	opts, err := parse(flags...)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := opts.startTracing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Begin(t.Context(), "Reconcile")
	tracing.End(span, nil)
	stop()
}

func TestTracesGoToTheEndpointOfTheFlag(t *testing.T) {
	url, requests := collector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=a")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
	trace(t, "--tracing-endpoint="+url)
	got := <-requests // stop has sent it
	if got.path != "/v1/traces" || got.header != "a" || !slices.Equal(got.spans, []string{"Reconcile"}) {
		t.Errorf("%+v", got)
	}
	if got.attributes["service.name"] != "wasme-operator" || got.attributes["deployment.environment"] != "test" {
		t.Errorf("%v", got.attributes)
	}
}

func TestTheEnvironmentSaysHowManyTracesThereAre(t *testing.T) {
	url, requests := collector(t)
	t.Setenv("OTEL_TRACES_SAMPLER", "traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0")
	trace(t, "--tracing-endpoint="+url)
	if len(requests) > 0 {
		t.Errorf("%+v", <-requests)
	}
}

func TestThereAreNoTracesWithoutTheFlag(t *testing.T) {
	url, requests := collector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	trace(t)
	if len(requests) > 0 {
		t.Errorf("%+v", <-requests)
	}
}

func TestTracingEndpointMustBeAURL(t *testing.T) {
	for _, wrong := range []string{"collector:4318", "grpc://collector:4317", "http://"} {
		if _, err := parse("--tracing-endpoint=" + wrong); err == nil || !strings.Contains(err.Error(), "--tracing-endpoint") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// TestTheManagerLinksNoTemplates holds how the manager is built to what keeps it small.
func TestTheManagerLinksNoTemplates(t *testing.T) {
	const tag = "-tags=grpcnotrace"
	linked, err := exec.CommandContext(t.Context(), "go", "list", "-deps", tag, "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	// What nothing calls, the linker leaves out.
	uncalled := []string{"html/template", "github.com/go-openapi/runtime/server-middleware/docui"}
	for line := range strings.Lines(string(linked)) {
		imports := strings.Fields(line)
		if (slices.Contains(imports[1:], "text/template") || slices.Contains(imports[1:], "html/template")) && !slices.Contains(uncalled, imports[0]) {
			t.Errorf("the manager links %s, which imports templates, with which the linker drops no methods", imports[0])
		}
	}
	for _, path := range []string{"../../Makefile", "../../test/mesh/binaries/binaries.go"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), tag) {
			t.Errorf("%s builds the manager without %s", path, tag)
		}
	}
}
