//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command shareddata counts requests in shared data, and adds the count to the response.
package main

import (
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

const key = "requests"

func init() {
	proxywasm.SetVMContext(&vm{})
}

func main() {}

type vm struct{ types.DefaultVMContext }

func (*vm) OnVMStart(int) types.OnVMStartStatus {
	if err := proxywasm.SetSharedData(key, make([]byte, 8), 0); err != nil {
		proxywasm.LogWarnf("setting shared data: %v", err)
	}
	return types.OnVMStartStatusOK
}

func (*vm) NewPluginContext(uint32) types.PluginContext { return &plugin{} }

type plugin struct{ types.DefaultPluginContext }

func (*plugin) NewHttpContext(uint32) types.HttpContext { return &stream{} }

type stream struct {
	types.DefaultHttpContext
	count uint64
}

func (s *stream) OnHttpRequestHeaders(int, bool) types.Action {
	for {
		count, err := increment()
		if errors.Is(err, types.ErrorStatusCasMismatch) {
			continue
		}
		if err != nil {
			proxywasm.LogErrorf("counting: %v", err)
		}
		s.count = count
		return types.ActionContinue
	}
}

func (s *stream) OnHttpResponseHeaders(int, bool) types.Action {
	if err := proxywasm.AddHttpResponseHeader("x-count", strconv.FormatUint(s.count, 10)); err != nil {
		proxywasm.LogErrorf("adding the count: %v", err)
	}
	return types.ActionContinue
}

func increment() (uint64, error) {
	value, cas, err := proxywasm.GetSharedData(key)
	if err != nil {
		return 0, err
	}
	count := binary.LittleEndian.Uint64(value) + 1
	return count, proxywasm.SetSharedData(key, binary.LittleEndian.AppendUint64(nil, count), cas)
}
