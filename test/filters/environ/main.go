//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command environ is a filter that adds a response header with the environment
// of its VM.
package main

import (
	"os"
	"slices"
	"strings"

	"github.com/wasme-io/wasme-operator/test/filters/abi"
)

func init() {
	abi.Register(abi.Filter{
		RootID: "add_header_root_id",
		Configure: func(string) (abi.Plugin, error) {
			environment := strings.Join(slices.Sorted(slices.Values(os.Environ())), " ")
			return abi.Plugin{ResponseHeaders: func() { abi.AddResponseHeader("hello", environment) }}, nil
		},
	})
}

func main() {}
