package host_test

import (
	"slices"
	"strings"
	"testing"

	. "github.com/wasme-io/wasme-operator/test/moduletest" //nolint:revive // an assembler reads like a language
)

func TestWhatCrashesEnvoyIsATrap(t *testing.T) {
	continueResponse := slices.Concat(I32(1), Call(0), Drop)
	reply := slices.Concat(I32(403), I32(0), I32(0), I32(0), I32(0), I32(0), I32(0), I32(-1), Call(1), Drop)
	for name, tc := range map[string]struct {
		callback Function
		message  string
	}{
		"a response goes on before it has begun": {Handling(OnRequestHeaders, continueResponse), "that has not begun crashes the proxy"},
		"a response goes on that is not held":    {Handling("proxy_on_response_headers", continueResponse), "that it does not hold crashes the proxy"},
		"a local reply once the stream has ended": {
			Function{Name: "proxy_on_log", Params: "w", Code: [][]byte{reply}}, "proxy_send_local_response in proxy_on_log crashes the proxy",
		},
	} {
		t.Run(name, func(t *testing.T) {
			vm, plugin, err := start(t, Assembly{
				Imports:   []Import{{Name: "proxy_continue_stream", Params: "w", Results: "w"}, {Name: "proxy_send_local_response", Params: "wwwwwwww", Results: "w"}},
				Functions: []Function{tc.callback},
			}.Assemble())
			if err != nil {
				t.Fatal(err)
			}
			vm.NewDrive(plugin, plain).Run()
			if failure := vm.Failure(); failure == nil || !strings.Contains(failure.Message, tc.message) {
				t.Errorf("%v", failure)
			}
		})
	}
}
