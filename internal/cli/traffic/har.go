package traffic

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// The parts of an HTTP Archive (HAR 1.2, http://www.softwareishard.com/blog/har-12-spec)
// that a recording uses. Fields that begin with _ are our own, as the format allows: the
// sizes of a body's chunks, trailers, that a body is not complete, and base64 where the
// format has text only.
type (
	harLog struct {
		Version string     `json:"version"`
		Creator harCreator `json:"creator"`
		Entries []harEntry `json:"entries"`
	}
	harCreator struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	harEntry struct {
		Started  time.Time   `json:"startedDateTime"`
		Time     float64     `json:"time"` // ms
		Request  harRequest  `json:"request"`
		Response harResponse `json:"response"`
		Cache    struct{}    `json:"cache"`
		Timings  harTimings  `json:"timings"`
	}
	harTimings struct {
		Send    float64 `json:"send"`
		Wait    float64 `json:"wait"`
		Receive float64 `json:"receive"`
	}
	harRequest struct {
		Method      string       `json:"method"`
		URL         string       `json:"url"`
		HTTPVersion string       `json:"httpVersion"`
		Cookies     []struct{}   `json:"cookies"`
		Headers     []harHeader  `json:"headers"`
		QueryString []harHeader  `json:"queryString"`
		PostData    *harPostData `json:"postData,omitempty"`
		HeadersSize int          `json:"headersSize"`
		BodySize    int          `json:"bodySize"`
		Trailers    []harHeader  `json:"_trailers,omitempty"`
	}
	harResponse struct {
		Status      int         `json:"status"`
		StatusText  string      `json:"statusText"`
		HTTPVersion string      `json:"httpVersion"`
		Cookies     []struct{}  `json:"cookies"`
		Headers     []harHeader `json:"headers"`
		Content     harContent  `json:"content"`
		RedirectURL string      `json:"redirectURL"`
		HeadersSize int         `json:"headersSize"`
		BodySize    int         `json:"bodySize"`
		Trailers    []harHeader `json:"_trailers,omitempty"`
		// Error says why there is no response; the status is 0 then.
		Error string `json:"_error,omitempty"`
	}
	harHeader struct {
		Name  string `json:"name"`
		Value string `json:"value"`
		// Base64 says that the value is not UTF-8.
		Base64 bool `json:"_base64,omitempty"`
	}
	// harBody is what postData of a request and content of a response have in common.
	harBody struct {
		MimeType  string `json:"mimeType"`
		Text      string `json:"text"`
		Chunks    []int  `json:"_chunks,omitempty"`
		Truncated bool   `json:"_truncated,omitempty"`
	}
	harPostData struct {
		harBody
		Base64 bool `json:"_base64,omitempty"`
	}
	harContent struct {
		harBody
		Size int `json:"size"`
		// Encoding is base64, or empty for text.
		Encoding string `json:"encoding,omitempty"`
	}
)

const (
	harVersion = "1.2"
	// unknownSize is that of headers on the wire.
	unknownSize = -1
	inBase64    = "base64"
	// answeredByFilter is the error of an entry without a response.
	answeredByFilter = "a filter answered in the application's place"
)

// Write writes exchanges as an HTTP Archive. The version is that of the program.
func Write(to io.Writer, version string, exchanges []Exchange) error {
	log := harLog{Version: harVersion, Creator: harCreator{"wasme", version}, Entries: make([]harEntry, 0, len(exchanges))}
	for _, e := range exchanges {
		log.Entries = append(log.Entries, entryOf(e))
	}
	encoder := json.NewEncoder(to)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(map[string]harLog{"log": log}); err != nil {
		return fmt.Errorf("writing the recording: %w", err)
	}
	return nil
}

func entryOf(e Exchange) harEntry {
	milliseconds := float64(e.Duration) / float64(time.Millisecond)
	return harEntry{
		Started: e.Started, Time: milliseconds, Timings: harTimings{Wait: milliseconds},
		Request: requestOf(e.Request), Response: responseOf(e.Response),
	}
}

func requestOf(m Message) harRequest {
	r := harRequest{
		HTTPVersion: "HTTP/1.1", Cookies: []struct{}{}, Headers: linesOf(m.Headers), QueryString: []harHeader{},
		HeadersSize: unknownSize, Trailers: linesOf(m.Trailers),
	}
	r.Method, _ = m.Headers.Get(":method")
	r.URL = urlOf(m.Headers)
	if _, query, found := strings.Cut(r.URL, "?"); found {
		r.QueryString = parametersOf(query)
	}
	if m.Body != nil {
		body, isBase64, size := bodyOf(m)
		r.PostData, r.BodySize = &harPostData{body, isBase64}, size
	}
	return r
}

