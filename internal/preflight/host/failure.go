package host

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tetratelabs/wazero/sys"
)

// Kind is why a module cannot go on.
type Kind string

// The kinds of failures.
const (
	// Invalid: the module is no valid Wasm.
	Invalid Kind = "Invalid"
	// Unsupported: the module may be valid, but this host cannot run it: a proxy may.
	Unsupported Kind = "Unsupported"
	// MissingImport: the module imports a function that proxies do not offer.
	MissingImport Kind = "MissingImport"
	// MissingExport: the module lacks a function or memory that proxies need, or exports
	// it with another signature.
	MissingExport Kind = "MissingExport"
	// Refused: proxy_on_vm_start or proxy_on_configure returned false.
	Refused Kind = "Refused"
	// Trapped: the module ended in a trap.
	Trapped Kind = "Trapped"
	// MemoryExceeded: the module asked for more memory than it may have, and trapped.
	MemoryExceeded Kind = "MemoryExceeded"
	// TimedOut: the module did not return in time.
	TimedOut Kind = "TimedOut"
)

// Failure says why a module cannot go on.
type Failure struct {
	Kind Kind
	// Callback is the function of the module that was called, such as
	// proxy_on_request_headers; empty before the first.
	Callback string
	// Message is the cause, such as "unreachable".
	Message string
	// Functions are the functions of the module in which it happened, innermost first, by
	// the names in its name section; at most maxFunctions.
	Functions []string
}

// Error returns the callback, the cause and the innermost function.
func (f *Failure) Error() string {
	var text strings.Builder
	if f.Callback != "" {
		text.WriteString(f.Callback + ": ")
	}
	text.WriteString(f.Message)
	if len(f.Functions) > 0 {
		text.WriteString(" in " + f.Functions[0])
	}
	return text.String()
}

// maxFunctions bounds the functions of a stack that are kept.
const maxFunctions = 16

// AsFailure returns the *Failure in err, or nil.
func AsFailure(err error) *Failure {
	f, _ := errors.AsType[*Failure](err)
	return f
}

func failed(kind Kind, callback, format string, args ...any) *Failure {
	return &Failure{Kind: kind, Callback: callback, Message: fmt.Sprintf(format, args...)}
}

// frame matches one line of wazero's stack traces: ".name(i32,i32) i32".
var frame = regexp.MustCompile(`^\t[^.]*\.(.+?)\([a-z0-9,]*\)(?: .*)?$`)

// trapped returns the failure of a call that ended with an error of wazero.
func (vm *VM) trapped(callback string, err error) *Failure {
	f := failed(Trapped, callback, "trapped")
	switch exit, exited := errors.AsType[*sys.ExitError](err); {
	case vm.ctx.Err() != nil, exited && (exit.ExitCode() == sys.ExitCodeDeadlineExceeded || exit.ExitCode() == sys.ExitCodeContextCanceled):
		f.Kind, f.Message = TimedOut, "did not return in time"
		return f
	case vm.memory.exceeded:
		f.Kind = MemoryExceeded
	}
	message, stack, _ := strings.Cut(err.Error(), "\nwasm stack trace:\n")
	f.Message = strings.TrimSuffix(strings.TrimPrefix(message, "wasm error: "), " (recovered by wazero)")
	for line := range strings.SplitSeq(stack, "\n") {
		match := frame.FindStringSubmatch(line)
		if match == nil || len(f.Functions) == maxFunctions {
			continue
		}
		f.Functions = append(f.Functions, match[1])
	}
	return f
}
