package module

import (
	"errors"
	"fmt"
	"time"
)

// Error says why there is no module, in words that fit a condition of a FilterDeployment.
type Error struct {
	// Reason is one of the condition reasons of api/v1.
	Reason string
	// Message names the problem and its fix. It never holds what a remote server sent.
	Message string
	// Terminal says that trying again cannot help: the spec, the Secret or the
	// image must change.
	Terminal bool
	// RetryAfter is how long the server wants to be left alone, because it limits
	// requests; zero when it does not say so.
	RetryAfter time.Duration
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Temporary returns an error that may pass with time.
func Temporary(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Terminal returns an error that only a change of an object or of the image ends.
func Terminal(reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Terminal: true}
}

// AsError returns the *Error in err, or nil.
func AsError(err error) *Error {
	e, _ := errors.AsType[*Error](err)
	return e
}
