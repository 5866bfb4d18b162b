package rollout

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A proxy whose fetch failed, or that an old fetch put back to an older
// revision, stays so until its configuration changes: pilot-agent does not try
// again. A renewal is such a change, and invisible to Envoy. It is part of an
// output and of no revision.

const (
	// FetchAnnotation holds `<revision> <renewals> <RFC 3339 time>` of the last
	// fetch that an output asked for.
	FetchAnnotation = "wasme.io/fetch"

	// pushAnnotation holds the number of renewals of a WasmPlugin or a
	// TrafficExtension. istiod pushes when an annotation changes whose name has
	// "istio.io" in it; it then gives the agents the object's new version.
	pushAnnotation = "wasme.io/renewal.istio.io"

	// minRenewal is the time to the second renewal, doubled each time up to
	// maxRenewal.
	minRenewal = LoadTimeout
	maxRenewal = 10 * time.Minute
	// maxRefused is how often a revision that Envoy seems to refuse is renewed: a
	// renewal helps only when an old fetch was the cause.
	maxRefused = 3
)

// Fetch is what an output last had its pods fetch; the zero value is nothing.
type Fetch struct {
	// Revision that needed it, and how often it was renewed since.
	Revision string
	Renewals int
	At       time.Time
}

// fetchOf reads what an output keeps in an annotation.
func fetchOf(annotation string) Fetch {
	parts := strings.Fields(annotation)
	if len(parts) != 3 {
		return Fetch{}
	}
	renewals, err := strconv.Atoi(parts[1])
	at, timeErr := time.Parse(time.RFC3339, parts[2])
	if err != nil || timeErr != nil {
		return Fetch{}
	}
	return Fetch{Revision: parts[0], Renewals: renewals, At: at}
}

// Annotation returns the fetch as an output keeps it.
func (f Fetch) Annotation() string {
	return fmt.Sprintf("%s %d %s", f.Revision, f.Renewals, f.At.UTC().Format(time.RFC3339))
}

// renewedFor returns how often the fetch of a revision was renewed.
func (f Fetch) renewedFor(revision string) int {
	if f.Revision != revision {
		return 0
	}
	return f.Renewals
}

// renewal returns what a proxy's agent sees of the renewals; empty for none.
func (f Fetch) renewal(revision string) string {
	if renewals := f.renewedFor(revision); renewals > 0 {
		return strconv.Itoa(renewals)
	}
	return ""
}

// renewed returns the fetch that renews this one.
func (f Fetch) renewed(revision string, now time.Time) Fetch {
	return Fetch{Revision: revision, Renewals: f.renewedFor(revision) + 1, At: now}
}

// renewalDue returns how long it is until the fetch of a revision may be renewed
// again; zero when it may be now. A fetch from the future comes from a replica
// whose clock was wrong, and counts as over.
func (f Fetch) renewalDue(revision string, now time.Time) time.Duration {
	if f.At.After(now) {
		return 0
	}
	return max(0, f.At.Add(renewalWait(f.renewedFor(revision))).Sub(now))
}

// renewalWait returns the time from so many renewals to the next.
func renewalWait(renewals int) time.Duration {
	if renewals == 0 {
		return 0
	}
	return min(minRenewal<<min(renewals-1, 10), maxRenewal)
}

// soonest returns the shorter of two waits, of which zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
