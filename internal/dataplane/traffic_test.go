package dataplane

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

// requestRow counts requests of one client, duration rows have their durations.
func requestRow(reporter, code, grpc string, count int) string {
	return fmt.Sprintf("istio_requests_total{reporter=%q,source_workload=%q,response_code=%q,grpc_response_status=%q} %d\n", reporter, code+grpc, code, grpc, count)
}

func durationRows(reporter string, sum float64, cumulative ...int) string {
	var rows strings.Builder
	all := cumulative[len(cumulative)-1]
	for i, count := range cumulative {
		limit := fmt.Sprint(10 * (i + 1))
		if i == len(cumulative)-1 {
			limit = "+Inf"
		}
		fmt.Fprintf(&rows, "istio_request_duration_milliseconds_bucket{reporter=%q,le=%q} %d\n", reporter, limit, count)
	}
	fmt.Fprintf(&rows, "istio_request_duration_milliseconds_sum{reporter=%q} %g\n", reporter, sum)
	fmt.Fprintf(&rows, "istio_request_duration_milliseconds_count{reporter=%q} %d\n", reporter, all)
	return rows.String()
}

func TestTrafficOfAPage(t *testing.T) {
	page := "# TYPE istio_requests_total counter\n" +
		requestRow("destination", "200", "", 50) + requestRow("destination", "404", "", 5) +
		requestRow("destination", "503", "", 3) + requestRow("destination", "200", "14", 2) + requestRow("destination", "200", "5", 7) +
		requestRow("source", "500", "", 11) + requestRow("source", "200", "0", 13) + requestRow("waypoint", "500", "", 99) +
		durationRows("destination", 45.5, 4, 4, 6) + durationRows("destination", 3.25, 1, 1, 1) + durationRows("source", 12, 2, 2, 2) +
		"istio_request_bytes_sum{reporter=\"destination\"} 9000\nanything else\n"
	got, err := parseTraffic(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	if in := got.inbound; in.Requests != 67 || in.Failed != 5 || in.Timed != 7 || in.Milliseconds != 48.75 || in.Mean() != 48.75/7 {
		t.Errorf("inbound: %+v", in)
	}
	if out := got.outbound; out.Requests != 24 || out.Failed != 11 || out.Timed != 2 || out.Milliseconds != 12 {
		t.Errorf("outbound: %+v", out)
	}
	// Five from 0 to 10 ms, and two from 20 on, up to 40.
	mean := (5*5 + 2*30) / 7.0
	second := (5*100 + 2*(400+800+1600)) / 3.0
	if variance := got.inbound.Variance(); math.Abs(variance-(second/7-mean*mean)) > 1e-9 {
		t.Errorf("the variance is %g", variance)
	}
	if ratio := got.inbound.FailedRatio(); ratio != 5.0/67 {
		t.Errorf("the ratio is %g", ratio)
	}
}

func TestTrafficOfARealEnvoy(t *testing.T) {
	got, err := parseTraffic(strings.NewReader(recorded(t, "envoy-traffic")))
	if err != nil {
		t.Fatal(err)
	}
	in := got.inbound
	if in.Requests != 35502+7029 || in.Failed != 7029 || in.Timed != 33913+6631 || math.Abs(in.Mean()-0.3188) > 0.0001 {
		t.Errorf("%+v: the mean is %g ms", in, in.Mean())
	}
	// Most took no time at all, and some took long.
	if deviation := math.Sqrt(in.Variance()); deviation < in.Mean() || deviation > 10*in.Mean() {
		t.Errorf("the standard deviation is %g ms", deviation)
	}
	if got.outbound != (Traffic{}) {
		t.Errorf("outbound: %+v", got.outbound)
	}
}

func TestTrafficThatIsNoTraffic(t *testing.T) {
	for name, c := range map[string]struct {
		page string
		want error
	}{
		"no traffic yet":    {"", nil},
		"another page":      {"<html>", nil},
		"a broken row":      {"istio_requests_total{reporter=\n", errMalformed},
		"a negative count":  {requestRow("destination", "200", "", -1), errMalformed},
		"no number":         {"istio_requests_total{reporter=\"source\"} NaN\n", errMalformed},
		"half a request":    {"istio_requests_total{reporter=\"source\"} 0.5\n", errMalformed},
		"a bucket of words": {"istio_request_duration_milliseconds_bucket{reporter=\"source\",le=\"slow\"} 1\n", errMalformed},
		"no bucket":         {"istio_request_duration_milliseconds_bucket{reporter=\"source\"} 1\n", errMalformed},
		"a negative bucket": {"istio_request_duration_milliseconds_bucket{reporter=\"source\",le=\"-5\"} 1\n", errMalformed},
		"an endless line":   {requestRow(strings.Repeat("x", maxLine), "200", "", 1), errMalformed},
		"endless lines":     {strings.Repeat(requestRow("source", "200", "", 1), 4) + strings.Repeat("\n", maxTrafficLines), errTooLarge},
		"too many bytes":    {strings.Repeat("# "+strings.Repeat("x", 8<<10)+"\n", maxTrafficPage>>13), errTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTraffic(strings.NewReader(c.page))
			if !errors.Is(err, c.want) {
				t.Errorf("the error is %v", err)
			}
			if c.want == nil && *got != (traffic{}) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// FuzzTraffic holds what a hostile page can bring: nothing that is not a number.
func FuzzTraffic(f *testing.F) {
	f.Add(requestRow("destination", "503", "14", 3) + durationRows("source", 3.25, 1, 2, 2))
	f.Add(durationRows("destination", 1e15, 9, 1, 1<<53))
	f.Fuzz(func(t *testing.T, page string) {
		got, err := parseTraffic(strings.NewReader(page))
		if err != nil {
			return
		}
		for _, counts := range []Traffic{got.inbound, got.outbound} {
			for _, number := range []float64{counts.Mean(), counts.FailedRatio()} {
				if math.IsNaN(number) || number < 0 {
					t.Errorf("%+v", counts)
				}
			}
		}
	})
}

// counting answers with its requests when it is asked for them, and else as another does.
func counting(other http.HandlerFunc, requests string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, requestsMetric) {
			text(requests)(w, r)
			return
		}
		other(w, r)
	}
}

func TestRequestsAreCountedSinceAPodRunsThePlugin(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		shows := func(served, failed int, names ...string) Pod {
			requests := requestRow("destination", "200", "", served) + requestRow("destination", "503", "", failed) +
				requestRow("source", "200", "", 1000) + durationRows("destination", float64(5*served), served, served)
			return s.pod(1, counting(plugins(names...), requests))
		}
		pod := shows(10, 1)
		target := Expectation{Pod: pod, Plugin: greeting, Count: Count{Window: "1", Inbound: true}}
		window := func() Window {
			pass(2 * watchPeriod)
			return f.Seen(owner("greeting"), []Pod{pod})[0].Beside(greeting)
		}
		expect := func(what string, before, since, failures int) {
			t.Helper()
			got := window()
			if got.Before.Requests != before || got.Since.Requests != since || got.Since.Failed != failures {
				t.Errorf("%s: %+v", what, got)
			}
		}
		f.Expect(owner("greeting"), []Expectation{target})
		expect("before it runs the plugin", 0, 0, 0)
		shows(10, 1, greeting)
		pass(maxRetry + 2*time.Second)
		expect("it runs it", 11, 0, 0)
		shows(30, 6, greeting)
		expect("after requests", 11, 25, 5)
		f.Expect(owner("greeting"), []Expectation{target})
		expect("the same window", 11, 25, 5)
		shows(5, 0, greeting)
		expect("after its proxy has started again", 5, 0, 0)
		shows(8, 0, greeting)
		expect("after that", 5, 3, 0)
		target.Count = Count{Window: "2", Inbound: true, Outbound: true}
		f.Expect(owner("greeting"), []Expectation{target})
		expect("another window, in both directions", 1008, 0, 0)
		target.Count = Count{}
		f.Expect(owner("greeting"), []Expectation{target})
		expect("no window any more", 0, 0, 0)
	})
}

func TestAPodWhoseRequestsCannotBeCountedStillAnswers(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		pod := s.pod(1, counting(plugins(greeting), "istio_requests_total{} many\n"))
		target := Expectation{Pod: pod, Plugin: greeting, Count: Count{Window: "1", Inbound: true}}
		f.Expect(owner("greeting"), []Expectation{target})
		f.becomes(owner("greeting"), target, loaded)
		if got := f.Seen(owner("greeting"), []Pod{pod})[0].Beside(greeting); got != (Window{}) {
			t.Errorf("%+v", got)
		}
	})
}
