package agreement

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// parts returns a message as HTTP/1.1 has it, cut where the client or the upstream pauses:
// after the headers, after each chunk, and after the trailers. The end of a body without
// trailers is an empty chunk, or else belongs to the last chunk.
func parts(m host.Message, first string) [][]byte {
	head := bytes.NewBufferString(first + "\r\n")
	length, hasLength := m.Headers.Get("content-length")
	chunked := !hasLength && len(m.Body)+len(m.Trailers) > 0
	if chunked {
		head.WriteString("transfer-encoding: chunked\r\n")
	}
	for _, line := range m.Headers {
		if !strings.HasPrefix(line.Name, ":") {
			writeLine(head, line)
		}
	}
	head.WriteString("\r\n")
	cut := [][]byte{head.Bytes()}
	if !chunked {
		if length == "0" {
			return cut
		}
		return append(cut, m.Body...)
	}
	for _, data := range m.Body {
		if len(data) > 0 {
			cut = append(cut, fmt.Appendf(nil, "%x\r\n%s\r\n", len(data), data))
		}
	}
	return withEnd(cut, m)
}

// withEnd adds the end of a chunked message.
func withEnd(cut [][]byte, m host.Message) [][]byte {
	end := bytes.NewBufferString("0\r\n")
	for _, line := range m.Trailers {
		writeLine(end, line)
	}
	end.WriteString("\r\n")
	if last := len(m.Body) - 1; len(m.Trailers) > 0 || len(m.Body[last]) == 0 {
		return append(cut, end.Bytes())
	}
	cut[len(cut)-1] = append(cut[len(cut)-1], end.Bytes()...)
	return cut
}

func writeLine(to *bytes.Buffer, line host.Header) {
	fmt.Fprintf(to, "%s: %s\r\n", line.Name, line.Value)
}

// requestLines returns the first lines of a request: that with its method, and its host.
func requestLines(m host.Message) string {
	method, _ := m.Headers.Get(":method")
	path, _ := m.Headers.Get(":path")
	authority, _ := m.Headers.Get(":authority")
	return fmt.Sprintf("%s %s HTTP/1.1\r\nhost: %s", method, path, authority)
}

// statusLine returns the first line of a response. One that HTTP/1.1 could not tell from an
// unfinished one gets a length.
func statusLine(m host.Message) string {
	status, _ := m.Headers.Get(":status")
	line := fmt.Sprintf("HTTP/1.1 %s -", status)
	_, hasLength := m.Headers.Get("content-length")
	if len(m.Body)+len(m.Trailers) == 0 && !hasLength && hasBody(status) {
		line += "\r\ncontent-length: 0"
	}
	return line
}

// hasBody reports whether a response with this status can have a body.
func hasBody(status string) bool {
	informational := len(status) == len("100") && status[0] == '1'
	return !informational && status != "204" && status != "304"
}

// reader reads messages off a connection. What it has read of one is in message, also when
// the connection ends before the message does.
type reader struct {
	*bufio.Reader
	message host.Message
	// bodyless says that the message is the response to a HEAD.
	bodyless bool
}

// request reads a whole request.
func (r *reader) request() error {
	r.message = host.Message{}
	first, err := r.line()
	if err != nil {
		return err
	}
	method, rest, _ := strings.Cut(first, " ")
	path, _, _ := strings.Cut(rest, " ")
	lines, err := r.lines()
	if err != nil {
		return err
	}
	authority, _ := lines.Get("host")
	lines.Remove("host")
	r.message = host.Message{Headers: append(host.Headers{{Name: ":method", Value: method}, {Name: ":path", Value: path}, {Name: ":authority", Value: authority}}, lines...)}
	_, hasLength := lines.Get("content-length")
	return r.body(hasLength, false)
}

// response reads a whole response, and returns io.ErrUnexpectedEOF when its end is missing.
func (r *reader) response() error {
	first, err := r.line()
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(first, " ")
	status, _, _ := strings.Cut(rest, " ")
	lines, err := r.lines()
	if err != nil {
		return unexpected(err)
	}
	r.message = host.Message{Headers: append(host.Headers{{Name: ":status", Value: status}}, lines...)}
	if r.bodyless || !hasBody(status) {
		return nil
	}
	_, hasLength := lines.Get("content-length")
	return unexpected(r.body(hasLength, true))
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// body reads what follows the headers. A message without framing ends with the connection,
// or has no body.
func (r *reader) body(hasLength, endless bool) error {
	coding, _ := r.message.Headers.Get("transfer-encoding")
	switch {
	case coding == "chunked":
		return r.chunks()
	case hasLength:
		text, _ := r.message.Headers.Get("content-length")
		length, err := strconv.ParseInt(text, 10, 64)
		if err != nil || length == 0 {
			return err
		}
		return r.read(length)
	case endless:
		content, err := io.ReadAll(r)
		r.message.Body = [][]byte{content}
		return err
	}
	return nil
}

func (r *reader) read(length int64) error {
	data := make([]byte, length)
	n, err := io.ReadFull(r, data)
	r.message.Body = append(r.message.Body, data[:n])
	return err
}

func (r *reader) chunks() error {
	for {
		line, err := r.line()
		if err != nil {
			return err
		}
		length, err := strconv.ParseInt(line, 16, 64)
		if err != nil {
			return fmt.Errorf("reading the size of a chunk: %w", err)
		}
		if length == 0 {
			r.message.Trailers, err = r.lines()
			return err
		}
		if err := r.read(length); err != nil {
			return err
		}
		if _, err := r.line(); err != nil {
			return err
		}
	}
}

// lines reads header lines and the empty line after them.
func (r *reader) lines() (host.Headers, error) {
	var lines host.Headers
	for {
		line, err := r.line()
		if err != nil || line == "" {
			return lines, err
		}
		name, value, _ := strings.Cut(line, ":")
		lines.Add(name, strings.TrimSpace(value))
	}
}

func (r *reader) line() (string, error) {
	line, err := r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}
