package controllers

import (
	"context"
	"errors"
	"fmt"
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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
	"github.com/wasme-io/wasme-operator/test/signing"
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

// signedBySomeone is a policy for images, none of which is signed.
func signedBySomeone() wasmev1.FilterPolicySpec {
	GinkgoHelper()
	_, key, err := signing.NewKey()
	Expect(err).NotTo(HaveOccurred())
	signers := &wasmev1.Signers{AllOf: []wasmev1.Signer{{Name: "someone", Key: &wasmev1.SignerKey{PEM: key}}}}
	return wasmev1.FilterPolicySpec{Images: []wasmev1.ImageRule{{Patterns: []string{"**"}, Signers: signers}}}
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
		Expect(tree(spans, reconcile)).To(Equal("Reconcile(ResolveModule SelectWorkloads Admit Preflight PrepareOutputs RollOut(Plan WriteOutput(Render) Plan Observe) WriteStatus)"))
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
			Expect(span.Status.Description).To(Equal("the API server answered InternalError"), name)
		}
		Expect(attributesOf(last(exporter.GetSpans(), "Reconcile"))).To(HaveKeyWithValue("wasme.result", "error"))
	})

	It("have what each step found", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		Expect(user.Create(ctx, &wasmev1.FilterPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "p"}, Spec: signedBySomeone()})).To(Succeed())
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		exporter := traced()
		Expect(w.settle(ctx, fd)).To(Succeed())
		for name, reason := range map[string]string{
			"ResolveModule": wasmev1.ReasonResolved, "SelectWorkloads": wasmev1.ReasonSelected, "Admit": wasmev1.ReasonNotSigned,
		} {
			Expect(attributesOf(last(exporter.GetSpans(), name))).To(Equal(map[string]string{"wasme.verdict": reason}), name)
		}
		Expect(attributesOf(last(exporter.GetSpans(), "FetchSignatures"))).To(And(
			HaveKeyWithValue("wasme.registry", w.registry.Host()), HaveKeyWithValue("wasme.digest", HavePrefix("sha256:")),
		))
	})

	It("have no configuration that the API server quotes", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		const secret = "a token of the filter"
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), config(secret))
		exporter := traced()
		w.intercept(func(write string) error {
			if !strings.HasPrefix(write, "create EnvoyFilter") {
				return nil
			}
			return apierrors.NewInvalid(schema.GroupKind{Group: "networking.istio.io", Kind: "EnvoyFilter"}, "a-f", field.ErrorList{
				field.Invalid(field.NewPath("spec", "configPatches"), secret, "must be shorter"),
			})
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, secret), "the API server has quoted it")
		Expect(last(exporter.GetSpans(), "WriteOutput").Status.Description).To(Equal("the API server answered Invalid"))
		Expect(fmt.Sprintf("%+v", exporter.GetSpans())).NotTo(ContainSubstring(secret))
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
