//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command tracking is a filter that adds the request header which its
// configuration names.
package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/wasme-io/wasme-operator/test/filters/abi"
)

func init() {
	abi.Register(abi.Filter{RootID: "add_header_root_id", Configure: configure})
}

func configure(text string) (abi.Plugin, error) {
	var configuration struct {
		Header string `json:"tracking_header"`
	}
	if err := json.Unmarshal([]byte(text), &configuration); err != nil {
		return abi.Plugin{}, fmt.Errorf("reading the configuration: %w", err)
	}
	if configuration.Header == "" {
		return abi.Plugin{}, errors.New("tracking_header is missing")
	}
	return abi.Plugin{RequestHeaders: func() { abi.AddRequestHeader(configuration.Header, "tracked") }}, nil
}

func main() {}
