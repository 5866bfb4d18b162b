// Licensed under the Apache License, Version 2.0; see LICENSE.

package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bench is a printer whose clock the test turns.
type bench struct {
	*Printer
	out  bytes.Buffer
	time time.Time
}

// newBench returns a printer to a terminal of this width; 0: to a log.
func newBench(width int) *bench {
	b := &bench{time: time.Unix(0, 0)}
	b.Printer = &Printer{out: &b.out, now: func() time.Time { return b.time }, spoken: b.time}
	if width > 0 {
		b.width = func() int { return width }
	}
	return b
}

// pass lets seconds pass, with a drawing after each.
func (b *bench) pass(seconds int) {
	for range seconds {
		b.time = b.time.Add(time.Second)
		b.show()
	}
}

// screen returns what a terminal shows of text, with the two escape sequences
// that a Printer writes: cursor up, and clear to the end.
func screen(t *testing.T, text string) string {
	t.Helper()
	var lines []string
	for text != "" {
		if strings.HasPrefix(text, "\x1b[") {
			var up int
			if _, err := fmt.Sscanf(text, "\x1b[%dA\x1b[J", &up); err != nil || up > len(lines) {
				t.Fatalf("not expected on a terminal: %q", text)
			}
			lines = lines[:len(lines)-up]
			_, text, _ = strings.Cut(text, "J")
			continue
		}
		line, rest, _ := strings.Cut(text, "\n")
		lines, text = append(lines, line), rest
	}
	return strings.Join(lines, "\n") + "\n"
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestALogGetsALineAtTheBeginningEveryTenSecondsAndAtTheEnd(t *testing.T) {
	b := newBench(0)
	fmt.Fprintln(b, "Preparing")
	etcd := b.Begin("building etcd v3.6.8", 30*time.Second)
	b.pass(5)
	envoy := b.Begin("downloading Envoy", 0)
	b.pass(30)
	etcd(nil)
	b.pass(1)
	envoy(nil)
	b.pass(20)
	expect(t, b.out.String(), `
Preparing
   building etcd v3.6.8 (about 30 s)
   downloading Envoy
   still building etcd v3.6.8: 0:18 of about 30 s; downloading Envoy: 0:13
   still building etcd v3.6.8: 0:28 of about 30 s; downloading Envoy: 0:23
   building etcd v3.6.8: done after 0:35
   downloading Envoy: done after 0:31
`)
}

func TestALogIsNotRemindedRightAfterAnotherLine(t *testing.T) {
	b := newBench(0)
	b.Begin("building istiod", 4*time.Minute)
	b.pass(10)
	fmt.Fprintln(b, "using etcd 3.6.8 from /usr/bin/etcd")
	b.pass(10)
	expect(t, b.out.String(), `
   building istiod (about 4 min)
using etcd 3.6.8 from /usr/bin/etcd
   still building istiod: 0:20 of about 4 min
`)
}

func TestATerminalShowsWhatRunsBelowTheLines(t *testing.T) {
	b := newBench(80)
	fmt.Fprintln(b, "Preparing")
	etcd := b.Begin("building etcd v3.6.8", 30*time.Second)
	b.pass(1)
	b.Begin("downloading Envoy", 0)
	expect(t, screen(t, b.out.String()), "Preparing\n")
	b.pass(2)
	expect(t, screen(t, b.out.String()), "Preparing\n   building etcd v3.6.8: 0:03 of about 30 s\n")
	b.pass(1)
	expect(t, screen(t, b.out.String()), `
Preparing
   building etcd v3.6.8: 0:04 of about 30 s
   downloading Envoy: 0:03
`)
	fmt.Fprintln(b, "using kubectl 1.37.1 from /usr/bin/kubectl")
	b.pass(40)
	expect(t, screen(t, b.out.String()), `
Preparing
using kubectl 1.37.1 from /usr/bin/kubectl
   building etcd v3.6.8: 0:44, longer than the usual 30 s
   downloading Envoy: 0:43
`)
	etcd(nil)
	expect(t, screen(t, b.out.String()), `
Preparing
using kubectl 1.37.1 from /usr/bin/kubectl
   building etcd v3.6.8: done after 0:44
   downloading Envoy: 0:43
`)
}

func TestATerminalIsCleanAfterTheLastTask(t *testing.T) {
	b := newBench(80)
	end := b.Begin("building etcd", 0)
	b.pass(5)
	end(errors.New("no disk"))
	b.pass(5)
	fmt.Fprintln(b, "the end")
	expect(t, screen(t, b.out.String()), "the end\n")
}

func TestALineThatIsWiderThanTheTerminalIsCut(t *testing.T) {
	b := newBench(20)
	b.Begin("building päckchen and more", 0)
	b.pass(3)
	expect(t, screen(t, b.out.String()), "   building päckche\n")
}

func TestWhatEndsWithinThreeSecondsIsNotMentioned(t *testing.T) {
	for name, width := range map[string]int{"log": 0, "terminal": 80} {
		t.Run(name, func(t *testing.T) {
			b := newBench(width)
			end := b.Begin("building etcd", time.Minute)
			b.pass(2)
			end(nil)
			b.pass(20)
			expect(t, b.out.String(), "")
		})
	}
}

func TestAnUnfinishedLineIsHeldBack(t *testing.T) {
	b := newBench(80)
	b.Begin("building etcd", 0)
	b.pass(3)
	fmt.Fprint(b, "one\ntw")
	expect(t, screen(t, b.out.String()), "one\n   building etcd: 0:03\n")
	fmt.Fprint(b, "o\n")
	expect(t, screen(t, b.out.String()), "one\ntwo\n   building etcd: 0:03\n")
}

func TestAnotherLogGetsTheBeginningAndTheEnd(t *testing.T) {
	var log bytes.Buffer
	Begin(&log, "building etcd", 4*time.Minute)(nil)
	Begin(&log, "building istiod", 0)(errors.New("no disk"))
	took := regexp.MustCompile(`\d+:\d\d`)
	expect(t, took.ReplaceAllString(log.String(), "TIME"), `
building etcd (about 4 min)
building etcd: done after TIME
building istiod
`)
}

func TestBeginUsesAPrinter(t *testing.T) {
	b := newBench(0)
	var log io.Writer = b.Printer
	Begin(log, "building etcd", 0)
	b.pass(3)
	expect(t, b.out.String(), "   building etcd\n")
}

func TestAboutIsAsPreciseAsAnEstimate(t *testing.T) {
	for d, want := range map[time.Duration]string{
		20 * time.Second:  "20 s",
		90 * time.Second:  "90 s",
		2 * time.Minute:   "2 min",
		250 * time.Second: "4 min",
	} {
		if got := About(d); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}

func TestConcurrentLinesAreAllPrinted(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := New(writer)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			end := p.Begin("counting", 0)
			for range 20 {
				fmt.Fprintln(p, "one more")
			}
			end(nil)
		})
	}
	all.Wait()
	fmt.Fprint(p, "no newline")
	p.Close()
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, string(content), strings.Repeat("one more\n", 200)+"no newline\n")
}
