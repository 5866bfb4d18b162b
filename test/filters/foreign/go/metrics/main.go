//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command metrics counts requests by a header, and adds the values of its metrics to the
// response.
package main

import (
	"fmt"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{counters: map[string]proxywasm.MetricCounter{}} })
}

func main() {}

type plugin struct {
	types.DefaultPluginContext
	counters map[string]proxywasm.MetricCounter
	active   proxywasm.MetricGauge
	sizes    proxywasm.MetricHistogram
}

func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	p.active = proxywasm.DefineGaugeMetric("active")
	p.sizes = proxywasm.DefineHistogramMetric("sizes")
	return types.OnPluginStartStatusOK
}

func (p *plugin) NewHttpContext(uint32) types.HttpContext { return &stream{plugin: p} }

// counter returns the counter of requests by a user.
func (p *plugin) counter(user string) proxywasm.MetricCounter {
	counter, known := p.counters[user]
	if !known {
		counter = proxywasm.DefineCounterMetric("requests_user=" + user)
		p.counters[user] = counter
	}
	return counter
}

type stream struct {
	types.DefaultHttpContext
	plugin *plugin
	user   string
}

func (s *stream) OnHttpRequestHeaders(count int, _ bool) types.Action {
	s.user, _ = proxywasm.GetHttpRequestHeader("x-user") // it may be missing
	s.plugin.counter(s.user).Increment(2)
	s.plugin.active.Add(1)
	s.plugin.sizes.Record(uint64(count))
	return types.ActionContinue
}

func (s *stream) OnHttpResponseHeaders(int, bool) types.Action {
	values := fmt.Sprintf("%d %d", s.plugin.counter(s.user).Value(), s.plugin.active.Value())
	if err := proxywasm.AddHttpResponseHeader("x-metrics", values); err != nil {
		proxywasm.LogErrorf("adding the values: %v", err)
	}
	return types.ActionContinue
}

func (s *stream) OnHttpStreamDone() { s.plugin.active.Add(-1) }
