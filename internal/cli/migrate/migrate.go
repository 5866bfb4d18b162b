// Package migrate says which FilterDeployments would replace Wasm filters that nobody's
// FilterDeployment put into a mesh: what `wasme deploy istio` of wasme 0.0.33 left, and
// WasmPlugins and EnvoyFilters that someone wrote. It is pure: what is in the cluster goes
// in (Inventory), and the steps of a migration come out (Plan).
//
// A step replaces objects by FilterDeployments that do the same: the same module, the same
// configuration, the same place, on the same workloads. What a FilterDeployment cannot
// express is no step but a refusal, which names the field. In reading order:
//
//	reading.go      what an object asks for: reading
//	envoyfilter.go  reads EnvoyFilters, with wasm.go for Envoy's own messages (fields.go)
//	wasmplugin.go   reads WasmPlugins
//	source.go       where the module comes from
//	workloads.go    which workloads the object reaches, and which labels select just these
//	plan.go         the steps, and the names of FilterDeployments
//	annotations.go  what wasme 0.0.33 left on pod templates
package migrate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// ReplacesAnnotation on a FilterDeployment has the objects that it replaces, as
// `<kind>/<name>` with commas between them. By it, a migration that was interrupted finds
// what it made.
const ReplacesAnnotation = "wasme.io/replaces"

// Inventory is what was found in a cluster.
type Inventory struct {
	// Objects are Istio's EnvoyFilters and WasmPlugins, those of FilterDeployments included.
	Objects []istio.Output
	// Workloads and Pods are those of the objects' namespaces, and of all namespaces for
	// objects of the root namespace.
	Workloads []workload.Object
	Pods      []*corev1.Pod
	// FilterDeployments are those of the objects' namespaces.
	FilterDeployments []wasmev1.FilterDeployment
	// RootNamespace is the mesh's.
	RootNamespace string
	// CachedImages are the images that were deployed with wasme 0.0.33 (ImagesIn).
	CachedImages []string
}

// Step replaces objects by FilterDeployments.
type Step struct {
	// Objects are in one namespace: one object, or those that one call of `wasme deploy istio` made.
	Objects []istio.Output
	// FilterDeployments replace them together. Where Err says why not, they may lack something.
	FilterDeployments []*wasmev1.FilterDeployment
	// Kept says that the FilterDeployments exist and have begun to replace objects that are
	// gone already, so that they must stay as they are.
	Kept bool
	// Workloads are the names of those that get the filter.
	Workloads []string
	// Notes are what is worth knowing before.
	Notes []string
	// Differs says that the FilterDeployments do not reach exactly the same pods: a note says which.
	Differs bool
	// Err says why nothing replaces the objects, and what to do.
	Err error
}

// Is reports whether a user means an object by a text: its name, `<kind>/<name>` in any
// letter case, or either behind its namespace and a slash.
func Is(object istio.Output, text string) bool {
	key := KeyOf(object)
	for _, known := range []string{object.GetName(), key, object.GetNamespace() + "/" + object.GetName(), object.GetNamespace() + "/" + key} {
		if strings.EqualFold(known, text) {
			return true
		}
	}
	return false
}

// KeyOf returns an object as ReplacesAnnotation has it.
func KeyOf(object istio.Output) string { return string(istio.KindOf(object)) + "/" + object.GetName() }

// IsOwned reports whether an object was made for a FilterDeployment, by this operator or by
// the predecessor's.
func IsOwned(object istio.Output) bool {
	_, made := ownership.FilterDeploymentOf(object)
	return made || ownership.Of(object, &wasmev1.FilterDeployment{}) != ownership.Foreign
}

// controllerOf returns another program that keeps an object as it is; empty for none.
func controllerOf(object istio.Output) string {
	owner := metav1.GetControllerOf(object)
	if owner == nil {
		return ""
	}
	return owner.Kind + " " + owner.Name
}

// replaced returns the objects that a FilterDeployment replaces.
func replaced(fd *wasmev1.FilterDeployment) []string {
	var keys []string
	for key := range strings.SplitSeq(fd.Annotations[ReplacesAnnotation], ",") {
		if key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// keysOf returns the objects of a step as ReplacesAnnotation has them.
func keysOf(objects []istio.Output) []string {
	keys := make([]string, 0, len(objects))
	for _, object := range objects {
		keys = append(keys, KeyOf(object))
	}
	slices.Sort(keys)
	return keys
}
