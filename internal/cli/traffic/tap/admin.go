package tap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// attachTimeout bounds the wait for the tap filters to be in the proxy, and attachPoll
	// is how often it is asked.
	attachTimeout = 30 * time.Second
	attachPoll    = 200 * time.Millisecond
	// maxAnswer bounds what is read of an answer that is no stream.
	maxAnswer = 4 << 10
)

// stream is what the tap filters of a proxy see, piece by piece.
type stream struct {
	// segments ends with the stream.
	segments <-chan segment
	body     io.ReadCloser
	failed   error // once segments is closed
	closing  chan struct{}
}

// attach waits until the tap filters with that id are in the proxy, and starts them. Of a
// body's chunk they send so many bytes.
func attach(ctx context.Context, address, id string, maxBytes int) (*stream, error) {
	var attached *stream
	answer := "it did not answer"
	err := wait.PollUntilContextTimeout(ctx, attachPoll, attachTimeout, true, func(ctx context.Context) (bool, error) {
		var err error
		attached, answer, err = tryAttach(ctx, address, id, maxBytes)
		return attached != nil, err
	})
	switch {
	case err == nil:
		return attached, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case wait.Interrupted(err):
		return nil, fmt.Errorf("the pod's proxy has no tap filters after %v (%s): check istioctl proxy-status for the pod, and that its Service port is HTTP", attachTimeout, answer)
	}
	return nil, err
}

// tryAttach starts the taps; the answer says why they are not there yet.
func tryAttach(ctx context.Context, address, id string, maxBytes int) (started *stream, answer string, err error) {
	response, err := post(ctx, address, id, maxBytes)
	if err != nil {
		return nil, err.Error(), nil // the forwarded connection may need another try
	}
	if response.StatusCode == http.StatusOK {
		return newStream(response.Body), "", nil
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // the status says enough
	answer = strings.TrimSpace(string(content))
	if strings.Contains(answer, "already exists") {
		return nil, answer, errors.New("someone else is tapping this pod: try again later, or record another pod with pod/NAME")
	}
	return nil, answer, nil
}

// post asks for the taps. Envoy ends at once when it is asked for another format than JSON.
// The stream outlives the context, which bounds the answer only.
func post(ctx context.Context, address, id string, maxBytes int) (*http.Response, error) {
	request, err := json.Marshal(map[string]any{
		"config_id": id,
		"tap_config": map[string]any{
			"match": map[string]any{"any_match": true},
			"output_config": map[string]any{
				"streaming":             true,
				"max_buffered_rx_bytes": maxBytes,
				"max_buffered_tx_bytes": maxBytes,
				"sinks":                 []any{map[string]any{"format": "JSON_BODY_AS_BYTES", "streaming_admin": map[string]any{}}},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	asked, err := http.NewRequestWithContext(whole, http.MethodPost, "http://"+address+"/tap", bytes.NewReader(request))
	if err != nil {
		cancel()
		return nil, err
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(asked)
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = closing{response.Body, cancel}
	return response, nil
}

// closing ends a request with its body.
type closing struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (c closing) Close() error {
	c.cancel()
	return c.ReadCloser.Close()
}

func newStream(body io.ReadCloser) *stream {
	segments := make(chan segment)
	s := &stream{segments: segments, body: body, closing: make(chan struct{})}
	go s.read(segments)
	return s
}

// read reads segments until the stream ends or is closed.
func (s *stream) read(to chan<- segment) {
	defer close(to)
	from := newReader(s.body)
	for {
		next, err := from.next()
		if err != nil {
			s.failed = err
			return
		}
		select {
		case to <- next:
		case <-s.closing:
			return
		}
	}
}

// err returns why the stream has ended by itself.
func (s *stream) err() error {
	return fmt.Errorf("the pod's proxy ended the recording: %w: look whether the pod still runs", s.failed)
}

func (s *stream) close() {
	close(s.closing)
	_ = s.body.Close()     // nothing more is read
	for range s.segments { // its end: nothing reads the body any more
	}
}
