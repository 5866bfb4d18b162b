package dataplane

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Traffic counts requests as Istio's standard metrics do: istio_requests_total and
// istio_request_duration_milliseconds
// (https://istio.io/latest/docs/reference/config/metrics/). It can be compared with ==.
type Traffic struct {
	// Requests that ended, and those of them that failed: with an HTTP status of 500 or
	// more, or a gRPC status that is an error of the server (failedCalls).
	Requests, Failed int
	// Timed is the number of requests whose duration is known, and Milliseconds the sum of
	// their durations. Envoy adds requests to these up to 5 s later.
	Timed        int
	Milliseconds float64
	// first and second are the sums of the durations and of their squares as the buckets of
	// the histogram have them: a duration may be anywhere in its bucket.
	first, second float64
}

// Add returns the sum of two counts.
func (t Traffic) Add(other Traffic) Traffic {
	return Traffic{
		Requests: t.Requests + other.Requests, Failed: t.Failed + other.Failed,
		Timed: t.Timed + other.Timed, Milliseconds: t.Milliseconds + other.Milliseconds,
		first: t.first + other.first, second: t.second + other.second,
	}
}

// Spread notes for the variance that so many durations were anywhere between two, in
// milliseconds.
func (t *Traffic) Spread(requests int, from, to float64) {
	t.first += float64(requests) * (from + to) / 2
	t.second += float64(requests) * (from*from + from*to + to*to) / 3
}

// since returns what was counted after another look at the same counters. It returns false
// when they have started again from zero.
func (t Traffic) since(before Traffic) (Traffic, bool) {
	if t.Requests < before.Requests || t.Failed < before.Failed || t.Timed < before.Timed || t.Milliseconds < before.Milliseconds {
		return Traffic{}, false
	}
	return Traffic{
		Requests: t.Requests - before.Requests, Failed: t.Failed - before.Failed,
		Timed: t.Timed - before.Timed, Milliseconds: t.Milliseconds - before.Milliseconds,
		first: t.first - before.first, second: t.second - before.second,
	}, true
}

// FailedRatio is the share of requests that failed, from 0 to 1; 0 without requests.
func (t Traffic) FailedRatio() float64 {
	if t.Requests == 0 {
		return 0
	}
	return float64(t.Failed) / float64(t.Requests)
}

// Weight is the number of requests whose duration is known.
func (t Traffic) Weight() float64 { return float64(t.Timed) }

// Mean is that of their durations, in milliseconds; 0 without any.
func (t Traffic) Mean() float64 {
	if t.Timed == 0 {
		return 0
	}
	return t.Milliseconds / t.Weight()
}

// Variance is that of their durations; 0 without any. It is that of the buckets, and so
// rather too large than too small.
func (t Traffic) Variance() float64 {
	if t.Timed == 0 {
		return 0
	}
	mean := t.first / t.Weight()
	return max(t.second/t.Weight()-mean*mean, 0)
}

// Count says which requests of a pod are counted; the zero value for none.
type Count struct {
	// Window names the time in which they are counted. It begins when the pod runs the
	// plugin that is expected; another name begins another one.
	Window string
	// Inbound and Outbound say whether requests to the pod count, and those that it sends.
	Inbound, Outbound bool
}

// Window is what a pod's requests were before it ran a plugin, since its proxy started, and
// what they were since then; zero while nothing is known of them.
type Window struct{ Before, Since Traffic }

// window follows the counts of one pod.
type window struct {
	Count
	open       bool
	base, last Traffic
}

// want takes over what is to be counted, and reports whether that begins now.
func (w *window) want(count Count) bool {
	if w.Count == count {
		return false
	}
	*w = window{Count: count}
	return count.Window != ""
}

// see takes over what a pod shows. Counters that started again from zero begin the window
// again.
func (w *window) see(all *traffic, runs bool) {
	if all == nil || w.Window == "" || !w.open && !runs {
		return
	}
	var now Traffic
	if w.Inbound {
		now = now.Add(all.inbound)
	}
	if w.Outbound {
		now = now.Add(all.outbound)
	}
	if _, goesOn := now.since(w.last); !w.open || !goesOn {
		w.open, w.base = true, now
	}
	w.last = now
}

