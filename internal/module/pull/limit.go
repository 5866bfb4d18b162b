package pull

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

const (
	// defaultRetryAfter is how long a server that limits requests is left alone when it
	// does not say how long.
	defaultRetryAfter = time.Minute
	// maxRetryAfter bounds what a server may say. Docker Hub's limits are for six hours,
	// but let single requests pass all the time.
	maxRetryAfter = time.Hour
)

// limitError is the answer of a server that limits requests.
type limitError struct {
	status int
	after  time.Duration
}

// Error implements error.
func (e *limitError) Error() string {
	return fmt.Sprintf("status %d: asked to wait for %s", e.status, e.after)
}

// of returns the error for requests to that host. The resolver adds when the host is
// asked again.
func (e *limitError) of(host string) *module.Error {
	limited := module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s limits requests (status %d)", host, e.status)
	limited.RetryAfter = e.after
	return limited
}

// limitOf reads the limit from an answer: status 429, or 503 with Retry-After. It
// returns nil for all others.
func limitOf(resp *http.Response, now time.Time) *limitError {
	after, given := retryAfter(resp.Header.Get("Retry-After"), now)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests && !given:
		return &limitError{resp.StatusCode, defaultRetryAfter}
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && given:
		return &limitError{resp.StatusCode, after}
	}
	return nil
}

// retryAfter reads a header Retry-After: a number of seconds, or a date. The result is
// between a second and maxRetryAfter.
func retryAfter(header string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return bounded(time.Duration(seconds) * time.Second), true
	}
	if date, err := http.ParseTime(header); err == nil {
		return bounded(date.Sub(now)), true
	}
	return 0, false
}

func bounded(wait time.Duration) time.Duration { return min(max(wait, time.Second), maxRetryAfter) }
