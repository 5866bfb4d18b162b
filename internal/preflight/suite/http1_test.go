package suite

import (
	"slices"
	"testing"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

func TestParseHTTP1(t *testing.T) {
	const isRequest, isResponse = true, false
	for name, c := range map[string]struct {
		isRequest bool
		content   string
		want      host.Headers
	}{
		"a request":                {isRequest, "GET /my/path?q=1 HTTP/1.1\r\nHost: a.example:8080\r\nB: c\r\n", host.Headers{{Name: ":authority", Value: "a.example:8080"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/my/path?q=1"}, {Name: "b", Value: "c"}}},
		"lines without a return":   {isRequest, "\nGET / HTTP/1.1\nA: b\n", host.Headers{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: "a", Value: "b"}}},
		"no last line end":         {isRequest, "GET / HTTP/1.1\nA: b", host.Headers{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: "a", Value: "b"}}},
		"an empty Host":            {isRequest, "GET / HTTP/1.1\nHost:\n", host.Headers{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: "host", Value: ""}}},
		"two Hosts":                {isRequest, "GET / HTTP/1.1\nHost: a\nhost: b\n", host.Headers{{Name: ":authority", Value: "a"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}}},
		"absolute form":            {isRequest, "PUT HTTP://A.example:8080/x/../y?q HTTP/1.1\nHost: b\n", host.Headers{{Name: ":authority", Value: "a.example:8080"}, {Name: ":method", Value: "PUT"}, {Name: ":path", Value: "/y?q"}, {Name: ":scheme", Value: "http"}}},
		"absolute, default port":   {isRequest, "GET https://a.example:443 HTTP/1.1", host.Headers{{Name: ":authority", Value: "a.example"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: ":scheme", Value: "https"}}},
		"a port of another scheme": {isRequest, "GET http://[::1]:443/ HTTP/1.1", host.Headers{{Name: ":authority", Value: "[::1]:443"}, {Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: ":scheme", Value: "http"}}},
		"a response":               {isResponse, "HTTP/1.1 404 Not Found\nA: b\n", host.Headers{{Name: ":status", Value: "404"}, {Name: "a", Value: "b"}}},
		"a status without words":   {isResponse, "HTTP/1.1 200", host.Headers{{Name: ":status", Value: "200"}}},
		"a name several times":     {isResponse, "HTTP/1.1 200\nMyHeader: 1\nmyheader: 2\nMYHEADER: 3\n", host.Headers{{Name: ":status", Value: "200"}, {Name: "myheader", Value: "1, 2, 3"}}},
		"an empty value first":     {isResponse, "HTTP/1.1 200\nA:\na: 2\na:\n", host.Headers{{Name: ":status", Value: "200"}, {Name: "a", Value: "2, "}}},
		"a body after headers":     {isResponse, "HTTP/1.1 200\nA: b\n\nC: d", host.Headers{{Name: ":status", Value: "200"}, {Name: "a", Value: "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			headers, err := parseHTTP1([]byte(c.content), c.isRequest)
			if err != nil {
				t.Fatal(err)
			}
			if got := headers.lines(); !slices.Equal(got, c.want) {
				t.Errorf("%v, not %v", got, c.want)
			}
		})
	}
}

func TestParseHTTP1Refuses(t *testing.T) {
	const isRequest, isResponse = true, false
	for name, c := range map[string]struct {
		isRequest     bool
		content, want string
	}{
		"nothing":                  {isRequest, "", `"" is no request line: begin with one such as GET /path HTTP/1.1`},
		"no version":               {isRequest, "GET /", `"GET /" is no request line`},
		"a header line first":      {isRequest, "A: b c", `"A: b c" is no request line`},
		"a response for a request": {isRequest, "HTTP/1.1 200 OK", `"HTTP/1.1 200 OK" is no request line`},
		"an invalid target":        {isRequest, "GET http://%zz HTTP/1.1", `the target "http://%zz" of the request line is not a URI: begin it with a slash or a scheme`},
		"an asterisk":              {isRequest, "OPTIONS * HTTP/1.1", `the target "*" of the request line is not a path: begin it with a slash`},
		"an authority":             {isRequest, "CONNECT a.example:443 HTTP/1.1", `the target "a.example:443" of the request line is not`},
		"dot segments":             {isRequest, "GET /a/../b HTTP/1.1", `is not a path: begin it with a slash, and write it escaped and without dot segments`},
		"a fragment":               {isRequest, "GET /a#b HTTP/1.1", `the target "/a#b" of the request line is not a path`},
		"another host's path":      {isRequest, "GET //a/b HTTP/1.1", `the target "//a/b" of the request line is not a path`},
		"a line without a colon":   {isRequest, "GET / HTTP/1.1\nA b\n", `write header lines such as "name: value"`},
		"a request for a response": {isResponse, "GET / HTTP/1.1", `"GET / HTTP/1.1" is no status line: begin with one such as HTTP/1.1 200 OK`},
		"no status":                {isResponse, "HTTP/1.1", `"HTTP/1.1" is no status line`},
		"a status of letters":      {isResponse, "HTTP/1.1 OK", `the status "OK" is not a number: write one such as 200`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseHTTP1([]byte(c.content), c.isRequest)
			wantError(t, err, c.want)
		})
	}
}
