package host

// Way is a direction of a stream.
type Way int

// The ways of a stream: requests go to the upstream, responses to the client.
const (
	ToUpstream Way = toUpstream
	ToClient   Way = toClient
)

// Reaction is what a module did with headers or with a part of a body.
type Reaction struct {
	// Continue reports whether they go on.
	Continue bool
	// Body is the part of the body afterwards.
	Body []byte
	// Local is the reply that the module has sent in the upstream's place; nil for none.
	Local *LocalReply
}

// Headers calls the module with headers, which it may change. The error is the VM's
// failure. Unlike a Drive, a Stream holds and buffers nothing.
func (s *Stream) Headers(way Way, headers *Headers, endOfStream bool) (Reaction, error) {
	did := s.onHeaders(int(way), headers, endOfStream)
	return s.reaction(did == goOn, nil)
}

// Body calls the module with a part of a body.
func (s *Stream) Body(way Way, part []byte, endOfStream bool) (Reaction, error) {
	did := s.onBody(int(way), &part, endOfStream)
	return s.reaction(did == goOn, part)
}

func (s *Stream) reaction(goesOn bool, body []byte) (Reaction, error) {
	if s.vm.failure != nil {
		return Reaction{}, s.vm.failure
	}
	return Reaction{Continue: goesOn, Body: body, Local: s.local}, nil
}

// Close ends the stream: proxy_on_log, proxy_on_done, proxy_on_delete.
func (s *Stream) Close() error {
	s.close()
	if s.vm.failure != nil {
		return s.vm.failure
	}
	return nil
}
