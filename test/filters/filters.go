// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package filters builds the proxy-wasm modules that tests run: hello, which
// works, and its siblings, which misbehave. Each is a folder here, in standard
// Go.
package filters

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// The modules that Build knows.
const (
	// Hello adds the response header "hello" with its configuration as value,
	// "world" without one. It refuses the configuration RefusedConfiguration.
	Hello = "hello"
	// Refuse refuses every configuration.
	Refuse = "refuse"
	// Trap is Hello, but a request with the header x-crash crashes it.
	Trap = "trap"
	// Loop never returns from its start.
	Loop = "loop"
	// Import needs a function that no host offers, so it cannot be instantiated.
	Import = "import"
	// Environ adds the response header "hello" with the variables of its VM, as
	// NAME=value, in order, with a space between them.
	Environ = "environ"
	// Tracking adds the request header that the field tracking_header of its
	// configuration, an object, names, with the value "tracked".
	Tracking = "tracking"
	// Flawed adds the response header "hello" with the value "flawed". The fields fail and
	// delay of its configuration, an object, say of how many requests it answers one with
	// 503, and how many milliseconds longer each takes.
	Flawed = "flawed"
	// Telemetry counts requests to a pod, and times them, as Istio's own proxy does.
	Telemetry = "telemetry"
)

// RootID is the root id of every module here.
const RootID = "add_header_root_id"

// RefusedConfiguration is the configuration that Hello and Trap refuse.
const RefusedConfiguration = "refuse"

// Build returns the bytes of a module. The Go build cache makes all but the
// first build quick; the same source gives the same bytes.
func Build(ctx context.Context, name string) ([]byte, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "filter-")
	if err != nil {
		return nil, fmt.Errorf("building the filter %s: %w", name, err)
	}
	defer os.RemoveAll(folder)
	target := filepath.Join(folder, name+".wasm")
	build := exec.CommandContext(ctx, "go", "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w", "-o", target, "./test/filters/"+name)
	build.Dir = root
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if err := binaries.Run(build); err != nil {
		return nil, fmt.Errorf("building the filter %s: %w", name, err)
	}
	module, err := os.ReadFile(target)
	if err != nil {
		return nil, fmt.Errorf("building the filter %s: %w", name, err)
	}
	return module, nil
}
