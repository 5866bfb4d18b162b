package module

import (
	"errors"
	"fmt"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Error is why a request failed, fit for a condition of a FilterDeployment.
type Error struct {
	// Reason is one of the condition reasons of api/v1.
	Reason string
	// Message names the cause and the cure. It never holds what a remote server sent.
	Message string
	// Terminal says that trying again cannot help: the spec, the Secret or the
	// image must change. The resolver goes on looking whether the image did.
	Terminal bool
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// failed is a failure that may pass with time.
func failed(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// refused is a failure that only a change of an object or of the image ends.
func refused(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Terminal: true}
}

// replacesGood says whether a good result gives way to the error: the registry
// has withdrawn the right or the image, or the image that it has now is broken.
func (e *Error) replacesGood() bool {
	return e.Terminal || e.Reason == wasmev1.ReasonUnauthorized || e.Reason == wasmev1.ReasonImageNotFound
}

// ofContent says whether the error is about what the image's digest covers, so
// that it holds as long as the digest does.
func (e *Error) ofContent() bool {
	switch e.Reason {
	case wasmev1.ReasonInvalidImage, wasmev1.ReasonInvalidModule, wasmev1.ReasonTooLarge:
		return true
	}
	return false
}

// ensureError returns the *Error in err. What has none is the disk's: all else
// is classified where it happens.
func ensureError(err error) *Error {
	return storeError("keeping the module", err)
}

// asError returns the *Error in err, if there is one.
func asError(err error) *Error {
	e, _ := errors.AsType[*Error](err)
	return e
}
