package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// clientPause is the time between two requests of a client.
	clientPause = 100 * time.Millisecond
	// answerTime is how long a client waits for an answer.
	answerTime = 10 * time.Second
)

// ledger keeps what went wrong and what may have been the cause, until a quiet point
// compares them. Its methods may be called concurrently.
type ledger struct {
	mu       sync.Mutex
	causes   []*cause
	failures []failure
	requests int
	failed   map[symptom]int
	faults   map[kind]int
	// explained counts the failures by what explains them.
	explained map[kind]int
}

func newLedger() *ledger {
	return &ledger{failed: map[symptom]int{}, faults: map[kind]int{}, explained: map[kind]int{}}
}

// begin records a cause; the caller calls end when it is over. Only its first call counts.
func (l *ledger) begin(k kind, of ...string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &cause{Kind: k, Of: of, Begin: time.Now()}
	l.causes = append(l.causes, c)
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.End = time.Now()
	})
}

// add records a cause that is over.
func (l *ledger) add(c cause) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.causes = append(l.causes, &c)
}

func (l *ledger) count(k kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[k]++
}

func (l *ledger) record(f *failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if f != nil {
		l.failed[f.Symptom]++
		l.failures = append(l.failures, *f)
	}
}

// known returns the causes so far.
func (l *ledger) known() []cause {
	l.mu.Lock()
	defer l.mu.Unlock()
	causes := make([]cause, 0, len(l.causes))
	for _, c := range l.causes {
		causes = append(causes, *c)
	}
	return causes
}

// settle returns the failures since the last time that no cause explains. It forgets
// what is over.
func (l *ledger) settle() []string {
	causes := l.known()
	l.mu.Lock()
	defer l.mu.Unlock()
	var open []failure
	for _, f := range l.failures {
		if c := explain(f, causes); c != nil {
			l.explained[c.Kind]++
			continue
		}
		open = append(open, f)
	}
	problems := tell(open, causes)
	l.failures = nil
	l.causes = slices.DeleteFunc(l.causes, func(c *cause) bool { return !c.End.IsZero() && time.Since(c.End) > causeMemory })
	return problems
}

// causeMemory is how long a cause is known after its end: longer than what it explains, and
// than a rollback that it may have caused takes to show.
const causeMemory = 3 * time.Minute

func (l *ledger) counts() (requests, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.failed {
		failed += n
	}
	return l.requests, failed
}

// tell says for each pod and symptom how many requests failed, and what was under way at the
// first of them.
func tell(failures []failure, causes []cause) []string {
	type key struct {
		pod     string
		symptom symptom
	}
	var order []key
	of := map[key][]failure{}
	for _, f := range failures {
		k := key{f.Pod, f.Symptom}
		if of[k] == nil {
			order = append(order, k)
		}
		of[k] = append(of[k], f)
	}
	problems := make([]string, 0, len(order))
	for _, k := range order {
		all := of[k]
		first, last := all[0], all[len(all)-1]
		problems = append(problems, fmt.Sprintf("%d requests to %s failed (%s: %s) from %s to %s; under way: %s", len(all), k.pod, k.symptom,
			first.Detail, first.Ended.Format(clockFormat), last.Ended.Format(clockFormat), describe(underWay(causes, first.Ended))))
	}
	return problems
}

const clockFormat = "15:04:05.000"

func describe(causes []cause) string {
	if len(causes) == 0 {
		return "nothing"
	}
	texts := make([]string, 0, len(causes))
	for _, c := range causes {
		texts = append(texts, fmt.Sprintf("%s %v since %s", c.Kind, c.Of, c.Begin.Format(clockFormat)))
	}
	return strings.Join(texts, ", ")
}

// bounds are the configurations that a filter may answer with: from the last one that a quiet
// point has proved, up to the newest.
type bounds func() (proved, newest int)

// client sends requests to one pod until it is stopped: some over one connection each, and some
// over one that stays.
type client struct {
	pod      *mesh.Running
	filters  map[string]bounds
	ledger   *ledger
	stopping context.CancelFunc
	done     sync.WaitGroup
}

// startClient begins to send requests to a pod, which these filters are to answer.
func startClient(ctx context.Context, pod *mesh.Running, filters map[string]bounds, l *ledger) *client {
	c := &client{pod: pod, filters: filters, ledger: l}
	ctx, c.stopping = context.WithCancel(ctx)
	kept := &connection{address: strings.TrimPrefix(pod.URL, "http://")}
	c.every(ctx, func(ctx context.Context) mesh.Answer { return mesh.Ask(ctx, pod.URL) }, func() {})
	c.every(ctx, kept.ask, kept.close)
	return c
}

// every sends requests in a way of their own.
func (c *client) every(ctx context.Context, ask func(context.Context) mesh.Answer, end func()) {
	c.done.Go(func() {
		defer end()
		wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) { c.ask(ctx, ask) }, clientPause)
	})
}

func (c *client) stop() {
	c.stopping()
	c.done.Wait()
}

func (c *client) ask(ctx context.Context, ask func(context.Context) mesh.Answer) {
	began := time.Now()
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	answer := ask(asking)
	if ctx.Err() != nil {
		return
	}
	s, detail := judge(answer.Status, answer.Hello, c.filters)
	if s == "" {
		c.ledger.record(nil)
		return
	}
	c.ledger.record(&failure{Began: began, Ended: time.Now(), Pod: c.pod.Pod, Workload: c.pod.Workload.Name, Symptom: s, Detail: detail})
}

// connection sends requests one after the other over one connection, until the other side says
// that it ends. Go's own client would not do: it sends a request again when its connection is cut.
type connection struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

// ask returns the zero answer when none came.
func (c *connection) ask(ctx context.Context) mesh.Answer {
	answer, lasts, err := c.exchange(ctx)
	if err != nil || !lasts {
		c.close()
	}
	if err != nil {
		return mesh.Answer{}
	}
	return answer
}

func (c *connection) exchange(ctx context.Context) (answer mesh.Answer, lasts bool, err error) {
	if c.conn == nil {
		var dialer net.Dialer
		if c.conn, err = dialer.DialContext(ctx, "tcp", c.address); err != nil {
			return mesh.Answer{}, false, err
		}
		c.reader = bufio.NewReader(c.conn)
	}
	conn := c.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", c.address); err != nil {
		return mesh.Answer{}, false, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return mesh.Answer{}, false, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return mesh.Answer{}, false, err
	}
	return mesh.Answer{Status: response.StatusCode, Hello: response.Header.Values("hello")}, !response.Close, nil
}

func (c *connection) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// judge says how an answer, by its status (0: none) and its headers hello, shows that its request
// failed; empty: it did not.
func judge(status int, hello []string, filters map[string]bounds) (s symptom, detail string) {
	switch status {
	case 0:
		return noAnswer, "no answer"
	case http.StatusForbidden:
		return denied, "403"
	case http.StatusOK:
	default:
		return broken, fmt.Sprint(status)
	}
	for name, allowed := range filters {
		number, found := numberOf(name, hello)
		if !found {
			return unfiltered, fmt.Sprintf("hello: %v", hello)
		}
		if proved, newest := allowed(); number < proved || number > newest {
			return outdated, fmt.Sprintf("hello: %v, not %d to %d", hello, proved, newest)
		}
	}
	if len(hello) > len(filters) {
		return misplaced, fmt.Sprintf("hello: %v", hello)
	}
	return "", ""
}
