//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command refuse is a filter that refuses every configuration.
package main

import (
	"errors"

	"github.com/wasme-io/wasme-operator/test/filters/abi"
)

func init() {
	abi.Register(abi.Filter{
		RootID:    "add_header_root_id",
		Configure: func(string) (abi.Plugin, error) { return abi.Plugin{}, errors.New("it always is") },
	})
}

func main() {}
