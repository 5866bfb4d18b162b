//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command flawed is a filter that fails some requests, or delays all of them, as its
// configuration says.
package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/wasme-io/wasme-operator/test/filters/abi"
)

func init() {
	abi.Register(abi.Filter{RootID: "add_header_root_id", Configure: configure})
}

func configure(text string) (abi.Plugin, error) {
	var configuration struct {
		// Fail is the number of requests of which one is answered with 503; 0 for none.
		Fail int `json:"fail"`
		// Delay is how many milliseconds a request takes longer.
		Delay int `json:"delay"`
	}
	if err := json.Unmarshal([]byte(text), &configuration); err != nil {
		return abi.Plugin{}, fmt.Errorf("reading the configuration: %w", err)
	}
	requests := 0
	return abi.Plugin{
		RequestHeaders: func() {
			for begin := time.Now(); time.Since(begin) < time.Duration(configuration.Delay)*time.Millisecond; {
			}
			requests++
			if configuration.Fail > 0 && requests%configuration.Fail == 0 {
				abi.Answer(503)
			}
		},
		ResponseHeaders: func() { abi.AddResponseHeader("hello", "flawed") },
	}, nil
}

func main() {}
