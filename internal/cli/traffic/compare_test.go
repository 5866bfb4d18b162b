package traffic

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

func TestFactsAreWhatCameOfAnExchange(t *testing.T) {
	request := &host.Message{Headers: lines(":path", "/"), Body: [][]byte{[]byte("a"), []byte("b")}, Trailers: lines("end", "1")}
	response := &host.Message{Headers: lines(":status", "200", "set-cookie", "a", "set-cookie", "b")}
	reply := &host.LocalReply{Status: 403, Details: "denied"}
	arrived := facts{"request": passedOn, "request header :path": "/", "request body": "ab", "request trailer end": "1"}
	answered := facts{"response header :status": "200", "response header set-cookie": "a\nb"}
	for name, c := range map[string]struct {
		outcome host.Outcome
		failure *host.Failure
		want    []facts
	}{
		"passed on":    {host.Outcome{Request: request, Response: response}, nil, []facts{{"verdict": passedOn}, arrived, answered}},
		"answered":     {host.Outcome{Response: response, LocalReply: reply}, nil, []facts{{"verdict": "the filter answered", "request": notRequested, "local reply": "403 denied"}, answered}},
		"held":         {host.Outcome{Paused: true}, nil, []facts{{"verdict": "the stream was held and never went on", "request": notRequested}}},
		"cut off":      {host.Outcome{Request: request, Reset: true}, nil, []facts{{"verdict": "the stream was cut off"}, arrived}},
		"crashed":      {host.Outcome{Paused: true}, &host.Failure{Callback: "proxy_on_log", Message: "unreachable"}, []facts{{"verdict": "the module crashed: proxy_on_log: unreachable", "request": notRequested}}},
		"empty bodies": {host.Outcome{Request: &host.Message{Body: [][]byte{{}}}}, nil, []facts{{"verdict": passedOn, "request": passedOn}}},
	} {
		t.Run(name, func(t *testing.T) {
			want, got := facts{}, facts{}
			for _, some := range c.want {
				maps.Copy(want, some)
			}
			got.addOutcome(c.outcome, c.failure)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCallOutsAreFacts(t *testing.T) {
	got := facts{}
	for _, path := range []string{"/a", "/b"} {
		got.addCall(&host.Call{Cluster: "c", Request: host.Message{Headers: lines(":path", path, ":method", "GET"), Body: [][]byte{[]byte("body")}}})
	}
	want := facts{"call-out 1": "c  [{:method GET} {:path /a}] body", "call-out 2": "c  [{:method GET} {:path /b}] body"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResultsDifferIn(t *testing.T) {
	for name, c := range map[string]struct {
		a, b facts
		want []string
	}{
		"nothing":               {facts{"request": "1", "request body": "2"}, facts{"request": "1", "request body": "2"}, nil},
		"a value":               {facts{"request body": "1"}, facts{"request body": "2"}, []string{"request body"}},
		"what one lacks":        {facts{"request body": "1"}, facts{"response body": "2"}, []string{"request body", "response body"}},
		"a request that passed": {facts{"request": passedOn, "request body": "1", "response body": "2"}, facts{"request": notRequested}, []string{"request", "response body"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := differing(c.a, c.b)
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatDiffersBetweenTwoRunsOfOneModuleIsNotCompared(t *testing.T) {
	c := newComparison()
	c.add(0, "GET /", [2][2]facts{{{"a": "1", "b": "1"}, {"a": "1", "b": "1"}}, {{"a": "2", "b": "2"}, {"a": "2", "b": "2"}}})
	c.add(1, "GET /", [2][2]facts{{{"a": "1", "b": "1"}, {"a": "3", "b": "1"}}, {{"a": "2", "b": "1"}, {"a": "2", "b": "1"}}})
	got := c.report(make([]Exchange, 2), nil)
	want := Report{
		Exchanges: 2, Differing: 1, Differences: []Difference{{Exchange: 1, Request: "GET /", Field: "b", Before: `"1"`, After: `"2"`}},
		Notes: []string{
			"2 of 2 requests have no response of the application, because a filter had answered: theirs is an empty 200",
			"not compared, because it differs between two runs of one module: a",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestALongBodyIsShownWhereItDiffers(t *testing.T) {
	long := make([]byte, 100)
	for i := range long {
		long[i] = 'a'
	}
	before := string(long) + "before"
	after := string(long) + "after, and then so much that it does not fit into a column of a table"
	got := newDifference(0, "GET /", "response body", facts{"response body": before}, facts{"response body": after})
	want := Difference{
		Exchange: 1, Request: "GET /", Field: "response body", Before: `"before" (106 bytes, from byte 100)`,
		After: `"after, and then so much that it does not fit into a column o…" (169 bytes, from byte 100)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
