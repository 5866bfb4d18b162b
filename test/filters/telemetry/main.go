//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Command telemetry is a filter that counts requests to a pod as Istio's proxy does with its
// own extension istio.stats, which other Envoys do not have. Istio's bootstrap reads labels
// from the metrics' names.
package main

import (
	"fmt"

	"github.com/wasme-io/wasme-operator/test/filters/abi"
)

func init() {
	abi.Register(abi.Filter{RootID: "add_header_root_id", Configure: func(string) (abi.Plugin, error) {
		return abi.Plugin{Log: count}, nil
	}})
}

const perMillisecond = 1_000_000

func count() {
	labels := fmt.Sprintf("reporter=.=destination;.;response_code=.=%d;.;", abi.NumberProperty("response", "code"))
	abi.Increment(labels + "istio_requests_total")
	abi.Observe(labels+"istio_request_duration_milliseconds", abi.NumberProperty("request", "duration")/perMillisecond)
}

func main() {}
