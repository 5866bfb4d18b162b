// Package preflight is about running a module with its configuration before any proxy
// does, and saying what is wrong with it in its own words. It has the values that the
// packages below it share.
//
//	preflight/host   a proxy-wasm host on wazero
//	preflight/suite  tests that a module's author has written
//	preflight/run    one run: start, configuration, synthetic streams, tests, cost
//	preflight/child  a run in a process that can do nothing else: modules are hostile input
//	preflight/pool   runs in the background, each module with each configuration once
//
// A module is refused for what a proxy would refuse, too, or for what would fail requests
// there. What only a real proxy can show is not held against it.
package preflight

import (
	"math"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// Filter is a module's configuration, as a proxy gets it.
type Filter struct {
	// RootID is the root id, and KnownRootIDs those that the image lists.
	RootID       string
	KnownRootIDs []string `json:",omitempty"`
	// Configuration is what the module reads as its configuration.
	Configuration []byte
	// Environment are the variables of the VM whose values are known, and HostEnvironment
	// the names of those that each proxy takes from its own environment.
	Environment     map[string]string `json:",omitempty"`
	HostEnvironment []string          `json:",omitempty"`
	// Tests are what the module has to pass, too: those of the image, and those that the
	// FilterDeployment names.
	Tests []module.Tests `json:",omitempty"`
}

// Limits bound a run.
type Limits struct {
	// MemoryBytes is the largest linear memory of the module.
	MemoryBytes int64
	// Time is how long a run may take, from the compilation to the end; after it, at most
	// 10 s of that.
	Time time.Duration
	// FunctionBytes is the largest body of a function that is compiled, and Functions
	// their largest number.
	FunctionBytes int64
	Functions     int
}

// DefaultLimits are the defaults of the operator's flags, and what has no flag. A
// function of 256 KiB takes wazero about 2 s and 80 MiB.
var DefaultLimits = Limits{MemoryBytes: 128 << 20, Time: 30 * time.Second, FunctionBytes: 512 << 10, Functions: 100_000}

// Verdict is what a run found.
type Verdict struct {
	// Reason is one of the condition reasons of api/v1.
	Reason string
	// Message says what is wrong and where, or that nothing is.
	Message string
	// Warnings are what a client or an upstream could do to the module.
	Warnings []string `json:",omitempty"`
	// Logs are the last lines that the module logged before it failed.
	Logs []string `json:",omitempty"`
	// Cost is what the module costs; nil when it was not measured.
	Cost *Cost `json:",omitempty"`
}

// Refused reports whether the module must not reach a proxy.
func (v Verdict) Refused() bool {
	switch v.Reason {
	case wasmev1.ReasonPreflighted, wasmev1.ReasonNotRun, wasmev1.ReasonUndecided:
		return false
	}
	return true
}

// Reasons are all reasons of verdicts.
var Reasons = []string{
	wasmev1.ReasonPreflighted, wasmev1.ReasonNotRun, wasmev1.ReasonUndecided, wasmev1.ReasonInvalidModule, wasmev1.ReasonMissingExport,
	wasmev1.ReasonMissingImport, wasmev1.ReasonUnknownRootID, wasmev1.ReasonStartFailed, wasmev1.ReasonConfigurationRefused,
	wasmev1.ReasonTrapped, wasmev1.ReasonTimedOut, wasmev1.ReasonMemoryExceeded, wasmev1.ReasonLeaking, wasmev1.ReasonTestsFailed,
}

// Cost is what a module costs where the operator runs. Envoy's own figures differ.
type Cost struct {
	// Compile is how long compiling took, and Stream how long a stream takes the module.
	Compile, Stream time.Duration
	// MemoryBytes is the module's memory once it is configured, and StreamedMemoryBytes after
	// Streams streams.
	MemoryBytes, StreamedMemoryBytes int64
	Streams                          int
	// ProxyMemoryBytes is an estimate of how much more memory a proxy takes with the module.
	ProxyMemoryBytes int64
	// Capabilities are what the module can do.
	Capabilities []string
}

// Status returns the cost as status.module.cost; nil for nil.
func (c *Cost) Status() *wasmev1.ModuleCost {
	if c == nil {
		return nil
	}
	return &wasmev1.ModuleCost{
		CompileMilliseconds: new(c.Compile.Milliseconds()), StreamMicroseconds: new(roundUp(c.Stream)),
		MemoryBytes: &c.MemoryBytes, StreamedMemoryBytes: &c.StreamedMemoryBytes, ProxyMemoryBytes: &c.ProxyMemoryBytes,
		Capabilities: c.Capabilities,
	}
}

// roundUp returns whole microseconds.
func roundUp(d time.Duration) int64 {
	return (d + time.Microsecond - 1).Microseconds()
}

// ProxyWorkers is the number of worker threads that the sidecars of Istio have by default.
const ProxyWorkers = 2

const (
	// v8Bytes is what Envoy's Wasm runtime takes for the first module in it, and codeBytes
	// what compiled code takes for the square root of the KiB of a module: larger modules
	// have more code, but more of it that is never compiled to the end.
	v8Bytes   = 13 << 20
	codeBytes = 1.2 * (1 << 20)
)

// ProxyMemoryBytes estimates how much more memory a proxy with so many workers takes once
// it runs a module of so many bytes: what is measured of it (make perf
// ARGS=--rows=preflights: ten modules of 9 KiB to 2.6 MiB), plus the module's own memory for
// each worker and for the main thread.
func ProxyMemoryBytes(moduleBytes, streamedMemoryBytes int64, workers int) int64 {
	return v8Bytes + int64(codeBytes*math.Sqrt(float64(moduleBytes)/1024)) + int64(workers+1)*streamedMemoryBytes
}