func urlOf(headers host.Headers) string {
	scheme, _ := headers.Get(":scheme")
	authority, _ := headers.Get(":authority")
	path, _ := headers.Get(":path")
	return strings.ToValidUTF8(cmp.Or(scheme, "http")+"://"+authority+path, "\uFFFD")
}

func parametersOf(query string) []harHeader {
	parameters := []harHeader{}
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		parameters = append(parameters, harHeader{Name: unescaped(name), Value: unescaped(value)})
	}
	return parameters
}

func responseOf(m *Message) harResponse {
	r := harResponse{HTTPVersion: "HTTP/1.1", Cookies: []struct{}{}, Headers: []harHeader{}, HeadersSize: unknownSize}
	if m == nil {
		r.Error = answeredByFilter
		return r
	}
	status, _ := m.Headers.Get(":status")
	r.Status, _ = strconv.Atoi(status) // 0 for none
	r.StatusText = http.StatusText(r.Status)
	r.RedirectURL, _ = m.Headers.Get("location")
	r.Headers, r.Trailers = linesOf(m.Headers), linesOf(m.Trailers)
	body, isBase64, size := bodyOf(*m)
	r.Content, r.BodySize = harContent{harBody: body, Size: size}, size
	if isBase64 {
		r.Content.Encoding = inBase64
	}
	return r
}

func linesOf(headers host.Headers) []harHeader {
	lines := make([]harHeader, 0, len(headers))
	for _, line := range headers {
		value, isBase64 := encoded([]byte(line.Value))
		lines = append(lines, harHeader{Name: line.Name, Value: value, Base64: isBase64})
	}
	return lines
}

func bodyOf(m Message) (body harBody, isBase64 bool, size int) {
	content := bytes.Join(m.Body, nil)
	body.MimeType, _ = m.Headers.Get("content-type")
	body.Text, isBase64 = encoded(content)
	body.Truncated = m.Truncated
	for _, chunk := range m.Body {
		body.Chunks = append(body.Chunks, len(chunk))
	}
	return body, isBase64, len(content)
}

// encoded returns bytes as text of JSON: as they are, or in base64.
func encoded(content []byte) (text string, isBase64 bool) {
	if utf8.Valid(content) {
		return string(content), false
	}
	return base64.StdEncoding.EncodeToString(content), true
}

// Read reads an HTTP Archive, within the limits of this package. Those that others wrote
// are read, too: their requests have no pseudo headers, which come from method and URL.
func Read(from io.Reader) ([]Exchange, error) {
	bounded := &io.LimitedReader{R: from, N: MaxFileBytes + 1}
	exchanges, err := read(json.NewDecoder(bounded))
	switch {
	case bounded.N <= 0:
		return nil, fmt.Errorf("the file is larger than %d MiB: record less, or without --bodies", MaxFileBytes>>20)
	case err != nil:
		return nil, fmt.Errorf("this is not an HTTP Archive (HAR) that can be replayed: %w", err)
	}
	return exchanges, nil
}

// read goes to the entries piece by piece, so that a file of many empty ones does not
// take the memory of as many exchanges.
func read(decoder *json.Decoder) ([]Exchange, error) {
	for _, key := range []string{"log", "entries"} {
		if err := enter(decoder, key); err != nil {
			return nil, err
		}
	}
	if token, err := decoder.Token(); err != nil || token != json.Delim('[') {
		return nil, errors.New("log.entries is not a list")
	}
	exchanges := []Exchange{}
	for decoder.More() {
		if len(exchanges) == MaxExchanges {
			return nil, fmt.Errorf("it has more than %d entries: split it", MaxExchanges)
		}
		e, err := readEntry(decoder)
		if err != nil {
			return nil, fmt.Errorf("log.entries[%d]: %w", len(exchanges), err)
		}
		exchanges = append(exchanges, e)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("it ends early: %w", err)
	}
	return exchanges, nil
}

