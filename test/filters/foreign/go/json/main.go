//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command json refuses request bodies that are not JSON objects with the fields that its
// configuration requires: {"required": ["field"]}.
package main

import (
	"encoding/json"
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
	Required []string
}

func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	configuration, err := proxywasm.GetPluginConfiguration()
	if err != nil {
		proxywasm.LogErrorf("reading the configuration: %v", err)
		return types.OnPluginStartStatusFailed
	}
	if err := json.Unmarshal(configuration, p); err != nil {
		proxywasm.LogErrorf("configuration refused: %v", err)
		return types.OnPluginStartStatusFailed
	}
	return types.OnPluginStartStatusOK
}

func (p *plugin) NewHttpContext(uint32) types.HttpContext { return &stream{plugin: p} }

type stream struct {
	types.DefaultHttpContext
	plugin *plugin
}

func (s *stream) OnHttpRequestHeaders(int, bool) types.Action {
	kind, err := proxywasm.GetHttpRequestHeader("content-type")
	if err != nil || kind != "application/json" {
		refuse("the content type is not application/json")
		return types.ActionPause
	}
	return types.ActionContinue
}

func (s *stream) OnHttpRequestBody(size int, end bool) types.Action {
	if !end {
		return types.ActionPause
	}
	body, err := proxywasm.GetHttpRequestBody(0, size)
	if err == nil {
		err = s.plugin.check(body)
	}
	if err != nil {
		refuse(err.Error())
		return types.ActionPause
	}
	return types.ActionContinue
}

func (p *plugin) check(body []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return errors.New("the body is not a JSON object")
	}
	for _, name := range p.Required {
		if fields[name] == nil {
			return errors.New("the field " + name + " is missing")
		}
	}
	return nil
}

func refuse(reason string) {
	if err := proxywasm.SendHttpResponse(400, [][2]string{{"content-type", "text/plain"}}, []byte(reason), -1); err != nil {
		proxywasm.LogErrorf("answering: %v", err)
	}
}
