package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// What Envoy's admin endpoint is asked for: its listeners, and the filters that it was sent
// for them beside (/config_dump, api/envoy/admin/v3/config_dump.proto).
const (
	ListenersPath  = "/config_dump?resource=dynamic_listeners"
	ExtensionsPath = "/config_dump?resource=ecds_filters"
)

// maxDump bounds what a proxy may answer: proxies of large meshes have some 50 MB of listeners.
const maxDump = 256 << 20

// listenersDump is what is read of the listeners.
type listenersDump struct {
	Configs []struct {
		ActiveState struct{ Listener listener } `json:"active_state"`
	}
}

type listener struct {
	Name               string        `json:"name"`
	TrafficDirection   string        `json:"traffic_direction"`
	FilterChains       []filterChain `json:"filter_chains"`
	DefaultFilterChain filterChain   `json:"default_filter_chain"`
}

type filterChain struct {
	Filters []struct {
		TypedConfig struct {
			HTTPFilters []httpFilter `json:"http_filters"`
		} `json:"typed_config"`
	}
}

type extensionsDump struct {
	Configs []struct {
		Filter httpFilter `json:"ecds_filter"`
	}
}

// Running returns the Wasm filters in the chains of a proxy, by the answers to ListenersPath
// and ExtensionsPath. Chains with the same filters are one, and those without any are left
// out. All chains of a gateway are of one kind of traffic.
func Running(listeners, extensions io.Reader, gateway bool) (map[Traffic][][]Filter, error) {
	var dump listenersDump
	var beside extensionsDump
	if err := errors.Join(decode(listeners, &dump), decode(extensions, &beside)); err != nil {
		return nil, err
	}
	sent := map[string]httpFilter{}
	for _, c := range beside.Configs {
		sent[c.Filter.Name] = c.Filter
	}
	chains := map[Traffic][][]Filter{}
	for _, c := range dump.Configs {
		l := c.ActiveState.Listener
		traffic := trafficOf(l, gateway)
		for _, fc := range append(l.FilterChains, l.DefaultFilterChain) {
			filters := fc.wasm(sent)
			known := slices.ContainsFunc(chains[traffic], func(other []Filter) bool { return slices.Equal(other, filters) })
			if len(filters) > 0 && !known {
				chains[traffic] = append(chains[traffic], filters)
			}
		}
	}
	return chains, nil
}

func decode(from io.Reader, into any) error {
	limited := &io.LimitedReader{R: from, N: maxDump}
	if err := json.NewDecoder(limited).Decode(into); err != nil {
		return fmt.Errorf("reading the configuration of a proxy: %w", err)
	}
	return nil
}

func trafficOf(l listener, gateway bool) Traffic {
	switch {
	case gateway:
		return Gateway
	case l.TrafficDirection == "INBOUND":
		return Inbound
	}
	return Outbound
}

// wasm returns the Wasm filters of a chain.
func (c *filterChain) wasm(sent map[string]httpFilter) []Filter {
	var filters []Filter
	for _, f := range c.Filters {
		for _, h := range f.TypedConfig.HTTPFilters {
			if found := h.running(sent); found != nil {
				filters = append(filters, *found)
			}
		}
	}
	return filters
}

// running returns what an HTTP filter runs; nil when it is not a Wasm filter, or a staging slot
// that is idle.
func (f *httpFilter) running(sent map[string]httpFilter) *Filter {
	if !f.isWasm() {
		return nil
	}
	found := &Filter{Name: f.Name, From: originOf(f.Name), Tried: f.Disabled, Revision: revisionOf(f.plugin())}
	if len(f.discovery()) == 0 {
		return found
	}
	extension, known := sent[f.Name]
	switch {
	case extension.isWasm():
		found.Revision = revisionOf(extension.plugin())
	case f.Disabled:
		return nil
	case known: // pilot-agent puts one that allows or denies everything in its place
		found.Missing = "not fetched"
	default:
		found.Missing = "not accepted yet"
	}
	return found
}
