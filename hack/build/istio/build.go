//go:build tools

// Package build pins the version of Istio that tests run.
package build

import (
	_ "istio.io/istio/pilot/cmd/pilot-agent"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"
)
