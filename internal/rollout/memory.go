package rollout

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/wasme-io/wasme-operator/internal/condition"
)

const (
	// sidecarBytes is what a sidecar takes without any module: Envoy alone has 64 MiB
	// resident with an empty configuration (make perf ARGS=--rows=preflights).
	sidecarBytes = 64 << 20
	// memoryWarning begins the warning of WithMemoryWarning within a message.
	memoryWarning = "; warning: "
)

// WithMemoryWarning returns a preflight that also warns of targets whose sidecars have a
// memory limit that leaves the module less than its cost says. It changes only a preflight
// that passed and that knows the cost.
func (p Preflight) WithMemoryWarning(targets []Target) Preflight {
	if p.Verdict.Status != metav1.ConditionTrue || p.Cost == nil || p.Cost.ProxyMemoryBytes == nil {
		return p
	}
	needed := *p.Cost.ProxyMemoryBytes
	var tight []string
	for _, t := range targets {
		if limit := t.lowestMemoryLimit(); limit > 0 && limit < needed+sidecarBytes {
			tight = append(tight, fmt.Sprintf("%s (%d MiB)", t.Key(), limit>>20))
		}
	}
	if len(tight) > 0 {
		p.Verdict.Message += fmt.Sprintf("%sthe module takes about %d MiB of a proxy's memory, and the memory limit of these sidecars leaves less: %s; raise it with sidecar.istio.io/proxyMemoryLimit",
			memoryWarning, needed>>20, condition.Enumerate(tight, ", ", func(s string) string { return s }))
	}
	return p
}

// withoutMemoryWarning returns a message of Preflighted without what WithMemoryWarning added.
func withoutMemoryWarning(message string) string {
	before, _, _ := strings.Cut(message, memoryWarning)
	return before
}

// lowestMemoryLimit returns the lowest memory limit of the sidecars of a target, in bytes; 0
// when none has one.
func (t *Target) lowestMemoryLimit() int64 {
	lowest := int64(0)
	for _, pod := range t.Pods {
		if pod.MemoryLimit > 0 && (lowest == 0 || pod.MemoryLimit < lowest) {
			lowest = pod.MemoryLimit
		}
	}
	return lowest
}
