package source

import (
	"fmt"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// The sources of modules, by their fields in spec.filter.
const (
	image     = "image"
	url       = "url"
	configMap = "configMap"
)

// Sources are the sources that modules may come from; none means all.
type Sources []string

// ParseSources reads names of sources. The error lists those that there are.
func ParseSources(names []string) (Sources, error) {
	all := []string{image, url, configMap}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("%q is no source of modules: use %s", name, strings.Join(all, ", "))
		}
	}
	return names, nil
}

// check returns an error for a filter whose module may not come from where it does.
func (s Sources) check(filter wasmev1.FilterSpec) error {
	from := image
	switch {
	case filter.ConfigMap != nil:
		from = configMap
	case filter.URL != "":
		from = url
	}
	if len(s) == 0 || slices.Contains(s, from) {
		return nil
	}
	return module.Terminal(wasmev1.ReasonSourceForbidden, "reading spec.filter.%s: the operator's --allowed-sources does not list it: use %s", from, strings.Join(s, " or "))
}
