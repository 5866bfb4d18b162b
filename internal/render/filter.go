// Package render turns a filter and a workload into the Istio object that makes
// the workload's proxies run the filter. Its functions are pure: values in,
// values out, the same output for the same input.
//
// How a filter reaches a proxy. The module travels as an ECDS resource
// (EXTENSION_CONFIG), which the HTTP filter chain refers to by name
// (HTTP_FILTER with config_discovery). Three names carry meaning:
//
//   - The ECDS name, `<namespace>/<filterdeployment>/<kind>/<workload>/<placement>`,
//     stays the same while the filter keeps its place. A proxy that refuses an
//     update of a resource goes on with the last one that it accepted.
//   - The plugin name, `wasm_filter.<namespace>/<workload>/<filterdeployment>@<revision>`,
//     changes with the content. Proxies show it in their statistics.
//   - OWNER and CLUSTER_ID in the proxy's metadata bind both patches to one
//     workload: a label selector alone also matches supersets of the labels.
package render

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// hashLength is the number of hexadecimal digits of the hashes in names.
const hashLength = 8

// ErrRootIDMissing is returned when neither the spec nor the image names a root id.
var ErrRootIDMissing = errors.New("spec.filter.rootID is empty and the image's runtime configuration lists no root id; set spec.filter.rootID")

// Filter is what a proxy sees of a filter, whatever the workload.
type Filter struct {
	// ID is the filter id, which is part of the outputs' names.
	ID string `json:"id"`
	// ModuleSHA256 is the digest of the module's bytes in hexadecimal digits.
	ModuleSHA256 string `json:"moduleSHA256"`
	// RootID is the root id of the plugin in the module.
	RootID string `json:"rootID"`
	// Configuration is what the module reads as its configuration; nil for none.
	Configuration []byte `json:"configuration"`
	// PatchContext says on which traffic the filter runs.
	PatchContext wasmev1.PatchContext `json:"patchContext"`
	// FailStrategy says what a proxy does when the filter cannot run.
	FailStrategy wasmev1.FailStrategy `json:"failStrategy"`
}

// NewFilter reads a filter out of the spec of a FilterDeployment, its owner, and
// the module that its image resolved to. The error names the field of the spec
// that is wrong.
func NewFilter(owner types.NamespacedName, spec wasmev1.FilterSpec, module wasmev1.ModuleStatus) (Filter, error) {
	if err := Check(spec); err != nil {
		return Filter{}, err
	}
	configuration, err := spec.Config.Value()
	if err != nil {
		return Filter{}, fmt.Errorf("spec.filter.config: %w", err)
	}
	rootID, err := rootID(spec, module)
	if err != nil {
		return Filter{}, err
	}
	return Filter{
		ID:            filterID(owner, spec.ID),
		ModuleSHA256:  module.SHA256,
		RootID:        rootID,
		Configuration: configuration,
		PatchContext:  orDefault(spec.PatchContext, wasmev1.PatchContextInbound),
		FailStrategy:  orDefault(spec.FailStrategy, wasmev1.FailReload),
	}, nil
}

// Check finds what is wrong with a spec before its module is known. The schema
// refuses most of it; objects that were stored under an older schema have not
// passed it.
func Check(spec wasmev1.FilterSpec) error {
	if _, err := spec.Config.Value(); err != nil {
		return fmt.Errorf("spec.filter.config: %w", err)
	}
	if _, known := contexts[orDefault(spec.PatchContext, wasmev1.PatchContextInbound)]; !known {
		return fmt.Errorf("spec.filter.patchContext is %q; use inbound, outbound, gateway or any", spec.PatchContext)
	}
	if _, known := failurePolicies[orDefault(spec.FailStrategy, wasmev1.FailReload)]; !known {
		return fmt.Errorf("spec.filter.failStrategy is %q; use FailReload, FailClosed or FailOpen", spec.FailStrategy)
	}
	return nil
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

// Revision is a hash over all that a proxy sees of the filter.
func (f Filter) Revision() string {
	return hash(f)
}

// placement is a hash over where the filter stands in a proxy and what stands
// in for it until it loads: a proxy cannot change these under the same name. The
// id is part of it because a new id means a new object, which must not bring the
// same name to a proxy as the old one while both exist.
func (f Filter) placement() string {
	return hash(f.ID, f.PatchContext, f.FailStrategy == wasmev1.FailOpen)
}

// configurationAny is the configuration in the JSON form of google.protobuf.Any.
// A string field of protobuf must be UTF-8; other bytes travel as BytesValue.
func (f Filter) configurationAny() map[string]any {
	if utf8.Valid(f.Configuration) {
		return map[string]any{"@type": wasmev1.StringValueType, "value": string(f.Configuration)}
	}
	return map[string]any{"@type": wasmev1.BytesValueType, "value": base64.StdEncoding.EncodeToString(f.Configuration)}
}

// hash is stable across releases of the operator as long as the JSON of the
// values is: a change of it renews every ECDS resource once.
func hash(values ...any) string {
	text, err := json.Marshal(values)
	if err != nil {
		panic(fmt.Sprintf("hashing %T: %v", values, err)) // strings, bytes and booleans always marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:hashLength]
}
