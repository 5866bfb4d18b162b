package run

import (
	"fmt"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

// checkCode looks at the sizes of a module's functions before they are compiled: a large
// one takes long, and compiling cannot be interrupted. Proxies may take it.
func checkCode(wasm []byte, limits preflight.Limits) (preflight.Verdict, bool) {
	functions, largest, err := module.CodeSizes(wasm)
	switch {
	case err != nil:
		return preflight.Verdict{Reason: wasmev1.ReasonInvalidModule, Message: err.Error()}, true
	case functions > limits.Functions:
		return preflight.Verdict{Reason: wasmev1.ReasonNotRun, Message: fmt.Sprintf("the operator does not run a module with %d functions; it runs those with at most %d, but proxies may run it", functions, limits.Functions)}, true
	case largest > limits.FunctionBytes:
		return preflight.Verdict{Reason: wasmev1.ReasonNotRun, Message: fmt.Sprintf("the operator does not run a module with a function of %d bytes; it runs those of at most %d, but proxies may run it", largest, limits.FunctionBytes)}, true
	}
	return preflight.Verdict{}, false
}