// enter reads an object up to the value of a key.
func enter(decoder *json.Decoder, key string) error {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("there is no object that has the key %q", key)
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		if token == key {
			return nil
		}
		var other json.RawMessage
		if err := decoder.Decode(&other); err != nil {
			return err
		}
	}
	return fmt.Errorf("it has no %q", key)
}

func readEntry(decoder *json.Decoder) (Exchange, error) {
	var raw json.RawMessage
	if err := decoder.Decode(&raw); err != nil {
		return Exchange{}, err
	}
	if len(raw) > MaxEntryBytes {
		return Exchange{}, fmt.Errorf("it has more than %d MiB: remove it, or its bodies", MaxEntryBytes>>20)
	}
	var entry harEntry
	if err := json.Unmarshal(raw, &entry); err != nil {
		return Exchange{}, err
	}
	return entry.exchange()
}

func (entry harEntry) exchange() (Exchange, error) {
	e := Exchange{Started: entry.Started, Duration: time.Duration(entry.Time * float64(time.Millisecond))}
	var err error
	if e.Request, err = entry.Request.message(); err != nil {
		return e, fmt.Errorf("request: %w", err)
	}
	if entry.Response.Status == 0 {
		return e, nil
	}
	response, err := entry.Response.message()
	if err != nil {
		return e, fmt.Errorf("response: %w", err)
	}
	e.Response = &response
	return e, nil
}

func (r harRequest) message() (Message, error) {
	m, err := messageOf(r.Headers, r.Trailers)
	if err != nil {
		return m, err
	}
	if _, found := m.Headers.Get(":path"); !found {
		if m.Headers, err = withTarget(m.Headers, r.Method, r.URL); err != nil {
			return m, err
		}
	}
	if r.PostData != nil {
		m.Body, err = r.PostData.chunks(r.PostData.Base64)
		m.Truncated = r.PostData.Truncated
	}
	return m, err
}

// withTarget puts pseudo headers in Envoy's order before the others, of which Host is one
// of them.
func withTarget(headers host.Headers, method, target string) (host.Headers, error) {
	parsed, err := url.Parse(target)
	if err != nil || parsed.Host == "" || method == "" {
		return nil, errors.New("it has neither the header :path nor a method and an absolute URL")
	}
	all := host.Headers{
		{Name: ":authority", Value: parsed.Host}, {Name: ":path", Value: parsed.RequestURI()},
		{Name: ":method", Value: method}, {Name: ":scheme", Value: parsed.Scheme},
	}
	headers.Remove("host")
	return append(all, headers...), nil
}

func (r harResponse) message() (Message, error) {
	m, err := messageOf(r.Headers, r.Trailers)
	if err != nil {
		return m, err
	}
	if _, found := m.Headers.Get(":status"); !found {
		m.Headers = append(host.Headers{{Name: ":status", Value: strconv.Itoa(r.Status)}}, m.Headers...)
	}
	m.Truncated = r.Content.Truncated
	if r.Content.Text != "" || r.Content.Chunks != nil {
		m.Body, err = r.Content.chunks(r.Content.Encoding == inBase64)
	}
	return m, err
}

func messageOf(headers, trailers []harHeader) (Message, error) {
	var m Message
	for _, part := range []struct {
		to   *host.Headers
		from []harHeader
	}{{&m.Headers, headers}, {&m.Trailers, trailers}} {
		for _, line := range part.from {
			value := line.Value
			if line.Base64 {
				content, err := base64.StdEncoding.DecodeString(value)
				if err != nil {
					return m, fmt.Errorf("the value of the header %q is not base64", line.Name)
				}
				value = string(content)
			}
			part.to.Add(line.Name, value)
		}
	}
	return m, nil
}

// chunks returns the body in the chunks in which it came, or in one where nothing says so.
func (b harBody) chunks(isBase64 bool) ([][]byte, error) {
	content := []byte(b.Text)
	if isBase64 {
		var err error
		if content, err = base64.StdEncoding.DecodeString(b.Text); err != nil {
			return nil, errors.New("the body is not base64")
		}
	}
	if b.Chunks == nil {
		return [][]byte{content}, nil
	}
	var chunks [][]byte
	for _, size := range b.Chunks {
		if size < 0 || size > len(content) {
			return nil, errors.New("_chunks are not the sizes of the body's parts")
		}
		chunks = append(chunks, content[:size:size])
		content = content[size:]
	}
	if len(content) > 0 {
		return nil, errors.New("_chunks are not the sizes of the body's parts")
	}
	return chunks, nil
}
