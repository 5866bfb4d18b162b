//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command hello is a filter that adds a response header, in standard Go.
package main

import (
	"github.com/wasme-io/wasme-operator/test/filters/abi"
	"github.com/wasme-io/wasme-operator/test/filters/greeting"
)

func init() { abi.Register(greeting.Filter(nil)) }

func main() {}
