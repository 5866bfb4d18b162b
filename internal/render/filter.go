// Package render turns a filter and a target into the Istio object that makes the
// target's proxies run the filter: an EnvoyFilter, a WasmPlugin or a
// TrafficExtension. Its functions are pure: they take values and return values, and
// the same input gives the same output. They refuse what an output cannot carry,
// with an error that names the field.
//
// In reading order: Check (check.go) says what is wrong with a spec before its
// module is known. NewFilter (filter.go) turns a spec and its module into a Filter,
// which is all that a proxy sees of it, with its Place (place.go) and its source
// (source.go). EnvoyFilter (envoyfilter.go), WasmPlugin and TrafficExtension
// (extension.go, with the configuration in pluginconfig.go) render it for a Target
// (target.go). names.go holds the names of objects and plugins.
//
// How an EnvoyFilter brings a filter to a proxy: the module is an ECDS resource
// (EXTENSION_CONFIG), to which the HTTP filter chain refers by name (HTTP_FILTER with
// config_discovery). Three names carry meaning:
//
//   - The ECDS name, `<namespace>/<filterdeployment>/<kind>/<target>/<placement>`,
//     stays the same while the filter keeps its place. A proxy that refuses an
//     update of a resource keeps the last one that it accepted.
//   - The plugin name, `wasm_filter.<namespace>/<target>/<filterdeployment>@<revision>`,
//     changes with the content. Proxies show it in their statistics.
//   - OWNER and CLUSTER_ID in the proxy's metadata bind both patches to one
//     workload, because a label selector also matches pods that have more labels.
//
// For a WasmPlugin or a TrafficExtension, istiod makes such a resource itself,
// under names of its own.
package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// hashLength is the number of hexadecimal digits of the hashes in names.
const hashLength = 8

var (
	// ErrRootIDMissing is returned when neither the spec nor the image specifies a root id.
	ErrRootIDMissing = errors.New("spec.filter.rootID is empty and the image's runtime configuration lists no root id: set spec.filter.rootID")

	// ErrDigestMismatch is returned for a module whose digest is not that of spec.filter.sha256.
	ErrDigestMismatch = errors.New("the module does not have the digest in spec.filter.sha256")
)

// Filter is everything that a proxy sees of a filter, independent of the target.
// Names contain hashes of its JSON. So that names do not change with a release, the
// JSON leaves out fields that were added later, while they are not used.
type Filter struct {
	// ID is the filter id, which is part of the outputs' names.
	ID string `json:"id"`
	// ModuleSHA256 is the digest of the module's bytes in hexadecimal digits.
	ModuleSHA256 string `json:"moduleSHA256"`
	// RootID is the root id of the plugin in the module.
	RootID string `json:"rootID"`
	// Configuration is what the module reads as its configuration; nil for none.
	Configuration []byte `json:"configuration"`
	// PatchContext is the traffic that the filter runs on.
	PatchContext wasmev1.PatchContext `json:"patchContext"`
	// FailStrategy says what a proxy does while the filter cannot run.
	FailStrategy wasmev1.FailStrategy `json:"failStrategy"`
	// Place is the filter's place among the other filters of a proxy.
	Place Place `json:"place,omitzero"`
	// Env holds the environment variables of the VM, sorted by name.
	Env []wasmev1.EnvVar `json:"env,omitempty"`
	// Registry is where proxies pull the image; zero when the operator serves the module.
	Registry Registry `json:"registry,omitzero"`
}

// Registry says how proxies pull the image themselves.
type Registry struct {
	// Image is the image by its manifest: `<repository>@sha256:<64 hexadecimal digits>`.
	Image string `json:"image"`
	// PullSecret is the name of the Secret, in the same namespace, that they pull with;
	// empty for none.
	PullSecret string `json:"pullSecret,omitempty"`
}

// NewFilter returns the filter of a spec, whose owner is a FilterDeployment, with
// the module that its source resolved to. A configuration that comes from a
// ConfigMap must be in the spec already (WithConfiguration). The error names the
// field of the spec that is wrong.
func NewFilter(owner types.NamespacedName, spec wasmev1.FilterSpec, distribution wasmev1.Distribution, module wasmev1.ModuleStatus) (Filter, error) {
	if spec.ConfigFrom != nil {
		return Filter{}, errors.New("spec.filter.configFrom has not been read")
	}
	filter, err := readFilter(spec)
	if err != nil {
		return Filter{}, err
	}
	if spec.SHA256 != "" && spec.SHA256 != module.SHA256 {
		return Filter{}, fmt.Errorf("%w, but %s: fix spec.filter.sha256, or the source of the module", ErrDigestMismatch, module.SHA256)
	}
	filter.ID, filter.ModuleSHA256 = filterID(owner, spec.ID), module.SHA256
	if filter.RootID, err = rootID(spec, module); err != nil {
		return Filter{}, err
	}
	if distribution == wasmev1.DistributionRegistry {
		filter.Registry, err = registry(spec, module)
	}
	return filter, err
}

