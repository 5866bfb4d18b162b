//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package greeting is what hello and trap have in common.
package greeting

import (
	"errors"

	"github.com/wasme-io/wasme-operator/test/filters/abi"
)

// The module's contract, which package filters repeats for those who run it.
const (
	rootID  = "add_header_root_id"
	refused = "refuse"
)

// Filter adds the response header "hello": its configuration, or "world"
// without one. It refuses the configuration "refuse". requestHeaders may be nil.
func Filter(requestHeaders func()) abi.Filter {
	return abi.Filter{
		RootID: rootID,
		Configure: func(configuration string) (abi.Plugin, error) {
			if configuration == refused {
				return abi.Plugin{}, errors.New("it says so itself")
			}
			greeting := "world"
			if configuration != "" {
				greeting = configuration
			}
			return abi.Plugin{
				RequestHeaders:  requestHeaders,
				ResponseHeaders: func() { abi.AddResponseHeader("hello", greeting) },
			}, nil
		},
	}
}
