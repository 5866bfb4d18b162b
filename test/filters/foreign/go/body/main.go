//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command body waits for a whole body, and replaces, appends to or prepends to it, as the
// request header x-change says.
package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetHttpContext(func(uint32) types.HttpContext { return &body{} })
}

func main() {}

type body struct {
	types.DefaultHttpContext
	change string
}

func (b *body) OnHttpRequestHeaders(int, bool) types.Action {
	b.change, _ = proxywasm.GetHttpRequestHeader("x-change") // it may be missing
	if err := proxywasm.RemoveHttpRequestHeader("content-length"); err != nil {
		proxywasm.LogErrorf("removing the length: %v", err)
	}
	return types.ActionContinue
}

func (b *body) OnHttpRequestBody(size int, end bool) types.Action {
	if !end {
		return types.ActionPause
	}
	content, err := proxywasm.GetHttpRequestBody(0, size)
	if err != nil {
		proxywasm.LogErrorf("reading the body: %v", err)
		return types.ActionContinue
	}
	proxywasm.LogInfof("body: %s", content)
	if err := b.apply(); err != nil {
		proxywasm.LogErrorf("changing the body: %v", err)
	}
	return types.ActionContinue
}

func (b *body) apply() error {
	switch b.change {
	case "append":
		return proxywasm.AppendHttpRequestBody([]byte(" appended"))
	case "prepend":
		return proxywasm.PrependHttpRequestBody([]byte("prepended "))
	case "replace":
		return proxywasm.ReplaceHttpRequestBody([]byte("replaced"))
	}
	return nil
}
