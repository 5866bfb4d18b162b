// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package progress shows what a command is doing, for how long it has been
// doing it, and how long that usually takes. A terminal gets lines that are
// redrawn every second, below everything else that is printed; a log gets a
// line every ten seconds. What ends within three seconds is not mentioned.
package progress

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// unmentioned is how long something may run before it is shown.
	unmentioned = 3 * time.Second
	// refresh is the time between two drawings on a terminal.
	refresh = time.Second
	// reminder is the time between two lines of a log that say the same.
	reminder = 10 * time.Second
	// indent sets progress apart from titles, which begin at the margin.
	indent = "   "
)

// Printer prints lines, and the progress of what is running below them. Its
// methods may be called concurrently.
type Printer struct {
	out   io.Writer
	width func() int // of the terminal, in characters; nil: out is a log
	now   func() time.Time
	ended chan struct{}
	idle  chan struct{} // closed when the last drawing is over

	mu      sync.Mutex
	running []*task // in the order in which they began
	drawn   int     // how many lines of progress the terminal shows
	spoken  time.Time
	partial []byte // a line whose end has not been written yet
}

type task struct {
	title string
	usual time.Duration
	began time.Time
	shown bool
}

// New returns a Printer that prints to out until it is closed.
func New(out *os.File) *Printer {
	p := &Printer{out: out, now: time.Now, ended: make(chan struct{}), idle: make(chan struct{})}
	if term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb" {
		p.width = func() int { return widthOf(out) }
	}
	p.spoken = p.now()
	go p.keepShowing()
	return p
}

func widthOf(terminal *os.File) int {
	width, _, err := term.GetSize(int(terminal.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

func (p *Printer) keepShowing() {
	defer close(p.idle)
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.show()
		case <-p.ended:
			return
		}
	}
}

// Close removes the progress from the terminal. The Printer must not be used afterwards.
func (p *Printer) Close() {
	close(p.ended)
	<-p.idle
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	if len(p.partial) > 0 {
		fmt.Fprintf(p.out, "%s\n", p.partial)
	}
}

// Write prints the lines that end in text, and the rest when its line ends.
func (p *Printer) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial = append(p.partial, text...)
	end := bytes.LastIndexByte(p.partial, '\n') + 1
	if end == 0 {
		return len(text), nil
	}
	p.erase()
	_, err := p.out.Write(p.partial[:end])
	p.partial = bytes.Clone(p.partial[end:])
	p.spoken = p.now()
	p.draw()
	return len(text), err
}

// Begin shows that something is running, such as "building etcd", until the
// returned function is called with its error. It usually takes as long as
// usual; 0: that is not known.
func (p *Printer) Begin(title string, usual time.Duration) (end func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &task{title: title, usual: usual, began: p.now()}
	p.running = append(p.running, t)
	return func(err error) { p.end(t, err) }
}

// Begin is Printer.Begin if log is a Printer. Any other log receives a line at
// the beginning, and one at the end if there was no error.
func Begin(log io.Writer, title string, usual time.Duration) (end func(error)) {
	if p, ok := log.(*Printer); ok {
		return p.Begin(title, usual)
	}
	fmt.Fprintln(log, announced(title, usual))
	began := time.Now()
	return func(err error) {
		if err == nil {
			fmt.Fprintln(log, finished(title, time.Since(began)))
		}
	}
}

func (p *Printer) end(ended *task, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	for i, t := range p.running {
		if t == ended {
			p.running = append(p.running[:i:i], p.running[i+1:]...)
			break
		}
	}
	if ended.shown && err == nil {
		p.say(finished(ended.title, p.now().Sub(ended.began)))
	}
	p.draw()
}

// show brings what is shown up to date.
func (p *Printer) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.running {
		if t.shown || p.now().Sub(t.began) < unmentioned {
			continue
		}
		t.shown = true
		if p.width == nil {
			p.say(announced(t.title, t.usual))
		}
	}
	if p.width != nil {
		p.erase()
		p.draw()
		return
	}
	if states := p.states(); len(states) > 0 && p.now().Sub(p.spoken) >= reminder {
		p.say("still " + strings.Join(states, "; "))
	}
}

// say prints a line of its own.
func (p *Printer) say(line string) {
	fmt.Fprintf(p.out, "%s%s\n", indent, line)
	p.spoken = p.now()
}

// draw writes the progress to the terminal, a line each, cut to its width.
func (p *Printer) draw() {
	if p.width == nil {
		return
	}
	for _, state := range p.states() {
		line := []rune(indent + state)
		fmt.Fprintf(p.out, "%s\n", string(line[:min(len(line), p.width()-1)]))
		p.drawn++
	}
}

// erase takes the progress off the terminal: the cursor goes up to its first
// line, and everything below is cleared.
func (p *Printer) erase() {
	if p.drawn > 0 {
		fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
}

func (p *Printer) states() []string {
	var states []string
	for _, t := range p.running {
		if t.shown {
			states = append(states, t.title+": "+elapsed(p.now().Sub(t.began), t.usual))
		}
	}
	return states
}

func announced(title string, usual time.Duration) string {
	if usual == 0 {
		return title
	}
	return fmt.Sprintf("%s (about %s)", title, About(usual))
}

func finished(title string, took time.Duration) string {
	return fmt.Sprintf("%s: done after %s", title, clock(took))
}

func elapsed(already, usual time.Duration) string {
	switch {
	case usual == 0:
		return clock(already)
	case already > usual:
		return fmt.Sprintf("%s, longer than the usual %s", clock(already), About(usual))
	default:
		return fmt.Sprintf("%s of about %s", clock(already), About(usual))
	}
}

// clock returns minutes and seconds as a stopwatch shows them.
func clock(d time.Duration) string {
	seconds := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}

// About returns a duration in words, as precise as an estimate is: "40 s", "4 min".
func About(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	}
	return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
}
