package host

// Buffers (specification, proxy_buffer_type_t).
const (
	requestBody = iota
	responseBody
	downstreamData
	upstreamData
	httpCallBody
	grpcMessage
	vmConfiguration
	pluginConfiguration
	callData
	maxBuffer = callData
)

// buffer returns the content of a buffer now, and the body that it is when the module
// may change it; false when there is no such buffer.
func (c *call) buffer(kind uint32) (content []byte, body *[]byte, found bool) {
	s := c.vm.scope()
	switch kind {
	case requestBody, responseBody:
		if s.stream == nil {
			return nil, nil, true
		}
		body := s.stream.ways[kind].body
		if body == nil {
			return nil, nil, true
		}
		return *body, body, true
	case httpCallBody:
		if c.vm.response == nil {
			return nil, nil, false
		}
		return c.vm.response.Content(), nil, true
	case grpcMessage:
		return []byte(c.vm.grpcIn.message), nil, true
	case vmConfiguration:
		return []byte(c.vm.options.Configuration), nil, true
	case pluginConfiguration:
		if !s.configuring {
			return nil, nil, false
		}
		return []byte(s.plugin.Configuration), nil, true
	case downstreamData, upstreamData, callData:
		return nil, nil, true
	}
	return nil, nil, false
}

func (c *call) bufferStatus() uint32 {
	if c.word(0) > maxBuffer {
		return badArgument
	}
	content, _, found := c.buffer(c.word(0))
	if !found {
		return notFound
	}
	return stored(c.vm.writeU32(c.word(1), uint32(len(content))) && c.vm.writeU32(c.word(2), 0)) //nolint:gosec // bounded by the run
}

func (c *call) getBuffer() uint32 {
	if c.word(0) > maxBuffer {
		return badArgument
	}
	content, body, found := c.buffer(c.word(0))
	if !found {
		return notFound
	}
	c.vm.ReadBody = c.vm.ReadBody || body != nil
	size := uint64(len(content))
	start := min(uint64(c.word(1)), size)
	end := min(start+uint64(c.word(2)), size)
	return c.give(string(content[start:end]), 3)
}

func (c *call) setBuffer() uint32 {
	if c.word(0) > maxBuffer {
		return badArgument
	}
	_, body, found := c.buffer(c.word(0))
	if !found {
		return notFound
	}
	data, inBounds := c.text(3)
	if !inBounds {
		return invalidMemoryAccess
	}
	if body == nil {
		return badArgument
	}
	c.vm.ReadBody = true
	start, length, size := uint64(c.word(1)), uint64(c.word(2)), uint64(len(*body))
	switch {
	case start == 0:
		*body = append([]byte(data), (*body)[min(length, size):]...)
	case start >= size:
		*body = append(*body, data...)
	default:
		return badArgument
	}
	return ok
}
