package envoy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// answerBound is how long a request waits for its answer.
const answerBound = 30 * time.Second

// failedStream begins Envoy's details of a response that it sent because a module had failed
// (Context::failStream in source/extensions/common/wasm/context.cc).
const failedStream = "wasm_fail_stream"

// crashedBefore is the failure of a request that meets a module between a crash and its new VM.
const crashedBefore = "it crashed in an earlier request, and does not run again yet"

// Exchange is what became of a request.
type Exchange struct {
	// Sent is the request, and Answer what the client got.
	Sent, Answer Message
	// Arrived is the request as the upstream got it, and Answered what it answered. They are nil
	// when the request did not arrive there, or the upstream is not wasme's.
	Arrived, Answered *Message
	// OwnUpstream reports whether the upstream is wasme's.
	OwnUpstream bool
	// Lines are what the module logged.
	Lines []Record
	// Failure says how the filter failed; empty when it did not.
	Failure string
	// Broken says why there is no answer; nil when there is one.
	Broken error
}

// Request is one to send.
type Request struct {
	Method, Path string
	Header       http.Header
	Body         []byte
}

// Send sends a request through Envoy. While it does, what others send may be mistaken for it. An error says that the request could not be sent; what the filter does wrong is in what it
// returns.
func (e *Envoy) Send(ctx context.Context, r Request) (Exchange, error) {
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	request, err := e.request(ctx, r)
	if err != nil {
		return Exchange{}, err
	}
	sent := Message{Method: r.Method, Path: request.URL.RequestURI(), Header: received(request), Body: r.Body}
	x := Exchange{Sent: sent, OwnUpstream: e.upstream != nil}
	position := e.journal.position()
	if e.upstream != nil {
		e.upstream.watch()
	}
	var client string
	x.Answer, client, x.Broken = answer(request)
	records := e.untilLogged(ctx, position, client)
	if e.upstream != nil {
		if seen := e.upstream.seen(); seen != nil {
			x.Arrived, x.Answered = &seen.request, &seen.response
		}
	}
	x.Lines, x.Failure = sift(records, client)
	if x.Broken != nil && x.Failure == "" && e.process.hasEnded() {
		return x, e.Err()
	}
	return x, nil
}

// request returns a request for Envoy. It has the headers that Envoy adds when they are
// missing, so that all that the upstream sees differently comes from the filter.
func (e *Envoy) request(ctx context.Context, r Request) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, r.Method, e.URL()+"/"+strings.TrimPrefix(r.Path, "/"), bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("the request %s %s: %w", r.Method, r.Path, err)
	}
	request.Header = http.Header{"User-Agent": {"wasme"}, "X-Forwarded-Proto": {"http"}, "X-Request-Id": {requestID()}}
	for name, values := range r.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	request.Host = cmp.Or(request.Header.Get("Host"), request.URL.Host)
	request.Header.Del("Host")
	return request, nil
}

// requestID returns a random UUID (version 4), which is what Envoy gives requests.
func requestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// answer sends a request on a connection of its own, and reads the response. It returns the
// client's address, which is empty without a connection.
func answer(request *http.Request) (answer Message, client string, err error) {
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { client = c.Conn.LocalAddr().String() }}
	response, err := transport.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s: the filter holds the request, or the upstream does not answer", answerBound)
	}
	if err != nil {
		return Message{}, client, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		err = fmt.Errorf("reading the response's body: %w", err)
	}
	return Message{Status: response.StatusCode, Header: response.Header, Body: body}, client, err
}

// untilLogged returns Envoy's records from a position to the one that says that the request of
// a client has ended, or those that there are after a while.
func (e *Envoy) untilLogged(ctx context.Context, position int, client string) []Record {
	return e.journal.until(ctx, position, func(record Record) bool {
		_, is := details(record, client)
		return is
	})
}

// details returns where the response to a client's request came from, out of the record about it.
func details(record Record, client string) (string, bool) {
	if record.Logger != accessLogger {
		return "", false
	}
	return strings.CutPrefix(record.Text, client+" ")
}

// sift returns what the module logged, and how the filter failed a client.
func sift(records []Record, client string) (lines []Record, failure string) {
	for _, record := range records {
		from, _ := details(record, client)
		switch {
		case record.Own:
			lines = append(lines, record)
		case failure == "" && strings.HasPrefix(from, failedStream):
			failure = crashedBefore
		case record.Logger == "wasm" && record.Failed():
			failure = record.Text
		}
	}
	return lines, failure
}
