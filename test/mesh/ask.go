// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Answer is what came back for one request.
type Answer struct {
	Status int
	// Hello are the values of the header hello, with which a test filter tells of
	// itself. A response passes filters in the reverse order of the request's, so
	// the value that comes last is that of the filter that comes first.
	Hello []string
}

// Answered returns the answer with this status and these values of the header
// hello.
func Answered(status int, hello ...string) Answer { return Answer{status, hello} }

// Filtered reports whether a filter has marked the answer.
func (a Answer) Filtered() bool { return len(a.Hello) > 0 }

// Ask sends a GET request and returns the answer; the zero one when none came.
// Headers are pairs of name and value.
func Ask(ctx context.Context, url string, headers ...string) Answer {
	response, err := send(ctx, url, headers)
	if err != nil {
		return Answer{}
	}
	defer response.Body.Close()
	return Answer{response.StatusCode, response.Header.Values("hello")}
}

// Fetch returns the body of the answer to a GET request, whatever its status;
// nil when none came.
func Fetch(ctx context.Context, url string) []byte {
	response, err := send(ctx, url, nil)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil
	}
	return body
}

func send(ctx context.Context, url string, headers []string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	request.Host = request.Header.Get("Host")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	return response, nil
}
