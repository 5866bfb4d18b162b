//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command loop is a filter that never returns from its start.
package main

import "github.com/wasme-io/wasme-operator/test/filters/abi"

func init() {
	abi.Register(abi.Filter{
		RootID:    "add_header_root_id",
		Configure: func(string) (abi.Plugin, error) { return abi.Plugin{}, nil },
		Start: func() bool {
			for {
			}
		},
	})
}

func main() {}
