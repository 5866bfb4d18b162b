//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command trap is the filter hello, but a request with the header x-crash
// crashes it.
package main

import (
	"github.com/wasme-io/wasme-operator/test/filters/abi"
	"github.com/wasme-io/wasme-operator/test/filters/greeting"
)

func init() {
	abi.Register(greeting.Filter(func() {
		if _, asked := abi.RequestHeader("x-crash"); asked {
			panic("the request asked for a crash")
		}
	}))
}

func main() {}
