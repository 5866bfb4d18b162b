package envoy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// The marks around each record of Envoy's log. Messages may have several lines.
const (
	recordBegin = '\x1e'
	recordEnd   = '\x1f'
)

// logFormat is level, logger and text between the marks (spdlog's "Custom formatting").
const logFormat = string(recordBegin) + "%l %n %v" + string(recordEnd)

// accessLogger is the logger of the records about requests.
const accessLogger = "wasme-access"

// accessLog returns an access log that writes records among those of Envoy's own log, so that
// both are in one order. Envoy writes one when a request has ended: the client's address, and
// where the response came from.
func accessLog() object {
	const format = string(recordBegin) + "info " + accessLogger + " %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %RESPONSE_CODE_DETAILS%" + string(recordEnd) + "\n"
	return extension("envoy.access_loggers.stderr", typed("envoy.extensions.access_loggers.stream.v3.StderrAccessLog", object{
		"log_format": object{"text_format_source": object{"inline_string": format}},
	}))
}

// Record is a line of Envoy's log.
type Record struct {
	// Level is trace, debug, info, warning, error or critical.
	Level string
	// Logger is the part of Envoy that wrote the line; empty for what is not in a log's form.
	Logger string
	// Text is the message, which may have several lines.
	Text string
	// Own reports whether the module logged it.
	Own bool
}

// Failed reports whether the record is an error of Envoy or of its Wasm runtime.
func (r Record) Failed() bool {
	return !r.Own && r.isError()
}

func (r Record) isError() bool { return r.Level == "error" || r.Level == "critical" }

// parseRecord reads what is between the marks.
func parseRecord(text string, plugin Plugin) Record {
	level, rest, _ := strings.Cut(text, " ")
	logger, message, _ := strings.Cut(rest, " ")
	record := Record{Level: level, Logger: logger, Text: message}
	if own, is := ownText(message, plugin); is {
		record.Text, record.Own = own, true
	}
	return record
}

// ownText returns what the module logged, and whether it is the module's. Envoy puts names
// before it: of a stream, all of them, and of contexts that begin before a plugin, fewer
// (PluginBase::makeLogPrefix, ContextBase::makeRootLogPrefix in proxy-wasm-cpp-host).
func ownText(message string, plugin Plugin) (string, bool) {
	names := slices.DeleteFunc([]string{PluginName, plugin.RootID}, func(name string) bool { return name == "" })
	for first := range len(names) + 1 {
		prefix := strings.Join(append([]string{"wasm log"}, names[first:]...), " ")
		if text, own := strings.CutPrefix(message, prefix+": "); own {
			return text, true
		}
	}
	return "", false
}

// kept is how many records a journal keeps.
const kept = 10_000

// journal is what Envoy has logged. Its methods may be called concurrently.
type journal struct {
	plugin Plugin
	tell   func(Record)
	ended  chan struct{} // closed when Envoy's end of the log is

	mu      sync.Mutex
	records []Record
	dropped int           // before the first of records
	added   chan struct{} // closed when there is another record
}

func newJournal(plugin Plugin, tell func(Record)) *journal {
	return &journal{plugin: plugin, tell: tell, ended: make(chan struct{}), added: make(chan struct{})}
}

// read keeps what Envoy logs until its end of the log is closed.
func (j *journal) read(from io.Reader) {
	defer close(j.ended)
	reader := bufio.NewReader(from)
	for {
		raw, err := readUntil(reader, recordBegin)
		for line := range strings.Lines(raw) {
			if line = strings.TrimSpace(line); line != "" {
				j.add(Record{Level: "error", Text: line})
			}
		}
		if err != nil {
			return
		}
		formatted, err := readUntil(reader, recordEnd)
		j.add(parseRecord(formatted, j.plugin))
		if err != nil {
			return
		}
	}
}

// maxRecord is how many bytes of a record are kept.
const maxRecord = 64 << 10

// readUntil returns what comes before a mark, or the beginning of what is longer than a record
// may be.
func readUntil(from *bufio.Reader, mark byte) (string, error) {
	var text []byte
	for {
		piece, err := from.ReadSlice(mark)
		if err == nil {
			piece = piece[:len(piece)-1]
		}
		text = append(text, piece[:min(len(piece), maxRecord-len(text))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return string(text), err
		}
	}
}

func (j *journal) add(record Record) {
	j.mu.Lock()
	j.records = append(j.records, record)
	if surplus := len(j.records) - kept; surplus > 0 {
		j.records, j.dropped = slices.Clone(j.records[surplus:]), j.dropped+surplus
	}
	close(j.added)
	j.added = make(chan struct{})
	j.mu.Unlock()
	if j.tell != nil && record.Logger != accessLogger {
		j.tell(record)
	}
}

// position is where the next record comes.
func (j *journal) position() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.dropped + len(j.records)
}

// since returns the records from a position, and a channel that is closed when there is another.
func (j *journal) since(position int) ([]Record, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.records[max(0, position-j.dropped):]), j.added
}

// recordBound is how long Envoy may take to log what it has done.
const recordBound = 2 * time.Second

// until returns the records from a position to the one that is last, or those that there are
// after a while: what Envoy's administration interface says may be ahead of its log.
func (j *journal) until(ctx context.Context, position int, last func(Record) bool) []Record {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordBound)
	defer cancel()
	for {
		records, more := j.since(position)
		if i := slices.IndexFunc(records, last); i >= 0 {
			return records[:i+1]
		}
		select {
		case <-more:
		case <-j.ended:
			return records
		case <-ctx.Done():
			return records
		}
	}
}

// isRefusal reports whether a record is the last about a resource that Envoy did not take
// (FilesystemSubscriptionImpl in source/extensions/config_subscription/filesystem).
func isRefusal(record Record) bool {
	return strings.HasPrefix(record.Text, "Filesystem config update rejected: ") ||
		strings.HasPrefix(record.Text, "Filesystem config update failure: ")
}

// reasons returns why Envoy refused something, out of what it logged then: the module's own
// errors, and those of Envoy. Of messages that repeat another, only the shortest is left, and
// what only says that something was refused is left out when something else says why.
func reasons(records []Record) []string {
	var all []string
	for _, record := range records {
		fatal := record.isError()
		text := strings.TrimSpace(record.Text)
		if (fatal || record.Logger == "config") && text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	causes := slices.DeleteFunc(slices.Clone(all), func(text string) bool {
		return isConsequence(text) || slices.ContainsFunc(all, func(other string) bool { return other != text && strings.Contains(text, other) })
	})
	if len(causes) == 0 {
		return all
	}
	return causes
}

// isConsequence reports whether a message only says that Envoy has no filter then
// (source/extensions/common/wasm, and the subscription of ECDS).
func isConsequence(text string) bool {
	return strings.HasPrefix(text, "Plugin ") && strings.HasSuffix(text, " failed to load") ||
		strings.HasSuffix(text, "config update rejected: Unable to create Wasm plugin "+PluginName)
}
