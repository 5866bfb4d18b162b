package host

import (
	"slices"
	"strings"
)

// Call is a call-out that a module has made and that waits for its answer.
type Call struct {
	// GRPC says that it is a gRPC call, and Streaming that it is a gRPC stream.
	GRPC, Streaming bool
	// Cluster is where it goes; of a gRPC call a serialized GrpcService or a cluster.
	Cluster string
	// Request is what is sent; of a gRPC call its headers are the initial metadata and
	// its body the message.
	Request Message
	// Method is that of a gRPC call, as "service/method".
	Method string

	token uint32
	root  *scope
}

// grpcInput is what proxy_on_grpc_* callbacks can read.
type grpcInput struct {
	initial, trailing *Headers
	message           string
}

// maxCalls bounds the call-outs that wait for an answer.
const maxCalls = 10_000

// Calls returns the call-outs that wait for an answer, in their order.
func (vm *VM) Calls() []*Call { return append(slices.Clone(vm.http), vm.grpc...) }

func (c *call) httpCall() uint32 {
	texts, inBounds := c.texts(0, 2, 4, 6)
	if !inBounds || !c.vm.writeU32(c.word(9), 0) {
		return invalidMemoryAccess
	}
	headers := unpackPairs(texts[1])
	for _, name := range []string{":path", ":method", ":authority"} {
		if _, found := headers.Get(name); !found {
			return badArgument
		}
	}
	if int32(c.word(8)) < 0 { //nolint:gosec // a signed number of milliseconds
		return badArgument
	}
	if len(c.vm.http) == maxCalls {
		return internalFailure
	}
	request := Message{Headers: headers, Trailers: unpackPairs(texts[3])}
	if texts[2] != "" {
		request.Body = [][]byte{[]byte(texts[2])}
	}
	made := &Call{Cluster: texts[0], Request: request, token: c.vm.nextToken(httpToken), root: c.vm.scope().root}
	c.vm.http = append(c.vm.http, made)
	return stored(c.vm.writeU32(c.word(9), made.token))
}

func (c *call) grpcCall() uint32 {
	texts, inBounds := c.texts(0, 2, 4, 6, 8)
	if !inBounds {
		return invalidMemoryAccess
	}
	return c.openGRPC(texts, false, c.word(11))
}

func (c *call) grpcStream() uint32 {
	texts, inBounds := c.texts(0, 2, 4, 6)
	if !inBounds {
		return invalidMemoryAccess
	}
	return c.openGRPC(append(texts, ""), true, c.word(8))
}

// The kinds of call-outs, in the lower two bits of their tokens, as Envoy has them.
const (
	httpToken       = 0
	grpcCallToken   = 1
	grpcStreamToken = 2
	tokenKinds      = 4
)

// nextToken returns the token of the next call-out of a kind.
func (vm *VM) nextToken(kind uint32) uint32 {
	vm.tokens[kind] += tokenKinds
	return vm.tokens[kind] | kind
}

// openGRPC makes a call or a stream. A service is a serialized GrpcService, or the name of
// a cluster, and every cluster exists.
func (c *call) openGRPC(texts []string, streaming bool, tokenAt uint32) uint32 {
	if len(c.vm.grpc) == maxCalls {
		return internalFailure
	}
	kind := uint32(grpcCallToken)
	if streaming {
		kind = grpcStreamToken
	}
	made := &Call{
		GRPC: true, Streaming: streaming, Cluster: texts[0], Method: texts[1] + "/" + texts[2],
		Request: Message{Headers: unpackPairs(texts[3]), Body: [][]byte{[]byte(texts[4])}},
		token:   c.vm.nextToken(kind), root: c.vm.scope().root,
	}
	c.vm.grpc = append(c.vm.grpc, made)
	return stored(c.vm.writeU32(tokenAt, made.token))
}

// grpcOf returns the gRPC call with that token; nil for none.
func (vm *VM) grpcOf(token uint32) *Call {
	place := slices.IndexFunc(vm.grpc, func(made *Call) bool { return made.token == token })
	if place < 0 {
		return nil
	}
	return vm.grpc[place]
}

func (c *call) grpcSend() uint32 {
	message, inBounds := c.text(1)
	made := c.vm.grpcOf(c.word(0))
	switch {
	case !inBounds:
		return invalidMemoryAccess
	case c.word(0)%tokenKinds == grpcCallToken:
		return badArgument
	case made == nil:
		return notFound
	case len(made.Request.Body) == maxCalls:
		return internalFailure
	}
	made.Request.Body = append(made.Request.Body, []byte(message))
	return ok
}

func (c *call) grpcCancel() uint32 { return c.dropGRPC() }

func (c *call) grpcClose() uint32 { return c.dropGRPC() }

func (c *call) dropGRPC() uint32 {
	made := c.vm.grpcOf(c.word(0))
	if made == nil {
		return notFound
	}
	c.vm.forget(made)
	return ok
}

func (vm *VM) forget(made *Call) {
	without := func(calls []*Call) []*Call {
		return slices.DeleteFunc(calls, func(known *Call) bool { return known == made })
	}
	vm.http, vm.grpc = without(vm.http), without(vm.grpc)
}

// Answer answers a call-out; nil fails it, as a connection that is reset does.
func (vm *VM) Answer(made *Call, response *Message) {
	vm.forget(made)
	switch {
	case vm.contexts[made.root.id] != made.root:
	case made.GRPC:
		vm.answerGRPC(made, response)
	case response == nil:
		vm.status = status{brokenConnection, "reset"}
		vm.invoke(made.root, "proxy_on_http_call_response", uint64(made.root.id), uint64(made.token), 0, 0, 0)
		vm.status.message = ""
	default:
		vm.response = response
		vm.invoke(made.root, "proxy_on_http_call_response", uint64(made.root.id), uint64(made.token),
			uint64(len(response.Headers)), uint64(len(response.Content())), uint64(len(response.Trailers)))
		vm.response = nil
	}
}

// gRPC status codes.
const (
	grpcOK          = 0
	grpcUnavailable = 14
)

func (vm *VM) answerGRPC(made *Call, response *Message) {
	in := func(callback string, last int) {
		vm.invoke(made.root, callback, uint64(made.root.id), uint64(made.token), uint64(last)) //nolint:gosec // sizes
	}
	if response == nil {
		vm.status = status{grpcUnavailable, "reset"}
		in("proxy_on_grpc_close", grpcUnavailable)
		vm.status.message = ""
		return
	}
	vm.grpcIn = grpcInput{initial: &response.Headers, message: string(response.Content())}
	if made.Streaming {
		in("proxy_on_grpc_receive_initial_metadata", len(response.Headers))
	}
	vm.grpcIn.initial = nil
	in("proxy_on_grpc_receive", len(vm.grpcIn.message))
	vm.grpcIn.message = ""
	if !made.Streaming {
		return
	}
	vm.grpcIn.trailing = &response.Trailers
	in("proxy_on_grpc_receive_trailing_metadata", len(response.Trailers))
	vm.grpcIn.trailing = nil
	vm.status = status{code: grpcOK}
	in("proxy_on_grpc_close", grpcOK)
}

// String says what is called.
func (c *Call) String() string {
	if c.GRPC {
		return "gRPC " + c.Method
	}
	method, _ := c.Request.Headers.Get(":method")
	path, _ := c.Request.Headers.Get(":path")
	return strings.Join([]string{method, path, "of", c.Cluster}, " ")
}
