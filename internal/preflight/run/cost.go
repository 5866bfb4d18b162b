package run

import (
	"fmt"
	"slices"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

const (
	// measured is the number of streams after which the memory is told.
	measured = 10_000
	// collected is how much memory may grow before it counts as a leak: runtimes collect
	// garbage late (the Go runtime at 4 MiB of it), and heaps double.
	collected = 12 << 20
	// window is the number of streams between two looks at the memory.
	window = 1_000
)

// measure passes plain streams, to see what they cost, and whether memory grows with them.
func (r *run) measure(vm *host.VM, plugin *host.Plugin) *preflight.Verdict {
	begun, streams := time.Now(), 0
	rest := vm.MemoryBytes()
	sizes := []uint64{rest}
	for streams == 0 || !r.spent(costShare) && time.Since(begun) < maxMeasuring && (streams < measured || growing(sizes)) {
		if failed := r.pass(vm, plugin, measuredNumber(streams)); failed != nil {
			return failed
		}
		streams++
		if streams%window == 0 {
			sizes = append(sizes, vm.MemoryBytes())
		}
		if streams <= measured {
			r.cost.StreamedMemoryBytes = int64(vm.MemoryBytes()) //nolint:gosec // at most 1 GiB
		}
	}
	r.cost.Stream = time.Since(begun) / time.Duration(streams)
	if grown := vm.MemoryBytes() - rest; grown > collected && (growing(sizes) || vm.Exceeded()) {
		return &preflight.Verdict{
			Reason:  wasmev1.ReasonLeaking,
			Message: fmt.Sprintf("the module's memory grew from %d KiB to %d KiB in %d streams, about %d bytes with each: free what a stream takes when it ends", rest>>10, vm.MemoryBytes()>>10, streams, grown/uint64(streams)),
		}
	}
	return nil
}

// Measured returns the i-th of the streams that a cost is measured with: whole, without
// trailers. After some of them, the first follows again.
func Measured(i int) host.Exchange { return synthetic(measuredNumber(i)).exchange }

// measuredNumber returns the number of a stream of the first shape.
func measuredNumber(i int) int { return i % (count / 3) }

// growing reports whether memory was larger in the last quarter of the looks than before,
// and in the quarter before that.
func growing(sizes []uint64) bool {
	last, quarter := len(sizes)-1, max(len(sizes)/4, 1)
	if last < 2*quarter {
		return true
	}
	return sizes[last] > sizes[last-quarter] && sizes[last-quarter] > sizes[last-2*quarter]
}

const readsBodies = "reads bodies"

// sentences say what a module can do.
var sentences = map[wasmev1.Capability]string{
	wasmev1.CapabilityHTTPCalls:        "calls out over HTTP",
	wasmev1.CapabilityGRPCCalls:        "calls out over gRPC",
	wasmev1.CapabilityLocalResponses:   "answers requests itself",
	wasmev1.CapabilitySharedData:       "shares data",
	wasmev1.CapabilitySharedQueues:     "shares queues",
	wasmev1.CapabilityMetrics:          "writes metrics",
	wasmev1.CapabilityForeignFunctions: "calls functions of the proxy",
	wasmev1.CapabilitySetProperties:    "sets properties",
	wasmev1.CapabilityReadProperties:   "reads properties",
	wasmev1.CapabilityChangeHeaders:    "changes headers",
}

// capabilities returns what a module can do by its imports, sorted, and whether it was seen
// to read bodies.
func capabilities(imports []string, bodies bool) []string {
	functions := make([]string, 0, len(imports))
	for _, imported := range imports {
		_, name, _ := strings.Cut(imported, ".")
		functions = append(functions, name)
	}
	var found []string
	for _, capability := range module.CapabilitiesOf(functions) {
		found = append(found, sentences[capability])
	}
	if bodies {
		found = append(found, readsBodies)
	}
	slices.Sort(found)
	return found
}
