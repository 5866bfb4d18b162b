package traffic_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/test/filters"
)

// build returns a test filter as a subject.
func build(t *testing.T, name, configuration string) traffic.Subject {
	t.Helper()
	wasm, err := filters.Build(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return traffic.Subject{Name: name, Wasm: wasm, RootID: filters.RootID, Configuration: configuration}
}

// requests returns so many exchanges, of which one in ten has a body.
func requests(count int) []traffic.Exchange {
	exchanges := make([]traffic.Exchange, 0, count)
	for i := range count {
		var request, response host.Headers
		request.Add(":authority", "example.com")
		request.Add(":path", fmt.Sprintf("/item/%d", i))
		request.Add(":method", "GET")
		response.Add(":status", "200")
		response.Add("server", "app")
		e := traffic.Exchange{
			Started: time.Unix(1_800_000_000+int64(i), 0), Request: traffic.Message{Headers: request},
			Response: &traffic.Message{Headers: response},
		}
		if i%10 == 0 {
			e.Request.Body, e.Response.Body = [][]byte{[]byte("in")}, [][]byte{[]byte("out")}
		}
		exchanges = append(exchanges, e)
	}
	return exchanges
}

func replay(t *testing.T, exchanges []traffic.Exchange, before, after traffic.Subject) traffic.Report {
	t.Helper()
	report, err := traffic.Replay(t.Context(), exchanges, before, after)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestTheOneDifferenceAmongAThousandRequestsIsFound(t *testing.T) {
	exchanges := requests(1000)
	exchanges[617].Request.Headers.Add("x-crash", "1")
	report := replay(t, exchanges, build(t, filters.Hello, ""), build(t, filters.Trap, ""))
	if report.Exchanges != 1000 || report.Differing != 1 || report.More != 0 || len(report.Notes) != 0 {
		t.Errorf("%+v", report)
	}
	fields := map[string][2]string{}
	for _, d := range report.Differences {
		if d.Exchange != 618 || d.Request != "GET /item/617" {
			t.Errorf("request %d, %s", d.Exchange, d.Request)
		}
		fields[d.Field] = [2]string{d.Before, d.After}
	}
	if got := fields["response header :status"]; got != [2]string{`"200"`, `"503"`} {
		t.Errorf("the status is %s", got)
	}
	if got := fields["response header hello"]; got != [2]string{`"world"`, "-"} {
		t.Errorf("hello is %s", got)
	}
	if got := fields["request"]; got != [2]string{`"passed on"`, `"did not reach the application"`} {
		t.Errorf("the request is %s", got)
	}
	if got := fields["verdict"]; !strings.Contains(got[1], "the module crashed: proxy_on_request_headers: ") {
		t.Errorf("the verdict is %s", got)
	}
}

func TestAModuleIsLikeItself(t *testing.T) {
	subject := build(t, filters.Hello, "")
	if got := replay(t, requests(100), subject, subject); !cmp.Equal(got, traffic.Report{Exchanges: 100}) {
		t.Errorf("%+v", got)
	}
}

func TestManyDifferencesAreCounted(t *testing.T) {
	got := replay(t, requests(300), build(t, filters.Hello, "one"), build(t, filters.Hello, "two"))
	if got.Differing != 300 || len(got.Differences) != traffic.MaxDifferences || got.More != 200 {
		t.Errorf("%d differ, %d shown, %d more", got.Differing, len(got.Differences), got.More)
	}
	want := traffic.Difference{Exchange: 1, Request: "GET /item/0", Field: "response header hello", Before: `"one"`, After: `"two"`}
	if got.Differences[0] != want {
		t.Errorf("%+v", got.Differences[0])
	}
}

func TestWhatLimitsAReplayIsSaid(t *testing.T) {
	exchanges := requests(3)
	exchanges[0].Response = nil
	exchanges[1].Request.Truncated = true
	exchanges[2].Request.Headers.Add("authorization", traffic.Redacted)
	subject := build(t, filters.Hello, "")
	got := replay(t, exchanges, subject, subject)
	want := []string{
		"1 of 3 requests have no response of the application, because a filter had answered: theirs is an empty 200",
		"1 of 3 requests lack bodies, or parts of them: record with --bodies if the filter reads them",
		"1 of 3 requests have [redacted] in the place of credentials: record with --with-credentials if the filter reads them",
	}
	if diff := cmp.Diff(want, got.Notes); diff != "" {
		t.Error(diff)
	}
}

func TestAModuleThatDoesNotStartIsAFailure(t *testing.T) {
	_, err := traffic.Replay(t.Context(), requests(1), build(t, filters.Hello, ""), build(t, filters.Refuse, ""))
	if failure := host.AsFailure(err); failure == nil || failure.Kind != host.Refused || !strings.HasPrefix(err.Error(), "starting refuse: ") {
		t.Error(err)
	}
}

func TestAReplayEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	subject := build(t, filters.Hello, "")
	if _, err := traffic.Replay(ctx, requests(10), subject, subject); err == nil {
		t.Error("it went on")
	}
}

func TestAReportIsATable(t *testing.T) {
	report := replay(t, requests(1), build(t, filters.Hello, "one\x1b[2J"), build(t, filters.Hello, strings.Repeat("long", 100)))
	report.More = 7
	report.Notes = []string{"a note"}
	var printed bytes.Buffer
	if err := report.Print(&printed, "old:v1", "new:v2"); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"REQUEST   TARGET        DIFFERS IN              BEFORE         AFTER\n" +
		"1         GET /item/0   response header hello   \"one\\x1b[2J\"   \"" + strings.Repeat("long", 15) + "…\" (400 bytes)\n" +
		"and 7 more differences\n" +
		"note: a note\n" +
		"old:v1 and new:v2 treat 1 of 1 requests differently.\n"
	if diff := cmp.Diff(want, printed.String()); diff != "" {
		t.Error(diff)
	}
}
