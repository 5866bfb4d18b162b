package resolve

import (
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/lru"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

const (
	// openAfter is the number of failures in a row after which a registry gets one
	// request at a time.
	openAfter = 5
	// maxCircuits is the number of ways whose failures are remembered. One that is
	// forgotten starts again with no failure.
	maxCircuits = 1000
)

// way is how a registry is reached, and with which credential. Registries limit
// requests by credential, and a wrong certificate authority or an expired credential is
// its owner's matter alone: so no way holds up another.
type way pull.Request

func wayOf(req pull.Request, host string) way {
	req.Image, req.URL, req.SHA256, req.Once = host, "", "", false
	return way(req)
}

// circuits remember the ways that failed last time.
type circuits struct{ failed *lru.Cache }

// circuit is what is known of a way that failed.
type circuit struct {
	// failures are those in a row.
	failures int
	// limited says that the server limits requests.
	limited bool
	// until is when the server is asked again.
	until time.Time
	// err is what those are told that wait.
	err *module.Error
}

func newCircuits() circuits { return circuits{lru.New(maxCircuits)} }

// open returns the circuit of a way on which the server is left alone until some time,
// and gets one request then; nil when it is asked as usual.
func (c circuits) open(way way) *circuit {
	if known := c.of(way); known.limited || known.failures >= openAfter {
		return known
	}
	return nil
}

func (c circuits) of(way way) *circuit {
	if known, found := c.failed.Get(way); found {
		return known.(*circuit)
	}
	return &circuit{}
}

// record notes what a look at a server says about the way to it, and returns the
// look's error, with the time of the next look where the server limits requests.
func (c circuits) record(j *job, found outcome, now time.Time) *module.Error {
	if answers(j, found) {
		c.failed.Remove(j.way)
		return found.err
	}
	return c.fail(j.way, j.host, found.err, now)
}

// fail notes a failure on the way to a host, and returns the error, with the time of the
// next look where the server limits requests.
func (c circuits) fail(way way, host string, err *module.Error, now time.Time) *module.Error {
	next := c.of(way).after(err, now)
	c.failed.Add(way, next)
	if next.limited {
		next.err = module.Temporary(err.Reason, "%s: it is asked again at %s", err.Message, next.until.UTC().Format(time.RFC3339))
		return next.err
	}
	next.err = module.Temporary(err.Reason, "%s fails again and again: it gets one request at a time until it answers", host)
	return err
}

// after returns the circuit after one more failure.
func (c *circuit) after(err *module.Error, now time.Time) *circuit {
	failures := c.failures + 1
	delay := max(err.RetryAfter, min(maxRetry, minRetry<<min(failures-1, 16)))
	return &circuit{failures: failures, limited: err.RetryAfter > 0, until: now.Add(wait.Jitter(delay, retryJitter))}
}

// answers reports whether a look shows that the server works. A registry that says
// which digest an image has does, whatever becomes of the pull: a single image may be
// broken. So does any server of URLs, since a URL is a single thing, too.
func answers(j *job, found outcome) bool {
	switch err := found.err; {
	case err == nil || err.Reason != wasmev1.ReasonRegistryUnavailable:
		return true
	case err.RetryAfter > 0:
		return false
	}
	return found.image != "" || j.entry.req.URL != ""
}

// replaces reports whether the circuit says more than an earlier error: when a server is
// asked again.
func (c *circuit) replaces(err *module.Error) bool {
	return c.limited && err.Reason == wasmev1.ReasonRegistryUnavailable && *err != *c.err
}
