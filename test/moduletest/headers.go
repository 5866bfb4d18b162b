package moduletest

// Numbers of the ABI 0.2.1 (proxy_map_type_t, proxy_log_level_t).
const (
	requestHeaders  = 0
	responseHeaders = 2
	logInfo         = 2
	logError        = 4
)

// Greeting returns a filter that adds the response header hello, and logs its value.
func Greeting(value string) []byte {
	return addingHeader("proxy_on_response_headers", responseHeaders, "hello", value)
}

// AddingRequestHeader returns a filter that adds a request header, and logs its value.
func AddingRequestHeader(name, value string) []byte {
	return addingHeader(OnRequestHeaders, requestHeaders, name, value)
}

func addingHeader(callback string, to int32, name, value string) []byte {
	nameAt, valueAt := I32(DataAt), I32(int32(DataAt+len(name)))
	nameSize, valueSize := sizeOf(name), sizeOf(value)
	return Assembly{
		Imports: []Import{
			{Name: "proxy_add_header_map_value", Params: "wwwww", Results: "w"},
			{Name: "proxy_log", Params: "www", Results: "w"},
		},
		Functions: []Function{Handling(callback,
			I32(to), nameAt, nameSize, valueAt, valueSize, Call(0), Drop,
			I32(logInfo), valueAt, valueSize, Call(1), Drop,
		)},
		Data: name + value,
	}.Assemble()
}

// Crashing returns a filter that crashes with each request.
func Crashing() []byte {
	return Assembly{Functions: []Function{Handling(OnRequestHeaders, Unreachable)}}.Assemble()
}

// Refusing returns a filter that refuses each configuration, and logs why.
func Refusing(reason string) []byte {
	return Assembly{
		Imports: []Import{{Name: "proxy_log", Params: "www", Results: "w"}},
		Functions: []Function{Answering(OnConfigure, 0,
			I32(logError), I32(DataAt), sizeOf(reason), Call(0), Drop,
		)},
		Data: reason,
	}.Assemble()
}

// sizeOf returns the instruction that pushes the length of a text.
func sizeOf(text string) []byte { return I32(int32(len(text))) }
