package render

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Place is a filter's place among the other HTTP filters of a proxy, and the ports
// that it runs on. The zero value is right before the router, on all ports.
type Place struct {
	// Priority orders the filters of one output kind and position: a higher one runs
	// earlier.
	Priority int32 `json:"priority,omitempty"`
	// Position among the other HTTP filters.
	Position wasmev1.Position `json:"position,omitzero"`
	// Ports that the traffic goes to, in ascending order; none for all ports.
	Ports []uint32 `json:"ports,omitempty"`
}

func newPlace(spec wasmev1.FilterSpec) Place {
	var place Place
	for _, port := range slices.Sorted(slices.Values(spec.Ports)) {
		place.Ports = append(place.Ports, uint32(port)) //nolint:gosec // the schema bounds ports to 1 … 65535
	}
	if spec.Priority != nil {
		place.Priority = *spec.Priority
	}
	if spec.Position != nil {
		place.Position = *spec.Position
	}
	return place
}

// IsZero reports whether the place is the one that a filter has by default.
func (p Place) IsZero() bool {
	return p.Priority == 0 && p.Position == (wasmev1.Position{}) && len(p.Ports) == 0
}

// insertion returns how an EnvoyFilter puts the filter into its position: next to the
// first filter called anchor, or before all filters when anchor is empty.
func (p Place) insertion() (operation networking.EnvoyFilter_Patch_Operation, anchor string) {
	switch {
	case p.Position.First:
		return networking.EnvoyFilter_Patch_INSERT_FIRST, ""
	case p.Position.After != "":
		return networking.EnvoyFilter_Patch_INSERT_AFTER, p.Position.After
	case p.Position.Before != "":
		return networking.EnvoyFilter_Patch_INSERT_BEFORE, p.Position.Before
	default:
		return networking.EnvoyFilter_Patch_INSERT_BEFORE, router
	}
}

// anchoredPriority is added to the priority of a filter that has a named neighbour, so
// that the neighbour is there whatever EnvoyFilter adds it, and however young that is.
// Other EnvoyFilters hardly have such priorities.
const anchoredPriority = 100_000

// envoyFilterPriority returns the priority of the EnvoyFilter. istiod sorts
// EnvoyFilters by ascending priority and applies them one after the other
// (PushContext.EnvoyFilters, patchHTTPFilters). A filter that is inserted before an
// anchor ends up between the anchor and the filters that were inserted earlier, so
// the one that is applied first runs first. A filter that is inserted first, or after
// an anchor, ends up before those that were inserted earlier, so the one that is
// applied last runs first.
func (p Place) envoyFilterPriority() int32 {
	priority := p.Priority
	if operation, _ := p.insertion(); operation == networking.EnvoyFilter_Patch_INSERT_BEFORE {
		priority = -priority
	}
	if p.Position.Before != "" || p.Position.After != "" {
		priority += anchoredPriority
	}
	return priority
}
