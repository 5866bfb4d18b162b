package envoy

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJournalReadsEnvoysLog(t *testing.T) {
	const text = "PARSE ERROR\n\x1einfo wasm " + "wasm log filter add_header_root_id: two\nlines\x1f\n" +
		"\x1eerror wasm " + "wasm log add_header_root_id: early\x1f\n" +
		"\x1ecritical wasm Plugin filter failed to load\x1f\n" +
		"\x1einfo wasm " + "wasm log other: not ours\x1f\n" +
		"\x1einfo wasme-access via_upstream\x1f\n" +
		"cut off"
	var told []Record
	j := newJournal(plugin, func(r Record) { told = append(told, r) })
	j.read(strings.NewReader(text))
	want := []Record{
		{Level: "error", Text: "PARSE ERROR"},
		{Level: "info", Logger: "wasm", Text: "two\nlines", Own: true},
		{Level: "error", Logger: "wasm", Text: "early", Own: true},
		{Level: "critical", Logger: "wasm", Text: "Plugin filter failed to load"},
		{Level: "info", Logger: "wasm", Text: "wasm log other: not ours"},
		{Level: "info", Logger: accessLogger, Text: "via_upstream"},
		{Level: "error", Text: "cut off"},
	}
	got, _ := j.since(0)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the journal differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(want[:5:5], want[6]), told); diff != "" {
		t.Errorf("what was told differs (-want +got):\n%s", diff)
	}
}

func TestJournalForgetsOldRecords(t *testing.T) {
	j := newJournal(plugin, nil)
	j.read(strings.NewReader(strings.Repeat("\x1einfo wasm x\x1f\n", kept+5) + "\x1einfo wasm last\x1f\n"))
	if got := j.position(); got != kept+6 {
		t.Errorf("the position is %d, want %d", got, kept+6)
	}
	if all, _ := j.since(0); len(all) != kept {
		t.Errorf("%d records are kept, want %d", len(all), kept)
	}
	if last, _ := j.since(kept + 5); len(last) != 1 || last[0].Text != "last" {
		t.Errorf("the last record is %v", last)
	}
}

func TestJournalCutsLongRecords(t *testing.T) {
	long := strings.Repeat("x", 3*maxRecord)
	j := newJournal(plugin, nil)
	j.read(strings.NewReader(long + "\n\x1einfo wasm " + long + "\x1f\n\x1einfo wasm next\x1f\n"))
	want := []Record{
		{Level: "error", Text: long[:maxRecord]},
		{Level: "info", Logger: "wasm", Text: long[:maxRecord-len("info wasm ")]},
		{Level: "info", Logger: "wasm", Text: "next"},
	}
	if got, _ := j.since(0); !slices.Equal(got, want) {
		t.Errorf("the journal has %d records, not the cut ones", len(got))
	}
}

func TestJournalWaitsForTheLastRecord(t *testing.T) {
	const rejected = "Filesystem config update rejected: Unable to create Wasm plugin filter"
	from, to := io.Pipe()
	j := newJournal(plugin, nil)
	go j.read(from)
	go func() {
		_, _ = io.WriteString(to, "\x1eerror wasm why\x1f\n")
		_, _ = io.WriteString(to, "\x1ewarning config "+rejected+"\x1f\n\x1einfo wasm after\x1f\n")
		_ = to.Close()
	}()
	want := []Record{{Level: "error", Logger: "wasm", Text: "why"}, {Level: "warning", Logger: "config", Text: rejected}}
	if diff := cmp.Diff(want, j.until(t.Context(), 0, isRefusal)); diff != "" {
		t.Errorf("the records differ (-want +got):\n%s", diff)
	}
	<-j.ended
	if got := j.until(t.Context(), 3, isRefusal); len(got) != 0 {
		t.Errorf("a log that has ended has %v", got)
	}
}

func TestReasonsAreShort(t *testing.T) {
	got := reasons([]Record{
		{Level: "info", Logger: "wasm", Text: "no reason", Own: true},
		{Level: "error", Logger: "wasm", Text: "it says so itself", Own: true},
		{Level: "error", Logger: "wasm", Text: "\n", Own: true},
		{Level: "critical", Logger: "wasm", Text: "Plugin filter failed to load"},
		{Level: "error", Logger: "wasm", Text: "Wasm VM failed"},
		{Level: "error", Logger: "wasm", Text: "Wasm VM failed"},
		{Level: "error", Logger: "config", Text: "listener 'x' failed to bind: cannot bind :80: in use"},
		{Level: "critical", Logger: "main", Text: "error `cannot bind :80: in use` initializing config"},
		{Level: "error", Text: "cannot bind :80: in use"},
		{Level: "warning", Logger: "config", Text: "rejected: it has no name"},
		{Level: "warning", Logger: "config", Text: "Filesystem config update rejected: Unable to create Wasm plugin filter"},
	})
	want := []string{"it says so itself", "Wasm VM failed", "cannot bind :80: in use", "rejected: it has no name"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the reasons differ (-want +got):\n%s", diff)
	}
}

func TestReasonsAreWhatThereIs(t *testing.T) {
	const only = "Plugin filter failed to load"
	if got := reasons([]Record{{Level: "critical", Logger: "wasm", Text: only}}); len(got) != 1 || got[0] != only {
		t.Errorf("the reasons are %q", got)
	}
}

func TestSiftFindsFailures(t *testing.T) {
	own := Record{Level: "error", Logger: "wasm", Text: "panic", Own: true}
	trap := Record{Level: "error", Logger: "wasm", Text: "Function: proxy_on_request_headers failed"}
	for name, row := range map[string]struct {
		records []Record
		failure string
	}{
		"none":           {[]Record{own, {Level: "info", Logger: accessLogger, Text: "client via_upstream"}}, ""},
		"a trap":         {[]Record{own, trap, {Level: "info", Logger: accessLogger, Text: "client wasm_fail_stream"}}, trap.Text},
		"a former trap":  {[]Record{own, {Level: "info", Logger: accessLogger, Text: "client wasm_fail_stream"}}, crashedBefore},
		"another client": {[]Record{own, {Level: "info", Logger: accessLogger, Text: "other wasm_fail_stream"}}, ""},
		"another logger": {[]Record{own, {Level: "error", Logger: "config", Text: "x"}}, ""},
	} {
		lines, failure := sift(row.records, "client")
		if failure != row.failure || len(lines) != 1 || lines[0] != own {
			t.Errorf("%s: sift = %v, %q, want %q", name, lines, failure, row.failure)
		}
	}
}