// WithConfiguration returns a spec whose configuration is the content that its
// configFrom references: text as it is, and other bytes as a BytesValue.
func WithConfiguration(spec wasmev1.FilterSpec, content []byte) wasmev1.FilterSpec {
	var value any = string(content)
	if !utf8.Valid(content) {
		value = bytesValue(content)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("encoding a configuration: %v", err)) // strings always marshal
	}
	spec.Config, spec.ConfigFrom = &wasmev1.Configuration{Raw: raw}, nil
	return spec
}

// readFilter returns what a spec says of a filter before its module is known.
func readFilter(spec wasmev1.FilterSpec) (Filter, error) {
	configuration, err := spec.Config.Value()
	if err != nil {
		return Filter{}, fmt.Errorf("spec.filter.config: %w", err)
	}
	filter := Filter{
		Configuration: configuration,
		PatchContext:  orDefault(spec.PatchContext, wasmev1.PatchContextInbound),
		FailStrategy:  orDefault(spec.FailStrategy, wasmev1.FailReload),
		Place:         newPlace(spec),
		Env:           env(spec.VM),
	}
	if _, known := contexts[filter.PatchContext]; !known {
		return Filter{}, fmt.Errorf("spec.filter.patchContext is %q: use inbound, outbound, gateway or any", spec.PatchContext)
	}
	if _, known := failurePolicies[filter.FailStrategy]; !known {
		return Filter{}, fmt.Errorf("spec.filter.failStrategy is %q: use FailReload, FailClosed or FailOpen", spec.FailStrategy)
	}
	return filter, nil
}

// env returns the variables sorted by name, because their order means nothing.
func env(vm *wasmev1.VMSpec) []wasmev1.EnvVar {
	if vm == nil {
		return nil
	}
	return slices.SortedFunc(slices.Values(vm.Env), func(a, b wasmev1.EnvVar) int { return cmp.Compare(a.Name, b.Name) })
}

func rootID(spec wasmev1.FilterSpec, module wasmev1.ModuleStatus) (string, error) {
	if spec.RootID != "" {
		return spec.RootID, nil
	}
	if len(module.RootIDs) == 0 {
		return "", ErrRootIDMissing
	}
	return module.RootIDs[0], nil
}

func orDefault[T ~string](value, fallback T) T {
	if value == "" {
		return fallback
	}
	return value
}

// Revision returns a hash over everything that a proxy sees of the filter: the first digits
// of its Digest.
func (f Filter) Revision() string {
	return hash(f)
}

// Digest returns the SHA-256 over everything that a proxy sees of the filter, in hexadecimal
// digits. Two filters can be made to have the same Revision, but not the same Digest.
func (f Filter) Digest() string {
	return digest(f)
}

// placement returns a hash over the filter's place in a proxy and what the proxy
// does until the filter loads, since a proxy cannot change these under the same
// name. The id is part of it because a new id means a new object, which must not
// bring a proxy the same name as the old object while both exist.
func (f Filter) placement() string {
	values := []any{f.ID, f.PatchContext, f.FailStrategy == wasmev1.FailOpen}
	if !f.Place.IsZero() {
		values = append(values, f.Place)
	}
	return hash(values...)
}

// configurationAny returns the configuration in the JSON form of google.protobuf.Any.
// A string field of protobuf must be UTF-8, so other bytes become a BytesValue.
func (f Filter) configurationAny() map[string]any {
	if utf8.Valid(f.Configuration) {
		return map[string]any{"@type": wasmev1.StringValueType, "value": string(f.Configuration)}
	}
	return bytesValue(f.Configuration)
}

func bytesValue(content []byte) map[string]any {
	return map[string]any{"@type": wasmev1.BytesValueType, "value": base64.StdEncoding.EncodeToString(content)}
}

// hash returns a hash of the values' JSON. As long as that JSON stays the same, it is
// the same in every release of the operator. A change would renew every ECDS
// resource once.
func hash(values ...any) string {
	return digest(values...)[:hashLength]
}

func digest(values ...any) string {
	text, err := json.Marshal(values)
	if err != nil {
		panic(fmt.Sprintf("hashing %T: %v", values, err)) // strings, bytes, numbers and booleans always marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
