//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command headers changes headers in all the ways there are.
package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetHttpContext(func(uint32) types.HttpContext { return &headers{} })
}

func main() {}

type headers struct{ types.DefaultHttpContext }

func (*headers) OnHttpRequestHeaders(count int, _ bool) types.Action {
	all, err := proxywasm.GetHttpRequestHeaders()
	if err != nil {
		proxywasm.LogCriticalf("reading the request headers: %v", err)
	}
	proxywasm.LogInfof("%d request headers", count)
	for _, header := range all {
		proxywasm.LogInfof("%s: %s", header[0], header[1])
	}
	must(proxywasm.AddHttpRequestHeader("x-added", "one"))
	must(proxywasm.AddHttpRequestHeader("x-added", "two"))
	must(proxywasm.ReplaceHttpRequestHeader("x-replaced", "new"))
	must(proxywasm.RemoveHttpRequestHeader("x-removed"))
	return types.ActionContinue
}

func (*headers) OnHttpResponseHeaders(int, bool) types.Action {
	all, err := proxywasm.GetHttpResponseHeaders()
	must(err)
	must(proxywasm.ReplaceHttpResponseHeaders(append(all, [2]string{"x-last", "yes"})))
	must(proxywasm.AddHttpResponseHeader("x-added", "one"))
	return types.ActionContinue
}

func (*headers) OnHttpStreamDone() { proxywasm.LogInfo("done") }

func must(err error) {
	if err != nil {
		proxywasm.LogErrorf("changing headers: %v", err)
	}
}
