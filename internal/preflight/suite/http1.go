package suite

import (
	"bufio"
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// parseHTTP1 returns the headers of a request or a response of HTTP/1.1, as a proxy has
// them: the first line becomes pseudo headers. What follows an empty line is ignored.
func parseHTTP1(content []byte, isRequest bool) (headerMap, error) {
	firstLine, rest, _ := strings.Cut(strings.TrimLeft(string(content), "\r\n")+"\r\n\r\n", "\n")
	lines, err := textproto.NewReader(bufio.NewReader(strings.NewReader(rest))).ReadMIMEHeader()
	if err != nil {
		return nil, fmt.Errorf(`%w: write header lines such as "name: value"`, err)
	}
	headers := headerMap{}
	if isRequest {
		err = requestLine(strings.TrimSpace(firstLine), lines, headers)
	} else {
		err = statusLine(strings.TrimSpace(firstLine), headers)
	}
	for name, values := range lines {
		for _, value := range values {
			headers.add(strings.ToLower(name), value)
		}
	}
	return headers, err
}

// requestLine adds the pseudo headers of a request, and removes Host where one of them
// has it.
func requestLine(line string, lines textproto.MIMEHeader, headers headerMap) error {
	fields := strings.Fields(line)
	if len(fields) != 3 || strings.Contains(fields[0], ":") || !strings.HasPrefix(fields[2], "HTTP/") {
		return fmt.Errorf("%s is no request line: begin with one such as GET /path HTTP/1.1", quote(line))
	}
	headers.add(":method", fields[0])
	target, err := url.Parse(fields[1])
	switch {
	case err != nil:
		return fmt.Errorf("the target %s of the request line is not a URI: begin it with a slash or a scheme", quote(fields[1]))
	case target.Scheme != "" && target.Host != "":
		absoluteForm(target, headers)
		lines.Del("Host")
		return nil
	}
	return originForm(fields[1], lines, headers)
}

// absoluteForm adds what a target such as http://host/path has.
func absoluteForm(target *url.URL, headers headerMap) {
	headers.add(":scheme", target.Scheme)
	headers.add(":path", target.ResolveReference(target).RequestURI()) // without dot segments
	authority := strings.ToLower(target.Host)
	if port := target.Port(); port == "" || port == defaultPorts[target.Scheme] {
		authority = strings.TrimSuffix(authority, ":"+port)
	}
	headers.add(":authority", authority)
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// originForm adds what a target such as /path and the header Host have.
func originForm(target string, lines textproto.MIMEHeader, headers headerMap) error {
	base := &url.URL{Scheme: "http", Host: "example.com"}
	resolved, err := base.Parse(target)
	if err != nil || resolved.RequestURI() != target {
		return fmt.Errorf("the target %s of the request line is not a path: begin it with a slash, and write it escaped and without dot segments", quote(target))
	}
	headers.add(":path", target)
	if authority := lines.Get("Host"); authority != "" {
		headers.add(":authority", authority)
		lines.Del("Host")
	}
	return nil
}

// statusLine adds the pseudo header of a response.
func statusLine(line string, headers headerMap) error {
	fields := strings.Fields(line)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "HTTP/") {
		return fmt.Errorf("%s is no status line: begin with one such as HTTP/1.1 200 OK", quote(line))
	}
	if _, err := strconv.ParseUint(fields[1], 10, 16); err != nil {
		return errors.New("the status " + quote(fields[1]) + " is not a number: write one such as 200")
	}
	headers.add(":status", fields[1])
	return nil
}
