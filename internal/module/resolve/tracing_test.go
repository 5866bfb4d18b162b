package resolve

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

func TestAPullThatPanicsHasItsSpan(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	j := &job{entry: &entry{req: pull.Request{Image: "registry.example.com/f:v1"}}, host: "registry.example.com"}
	var found outcome
	func() {
		defer j.survive(t.Context(), &found)
		_, err := j.pull(t.Context(), "sha256:0", func(context.Context) (module.Module, error) { panic("a broken image") })
		t.Errorf("it returned %v", err)
	}()
	if found.err == nil || len(spans.GetSpans()) != 1 || spans.GetSpans()[0].Name != "PullModule" {
		t.Errorf("%v, and the spans %v", found.err, spans.GetSpans())
	}
}
