//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command import is a filter that needs a function which no host offers.
package main

import "github.com/wasme-io/wasme-operator/test/filters/abi"

//go:wasmimport env proxy_function_of_no_host
func missing() int32

func init() {
	abi.Register(abi.Filter{
		RootID:    "add_header_root_id",
		Start:     func() bool { return missing() == 0 },
		Configure: func(string) (abi.Plugin, error) { return abi.Plugin{}, nil },
	})
}

func main() {}
