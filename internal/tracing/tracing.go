// Package tracing records what the operator does as OpenTelemetry spans, if it is told
// where to send them. Without that, spans cost next to nothing and go nowhere.
//
// Nothing of a trace leaves the operator but to that endpoint: requests to registries,
// sidecars and the API server carry no traceparent.
package tracing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/internal/condition"
)

const (
	// tracerName is the scope of the spans.
	tracerName = "github.com/wasme-io/wasme-operator"
	// serviceName is what OTEL_SERVICE_NAME overrules.
	serviceName = "wasme-operator"
	// flushTime is how long the last spans may take when the operator stops.
	flushTime = 5 * time.Second
)

// CheckEndpoint returns an error for an endpoint that Start cannot send spans to.
func CheckEndpoint(endpoint string) error {
	parsed, err := url.Parse(endpoint)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return fmt.Errorf("%q must be an http or https URL with a host", endpoint)
	}
	return nil
}

// Start has spans sent to an endpoint, by OTLP over HTTP, until stop is called, which sends
// what is left. An endpoint without a path gets them at /v1/traces. The variables OTEL_* set
// all else, such as the sampler, headers and attributes.
func Start(ctx context.Context, endpoint string) (stop func(), err error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("setting up the exporter: %w", err)
	}
	described, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", serviceName)),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Log.Error(err, "Sending traces")
	}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	otel.SetTracerProvider(provider)
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			log.Log.Error(err, "Sending the last traces")
		}
	}, nil
}

// Begin begins a span, which ends with End. It is a child of the one in ctx.
func Begin(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	return otel.Tracer(tracerName).Start(ctx, name, trace.WithAttributes(attributes...))
}

// End ends a span, with the error of what it is about.
func End(span trace.Span, err error) {
	if err != nil {
		err = withoutContent(err)
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// EndStep ends the span of a step of a reconcile, with the reason of what it found. A verdict is an error of the step
// if it is retried for that.
func EndStep(span trace.Span, found condition.Verdict, err error) {
	if found.Reason != "" {
		span.SetAttributes(Verdict(found.Reason))
	}
	End(span, cmp.Or(err, found.Err))
}

// withoutContent replaces an answer of the API server by its reason: its text may quote what was written, and so the
// configuration of a filter.
func withoutContent(err error) error {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return err
	}
	return fmt.Errorf("the API server answered %s", cmp.Or(answer.Status().Reason, "without a reason"))
}
