//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command ticks calls a foreign function and a service at its first tick, and logs what they
// return.
package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{} })
}

func main() {}

type plugin struct {
	types.DefaultPluginContext
	ticks int
}

func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	if err := proxywasm.SetTickPeriodMilliSeconds(20); err != nil {
		proxywasm.LogErrorf("asking for ticks: %v", err)
		return types.OnPluginStartStatusFailed
	}
	return types.OnPluginStartStatusOK
}

func (p *plugin) OnTick() {
	if p.ticks++; p.ticks > 1 {
		return
	}
	packed, err := proxywasm.CallForeignFunction("compress", []byte("hello, hello, hello, hello"))
	if err == nil {
		packed, err = proxywasm.CallForeignFunction("uncompress", packed)
	}
	proxywasm.LogInfof("foreign functions: %q, %v", packed, err)
	headers := [][2]string{{":method", "GET"}, {":path", "/tick"}, {":authority", "service"}}
	if _, err := proxywasm.DispatchHttpCall("callouts", headers, nil, nil, 5000, p.answered); err != nil {
		proxywasm.LogErrorf("asking: %v", err)
	}
}

func (p *plugin) NewHttpContext(uint32) types.HttpContext { return &types.DefaultHttpContext{} }

func (p *plugin) answered(headers, size, trailers int) {
	body, err := proxywasm.GetHttpCallResponseBody(0, size)
	proxywasm.LogInfof("answer: %v headers, %s, %d trailers, %v", headers > 0, body, trailers, err)
}
