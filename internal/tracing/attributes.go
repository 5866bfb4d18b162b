package tracing

import (
	"go.opentelemetry.io/otel/attribute"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// FilterDeployment returns the attributes of a span about a FilterDeployment.
func FilterDeployment(name types.NamespacedName) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("wasme.filterdeployment.namespace", name.Namespace),
		attribute.String("wasme.filterdeployment.name", name.Name),
	}
}

// Result returns what came of a reconcile: error, requeue_after or success, as in the metric
// controller_runtime_reconcile_total.
func Result(result reconcile.Result, err error) attribute.KeyValue {
	value := "success"
	switch {
	case err != nil:
		value = "error"
	case result.RequeueAfter > 0:
		value = "requeue_after"
	}
	return attribute.String("wasme.result", value)
}

// Output returns the attributes of a span about an output.
func Output(kind wasmev1.Output, name string) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("wasme.output.kind", string(kind)), attribute.String("wasme.output.name", name)}
}

// Pods returns the number of pods that are asked what they run.
func Pods(count int) attribute.KeyValue { return attribute.Int("wasme.pods", count) }

// Registry returns the host of a registry or of a URL.
func Registry(host string) attribute.KeyValue { return attribute.String("wasme.registry", host) }

// Digest returns the digest of a manifest or a module, with its algorithm.
func Digest(digest string) attribute.KeyValue { return attribute.String("wasme.digest", digest) }

// Verdict returns the reason of a verdict.
func Verdict(reason string) attribute.KeyValue { return attribute.String("wasme.verdict", reason) }
