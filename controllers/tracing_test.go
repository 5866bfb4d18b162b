package controllers

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// traced records the spans of a spec.
func traced() *tracetest.InMemoryExporter {
	exporter := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)))
	DeferCleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	return exporter
}

// tree returns the names of the spans below one, in the order in which they began, each
// with those below it in brackets.
func tree(spans tracetest.SpanStubs, of tracetest.SpanStub) string {
	var below tracetest.SpanStubs
	for _, span := range spans {
		if span.Parent.SpanID() == of.SpanContext.SpanID() {
			below = append(below, span)
		}
	}
	if len(below) == 0 {
		return of.Name
	}
	slices.SortFunc(below, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	var names []string
	for _, span := range below {
		names = append(names, tree(spans, span))
	}
	return of.Name + "(" + strings.Join(names, " ") + ")"
}

// last returns the span of a name that ended last.
func last(spans tracetest.SpanStubs, name string) tracetest.SpanStub {
	GinkgoHelper()
	for _, span := range slices.Backward(spans) {
		if span.Name == name {
			return span
		}
	}
	Fail("there is no span " + name)
	return tracetest.SpanStub{}
}

func attributesOf(span tracetest.SpanStub) map[string]string {
	found := map[string]string{}
	for _, pair := range span.Attributes {
		found[string(pair.Key)] = pair.Value.String()
	}
	return found
}

var _ = Describe("The traces of a reconcile", Serial, func() {
	It("show its steps, and what runs beside it", func(ctx context.Context) {
		w := newWorld(ctx)
		w.newProber()
		w.startProber()
		w.deployments(ctx, "a")
		harmless := moduletest.Assembly{Imports: []moduletest.Import{{Name: "proxy_log", Params: "www", Results: "w"}}}
		pushed := w.pushModule(ctx, "hello:v1", registry.Module{Bytes: harmless.Assemble(), RootIDs: []string{rootID}})
		fd := w.filterDeployment(ctx, "f", pushed, filterID("f"), func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Preflight = wasmev1.PreflightEnforce })
		exporter := traced()
		Expect(w.settle(ctx, fd)).To(Succeed())
		spans := exporter.GetSpans()

		lookUp, pull := last(spans, "LookUpModule"), last(spans, "PullModule")
		Expect(attributesOf(lookUp)).To(HaveKeyWithValue("wasme.registry", w.registry.Host()))
		Expect(pull.Parent.SpanID()).To(Equal(lookUp.SpanContext.SpanID()))
		Expect(attributesOf(pull)).To(HaveKeyWithValue("wasme.digest", HavePrefix("sha256:")))
		Expect(attributesOf(last(spans, "RunModule"))).To(HaveKeyWithValue("wasme.verdict", wasmev1.ReasonPreflighted))

		writing := spans[slices.IndexFunc(spans, func(span tracetest.SpanStub) bool { return span.Name == "WriteOutput" })]
		Expect(attributesOf(writing)).To(Equal(map[string]string{"wasme.output.kind": "EnvoyFilter", "wasme.output.name": "a-f"}))
		reconcile := spans[slices.IndexFunc(spans, func(span tracetest.SpanStub) bool {
			return span.Name == "Reconcile" && span.SpanContext.TraceID() == writing.SpanContext.TraceID()
		})]
		Expect(tree(spans, reconcile)).To(Equal("Reconcile(ResolveModule SelectWorkloads Preflight PrepareOutputs RollOut(Plan WriteOutput(Render) Plan Observe) WriteStatus)"))
		Expect(attributesOf(reconcile)).To(Equal(map[string]string{
			"wasme.filterdeployment.namespace": w.namespace, "wasme.filterdeployment.name": "f", "wasme.result": "requeue_after",
		}))
	})

	It("have the errors", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		exporter := traced()
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "create EnvoyFilter") {
				return apierrors.NewInternalError(errors.New("no quorum"))
			}
			return nil
		})
		Expect(w.settle(ctx, fd)).NotTo(Succeed())
		for _, name := range []string{"WriteOutput", "Reconcile"} {
			span := last(exporter.GetSpans(), name)
			Expect(span.Status.Code).To(Equal(codes.Error), name)
			Expect(span.Status.Description).To(ContainSubstring("no quorum"), name)
		}
		Expect(attributesOf(last(exporter.GetSpans(), "Reconcile"))).To(HaveKeyWithValue("wasme.result", "error"))
	})

	It("are not told to registries", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		otel.SetTextMapPropagator(propagation.TraceContext{})
		DeferCleanup(func() { otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator()) })
		var asked, told atomic.Int32
		w.registry.Inject(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(response http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if r.Header.Get("Traceparent") != "" {
					told.Add(1)
				}
				next.ServeHTTP(response, r)
			})
		})
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		traced()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(asked.Load()).To(BeNumerically(">", 1))
		Expect(told.Load()).To(BeZero())
	})
})
