//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command properties logs properties of the request, and sets one that it reads back.
package main

import (
	"strings"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetHttpContext(func(uint32) types.HttpContext { return &stream{} })
}

func main() {}

type stream struct{ types.DefaultHttpContext }

func (*stream) OnHttpRequestHeaders(int, bool) types.Action {
	for _, path := range [][]string{
		{"request", "path"}, {"request", "method"}, {"request", "headers", "x-name"}, {"plugin_name"}, {"nothing", "there"},
	} {
		value, err := proxywasm.GetProperty(path)
		proxywasm.LogInfof("%s = %q, %v", strings.Join(path, "."), value, err)
	}
	if err := proxywasm.SetProperty([]string{"mine"}, []byte("kept")); err != nil {
		proxywasm.LogErrorf("setting a property: %v", err)
	}
	return types.ActionContinue
}

func (*stream) OnHttpResponseHeaders(int, bool) types.Action {
	value, err := proxywasm.GetProperty([]string{"mine"})
	if err == nil {
		err = proxywasm.ReplaceHttpResponseHeader("x-mine", string(value))
	}
	if err != nil {
		proxywasm.LogErrorf("reading it back: %v", err)
	}
	return types.ActionContinue
}
