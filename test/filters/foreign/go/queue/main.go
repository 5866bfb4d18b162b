//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command queue sends the path of each request through a shared queue to itself.
package main

import (
	"errors"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{} })
}

func main() {}

type plugin struct {
	types.DefaultPluginContext
	queue uint32
}

func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	queue, err := proxywasm.RegisterSharedQueue("paths")
	if err != nil {
		proxywasm.LogErrorf("registering the queue: %v", err)
		return types.OnPluginStartStatusFailed
	}
	p.queue = queue
	return types.OnPluginStartStatusOK
}

func (p *plugin) OnQueueReady(queue uint32) {
	item, err := proxywasm.DequeueSharedQueue(queue)
	if errors.Is(err, types.ErrorStatusEmpty) {
		return
	}
	if err != nil {
		proxywasm.LogErrorf("receiving: %v", err)
	}
	proxywasm.LogInfof("received: %s", item)
}

func (p *plugin) NewHttpContext(uint32) types.HttpContext { return &stream{queue: p.queue} }

type stream struct {
	types.DefaultHttpContext
	queue uint32
}

func (s *stream) OnHttpRequestHeaders(int, bool) types.Action {
	path, err := proxywasm.GetHttpRequestHeader(":path")
	if err == nil {
		err = proxywasm.EnqueueSharedQueue(s.queue, []byte(path))
	}
	if err != nil {
		proxywasm.LogErrorf("sending: %v", err)
	}
	return types.ActionContinue
}