func (w *window) seen() Window {
	if !w.open {
		return Window{}
	}
	since, _ := w.last.since(w.base)
	return Window{Before: w.base, Since: since}
}

// traffic is what a sidecar's metrics say of the requests to the pod, and of those that it
// sends.
type traffic struct{ inbound, outbound Traffic }

const (
	// trafficQuery limits Envoy's answer to the metrics that Traffic is made of.
	trafficQuery = "filter=" + requestsMetric + "|" + durationMetric
	// Each pair of a client and a server has about 25 rows of 700 bytes.
	maxTrafficPage  = 16 << 20
	maxTrafficLines = 64 << 10

	requestsMetric = "istio_requests_total"
	durationMetric = "istio_request_duration_milliseconds"
)

// failedCalls are the gRPC statuses that say that the server failed, by the semantic
// conventions of OpenTelemetry: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
// UNAVAILABLE and DATA_LOSS.
var failedCalls = []string{"2", "4", "12", "13", "14", "15"}

// parseTraffic reads Envoy's or pilot-agent's answer to trafficQuery, in Prometheus' text
// format 0.0.4:
//
//	istio_requests_total{reporter="destination",response_code="200",…} 5
//	istio_request_duration_milliseconds_bucket{reporter="destination",…,le="10"} 5
//	istio_request_duration_milliseconds_sum{reporter="destination",…} 31.5
//	istio_request_duration_milliseconds_count{reporter="destination",…} 5
//
// Other lines do not count.
func parseTraffic(body io.Reader) (*traffic, error) {
	var found traffic
	var parser sampleParser
	var last bucket
	lines := newLines(body, maxTrafficPage, maxTrafficLines)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, requestsMetric+"{") && !strings.HasPrefix(line, durationMetric+"_") {
			continue
		}
		s, err := parser.parse(line)
		if err != nil {
			return nil, err
		}
		if err := found.add(s, &last); err != nil {
			return nil, err
		}
	}
	return &found, lines.err()
}

// add takes over a sample. Last is the bucket of the sample before.
func (t *traffic) add(s sample, last *bucket) error {
	counts := &t.inbound
	switch s.labels["reporter"] {
	case "destination":
	case "source":
		counts = &t.outbound
	default: // a waypoint is neither
		return nil
	}
	switch s.metric {
	case requestsMetric:
		counts.Requests += int(s.value)
		if failed(s.labels) {
			counts.Failed += int(s.value)
		}
	case durationMetric + "_count":
		counts.Timed += int(s.value)
	case durationMetric + "_sum":
		counts.Milliseconds += s.value
	case durationMetric + "_bucket":
		return counts.addBucket(s, last)
	}
	return nil
}

func failed(labels map[string]string) bool {
	code := labels["response_code"]
	return len(code) == 3 && code[0] == '5' || slices.Contains(failedCalls, labels["grpc_response_status"])
}

// bucket is a cumulative bucket of a histogram: how many values are at most limit.
type bucket struct {
	limit float64
	count int
}

// addBucket adds what one bucket has more than the one before it, which is in the line
// before.
func (t *Traffic) addBucket(s sample, last *bucket) error {
	limit, err := strconv.ParseFloat(s.labels["le"], 64)
	if err != nil || math.IsNaN(limit) || limit < 0 {
		return fmt.Errorf("%w: %.20q is no bucket", errMalformed, s.labels["le"])
	}
	if limit <= last.limit { // the first of another histogram
		*last = bucket{}
	}
	from, to := last.limit, limit
	if math.IsInf(to, 1) {
		to = 2 * from
	}
	if more := int(s.value) - last.count; more > 0 {
		t.Spread(more, from, to)
	}
	*last = bucket{limit, int(s.value)}
	return nil
}
