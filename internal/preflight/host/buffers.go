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
)

// buffer returns the content of the buffer at argument 0, and the body that it is when the
// module may change it. The result is notFound or badArgument when there is no such buffer.
func (c *call) buffer() (content []byte, body *[]byte, result uint32) {
	s := c.vm.scope()
	switch kind := c.word(0); kind {
	case requestBody, responseBody:
		if s.stream == nil {
			return nil, nil, ok
		}
		body := s.stream.ways[kind].body
		if body == nil {
			return nil, nil, ok
		}
		return *body, body, ok
	case httpCallBody:
		if c.vm.response == nil {
			return nil, nil, notFound
		}
		return c.vm.response.Content(), nil, ok
	case grpcMessage:
		return []byte(c.vm.grpcIn.message), nil, ok
	case vmConfiguration:
		return []byte(c.vm.options.Configuration), nil, ok
	case pluginConfiguration:
		if !s.configuring {
			return nil, nil, notFound
		}
		return []byte(s.plugin.Configuration), nil, ok
	case downstreamData, upstreamData, callData:
		return nil, nil, ok
	}
	return nil, nil, badArgument
}

func (c *call) bufferStatus() uint32 {
	content, _, result := c.buffer()
	if result != ok {
		return result
	}
	return stored(c.vm.writeU32(c.word(1), uint32(len(content))) && c.vm.writeU32(c.word(2), 0)) //nolint:gosec // bounded by the run
}

func (c *call) getBuffer() uint32 {
	content, body, result := c.buffer()
	if result != ok {
		return result
	}
	c.vm.ReadBody = c.vm.ReadBody || body != nil
	size := uint64(len(content))
	start := min(uint64(c.word(1)), size)
	end := min(start+uint64(c.word(2)), size)
	return c.give(string(content[start:end]), 3)
}

func (c *call) setBuffer() uint32 {
	_, body, result := c.buffer()
	if result != ok {
		return result
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
