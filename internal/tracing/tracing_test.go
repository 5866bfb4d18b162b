package tracing

import (
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// What a span costs that goes nowhere.
func BenchmarkSpanWithoutEndpoint(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, span := Begin(b.Context(), "WriteOutput", Output(wasmev1.OutputEnvoyFilter, "details-v1-hello")...)
		End(span, nil)
	}
}
