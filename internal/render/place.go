package render

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Place is where a filter stands among the other HTTP filters of a proxy, and
// on which ports. The zero value is right before the router, on all ports.
type Place struct {
	// Priority orders filters of one output kind and position; higher runs earlier.
	Priority int32 `json:"priority,omitempty"`
	// Position among the other HTTP filters.
	Position wasmev1.Position `json:"position,omitzero"`
	// Ports that the traffic goes to, ascending; none for all.
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

// IsZero tells whether the place is the one that a filter has by default.
func (p Place) IsZero() bool {
	return p.Priority == 0 && p.Position == (wasmev1.Position{}) && len(p.Ports) == 0
}

// insertion is how an EnvoyFilter puts the filter into its position: beside the
// first filter called anchor, or before all where anchor is empty.
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

// envoyFilterPriority is the priority of the EnvoyFilter. istiod sorts
// EnvoyFilters by ascending priority and applies them one after the other
// (PushContext.EnvoyFilters, patchHTTPFilters): each of those that insert before
// an anchor lands between the ones before it and the anchor, so who is applied
// first runs first. Of those that insert first or after an anchor each lands
// before the ones before it, so who is applied last runs first.
func (p Place) envoyFilterPriority() int32 {
	if operation, _ := p.insertion(); operation == networking.EnvoyFilter_Patch_INSERT_BEFORE {
		return -p.Priority
	}
	return p.Priority
}
