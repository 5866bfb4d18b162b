//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command auth asks a service about each request, and holds the request until it answers.
package main

import (
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func init() {
	proxywasm.SetHttpContext(func(uint32) types.HttpContext { return &auth{} })
}

func main() {}

type auth struct{ types.DefaultHttpContext }

func (*auth) OnHttpRequestHeaders(int, bool) types.Action {
	question, err := proxywasm.GetHttpRequestHeaders()
	if err == nil {
		_, err = proxywasm.DispatchHttpCall("callouts", question, nil, nil, 5000, answered)
	}
	if err != nil {
		proxywasm.LogErrorf("asking: %v", err)
		return types.ActionContinue
	}
	return types.ActionPause
}

func answered(headers, size, _ int) {
	body, err := proxywasm.GetHttpCallResponseBody(0, size)
	if err != nil {
		proxywasm.LogErrorf("reading the answer: %v", err)
	}
	proxywasm.LogInfof("answer: %s", body)
	if headers > 0 && string(body) == "allow" {
		if err := proxywasm.ResumeHttpRequest(); err != nil {
			proxywasm.LogErrorf("resuming: %v", err)
		}
		return
	}
	if err := proxywasm.SendHttpResponse(403, [][2]string{{"x-denied-by", "auth"}}, []byte("access forbidden"), -1); err != nil {
		proxywasm.LogErrorf("answering: %v", err)
	}
}
