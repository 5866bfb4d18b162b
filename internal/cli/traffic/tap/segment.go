package tap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// segment is a piece of a request or response that a tap filter has seen: one of its
// fields is set (envoy.data.tap.v3.HttpStreamedTraceSegment, in the JSON of protobuf). None
// is set where a tap tells of a request that it has not seen.
type segment struct {
	// Trace is the same for all pieces of one stream, from whichever tap.
	Trace            string     `json:"trace_id"`
	RequestHeaders   *headerMap `json:"request_headers"`
	RequestBody      *body      `json:"request_body_chunk"`
	RequestTrailers  *headerMap `json:"request_trailers"`
	ResponseHeaders  *headerMap `json:"response_headers"`
	ResponseBody     *body      `json:"response_body_chunk"`
	ResponseTrailers *headerMap `json:"response_trailers"`
}

type headerMap struct {
	Headers []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"headers"`
}

// body is a chunk of a body. Truncated says that the chunk had more bytes.
type body struct {
	Bytes     []byte `json:"as_bytes"`
	Truncated bool   `json:"truncated"`
}

func (m *headerMap) lines() host.Headers {
	lines := make(host.Headers, 0, len(m.Headers))
	for _, line := range m.Headers {
		lines.Add(line.Key, line.Value)
	}
	return lines
}

// maxSegment bounds a piece: a chunk of a body, in base64, or headers, of which Envoy
// takes 60 KiB by default.
const maxSegment = 8 << 20

// reader reads segments, which follow one another without anything between them.
type reader struct {
	decoder *json.Decoder
	bounded *io.LimitedReader
}

func newReader(from io.Reader) *reader {
	bounded := &io.LimitedReader{R: from}
	return &reader{json.NewDecoder(bounded), bounded}
}

// next returns the next segment. The error is io.EOF at the end.
func (r *reader) next() (segment, error) {
	r.bounded.N = maxSegment
	var wrapper struct {
		Segment *segment `json:"http_streamed_trace_segment"`
	}
	err := r.decoder.Decode(&wrapper)
	switch {
	case err != nil && r.bounded.N == 0:
		return segment{}, fmt.Errorf("a piece of the tap has more than %d MiB", maxSegment>>20)
	case err != nil:
		return segment{}, err
	case wrapper.Segment == nil:
		return segment{}, errors.New("the tap sends something else than pieces of HTTP")
	}
	return *wrapper.Segment, nil
}
