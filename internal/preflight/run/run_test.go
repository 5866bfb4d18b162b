package run_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
	. "github.com/wasme-io/wasme-operator/test/moduletest" //nolint:revive // an assembler reads like a language
)

var (
	// limits are small, so that what must time out does so soon.
	limits = preflight.Limits{MemoryBytes: 16 << 20, Time: 2 * time.Second, FunctionBytes: 64 << 10, Functions: 1000}
	// patient are limits for what must not time out, however busy the machine is.
	patient = preflight.Limits{MemoryBytes: 16 << 20, Time: time.Minute, FunctionBytes: 64 << 10, Functions: 1000}
)

var (
	logFunction = Import{Name: "proxy_log", Params: "www", Results: "w"}
	// logs has a module log its Data, which must be 5 bytes.
	logs = slices.Concat(I32(2), I32(DataAt), I32(5), Call(0), Drop)
)

// module returns an assembled module that can log "hello".
func module(functions ...Function) []byte {
	return Assembly{Imports: []Import{logFunction}, Functions: functions, Globals: 2, Data: "hello"}.Assemble()
}

func TestVerdicts(t *testing.T) {
	for name, tc := range map[string]struct {
		module  []byte
		reason  string
		message string
		logs    bool
	}{
		"a module that does nothing":           {module(), wasmev1.ReasonPreflighted, "without a fault", false},
		"no malloc":                            {Assembly{WithoutMalloc: true}.Assemble(), wasmev1.ReasonMissingExport, "exports neither malloc nor proxy_on_memory_allocate", false},
		"a callback of another type":           {module(Function{Name: OnVMStart, Params: "w", Results: "w", Code: [][]byte{I32(1)}}), wasmev1.ReasonMissingExport, "exports proxy_on_vm_start as (i32) → i32, but proxies call (i32, i32) → i32", false},
		"an import of nobody":                  {Assembly{Imports: []Import{{Name: "proxy_fly", Params: "w", Results: "w"}}}.Assemble(), wasmev1.ReasonMissingImport, "imports env.proxy_fly, which proxies do not offer", false},
		"an import of another type":            {Assembly{Imports: []Import{{Name: "proxy_log", Params: "ww", Results: "w"}}}.Assemble(), wasmev1.ReasonMissingImport, "imports env.proxy_log as (i32, i32) → i32, but proxies offer (i32, i32, i32) → i32", false},
		"an import of another ABI":             {Assembly{ABIs: []string{"0.1.0"}, Imports: []Import{{Name: "proxy_continue_stream", Params: "w", Results: "w"}}}.Assemble(), wasmev1.ReasonMissingImport, "to ABI 0.1.0", false},
		"two ABIs, the first counts":           {Assembly{ABIs: []string{"0.2.0", "0.1.0"}, Imports: []Import{{Name: "proxy_continue_stream", Params: "w", Results: "w"}}}.Assemble(), wasmev1.ReasonPreflighted, "", false},
		"no ABI":                               {Assembly{ABIs: []string{}}.Assemble(), wasmev1.ReasonInvalidModule, "exports no proxy_abi_version_", false},
		"code that is not valid":               {module(Answering(OnVMStart, 1, Add)), wasmev1.ReasonInvalidModule, "", false},
		"a start that returns false":           {module(Answering(OnVMStart, 0, logs)), wasmev1.ReasonStartFailed, "refused to start", true},
		"a start that traps":                   {module(Answering(OnVMStart, 1, logs, Unreachable)), wasmev1.ReasonStartFailed, "crashed in proxy_on_vm_start", true},
		"a start that loops":                   {module(Answering(OnVMStart, 1, logs, Forever)), wasmev1.ReasonTimedOut, "did not return in proxy_on_vm_start", true},
		"initializing that traps":              {module(Function{Name: "_initialize", Code: [][]byte{logs, Unreachable}}), wasmev1.ReasonStartFailed, "crashed in _initialize as it started", true},
		"initializing that loops":              {module(Function{Name: "_start", Code: [][]byte{Forever}}), wasmev1.ReasonTimedOut, "did not return in _start", false},
		"a configuration it refuses":           {module(Answering(OnConfigure, 0, logs)), wasmev1.ReasonConfigurationRefused, "refused its configuration as it was configured: fix spec.filter.config", true},
		"a configuration that traps":           {module(Answering(OnConfigure, 1, logs, Unreachable)), wasmev1.ReasonTrapped, "crashed in proxy_on_configure as it was configured: unreachable", true},
		"a configuration that loops":           {module(Answering(OnConfigure, 1, logs, Forever)), wasmev1.ReasonTimedOut, "did not return in proxy_on_configure", true},
		"the second configuration fails":       {module(Answering(OnConfigure, 1, Count(0), If(0, 2, logs, Unreachable))), wasmev1.ReasonTrapped, "when its configuration was changed under it", true},
		"a stream that traps":                  {module(Handling(OnRequestHeaders, logs, Unreachable)), wasmev1.ReasonTrapped, "in stream 1 (", true},
		"the 60th stream traps":                {module(Handling(OnRequestHeaders, Count(0), If(0, 60, logs, Unreachable))), wasmev1.ReasonTrapped, "in proxy_on_request_headers in stream ", true},
		"a stream that loops":                  {module(Handling(OnRequestHeaders, logs, Forever)), wasmev1.ReasonTimedOut, "did not return in proxy_on_request_headers in stream 1", true},
		"the end of a stream loops":            {module(Function{Name: OnDelete, Params: "w", Code: [][]byte{Forever}}), wasmev1.ReasonTimedOut, "did not return in proxy_on_delete", false},
		"the end of a plugin traps":            {module(Function{Name: "proxy_on_done", Params: "w", Results: "w", Code: [][]byte{Local(0), I32(1), Equal, {0x04, 0x40}, Unreachable, {0x0b}, I32(1)}}), wasmev1.ReasonTrapped, "crashed in proxy_on_done as it ended", false},
		"endless logging":                      {module(Answering(OnConfigure, 1, Loop(logs))), wasmev1.ReasonTimedOut, "did not return in proxy_on_configure", true},
		"endless recursion":                    {module(Handling(OnRequestHeaders, I32(0), I32(0), I32(0), Call(1), Drop)), wasmev1.ReasonTrapped, "stack overflow", false},
		"memory at the limit":                  {Assembly{Pages: 256}.Assemble(), wasmev1.ReasonPreflighted, "", false},
		"memory beyond the limit":              {Assembly{Pages: 257}.Assemble(), wasmev1.ReasonMemoryExceeded, "begins with 16448 KiB of memory, more than the 16384 KiB", false},
		"memory that grows too far":            {module(Answering(OnConfigure, 1, I32(1000), Grow, Drop, logs, Unreachable)), wasmev1.ReasonMemoryExceeded, "asked for more than 16 MiB of memory in proxy_on_configure", true},
		"memory it is refused, but takes well": {module(Answering(OnConfigure, 1, I32(1000), Grow, Drop)), wasmev1.ReasonPreflighted, "", false},
		"a leak":                               {module(Handling(OnRequestHeaders, Count(0), If(0, 20, I32(0), SetGlobal(0), I32(1), Grow, Drop))), wasmev1.ReasonLeaking, "bytes with each", false},
		"a function that is too large":         {module(Answering(OnConfigure, 1, slices.Repeat(slices.Concat(I32(1), Drop), 30_000))), wasmev1.ReasonNotRun, "a function of 90004 bytes", false},
		"too many functions":                   {module(slices.Repeat([]Function{{}}, 1001)...), wasmev1.ReasonNotRun, "a module with 1003 functions", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within := patient
			if tc.reason == wasmev1.ReasonTimedOut {
				within = limits
			}
			got := run.Run(t.Context(), tc.module, preflight.Filter{}, within, nil)
			if got.Reason != tc.reason || !strings.Contains(got.Message, tc.message) {
				t.Errorf("%s: %s", got.Reason, got.Message)
			}
			if logged := slices.Contains(got.Logs, "hello"); logged != tc.logs {
				t.Errorf("its last words are %q", got.Logs)
			}
		})
	}
}

func TestAModuleThatIsOnlySlowPasses(t *testing.T) {
	// 10,000 streams of at least 1 ms would take more than the 10 s of a run.
	slow := Handling(OnRequestHeaders, I32(0), SetGlobal(0), Begin, Count(0), Global(0), I32(1_000_000), LessThan, BranchIf, End)
	got := run.Run(t.Context(), module(slow), preflight.Filter{}, patient, nil)
	if got.Reason != wasmev1.ReasonPreflighted || got.Cost.Streams >= 10_000 || got.Cost.Stream < time.Millisecond {
		t.Errorf("%+v, %+v", got, got.Cost)
	}
}

func TestRootIDsThatAModuleDoesNotKnow(t *testing.T) {
	says := func(text string, fails ...Function) []byte {
		words := slices.Concat(I32(4), I32(DataAt), I32(int32(len(text))), Call(0), Drop)
		fails[0].Code = append([][]byte{words}, fails[0].Code...)
		return Assembly{Imports: []Import{logFunction}, Functions: fails, Data: text}.Assemble()
	}
	for name, tc := range map[string]struct {
		module []byte
		known  []string
		reason string
	}{
		"the module says so":                     {says("Missing context factory for root_id: mine", Answering(OnConfigure, 0)), nil, wasmev1.ReasonUnknownRootID},
		"the image lists others":                 {says("no", Answering(OnVMStart, 0)), []string{"other"}, wasmev1.ReasonUnknownRootID},
		"the image lists it":                     {says("no", Answering(OnVMStart, 0)), []string{"mine"}, wasmev1.ReasonStartFailed},
		"the image lists others, but it started": {says("bad JSON", Answering(OnConfigure, 0)), []string{"other"}, wasmev1.ReasonConfigurationRefused},
		"it speaks of another":                   {says("root_id other", Answering(OnConfigure, 0)), nil, wasmev1.ReasonConfigurationRefused},
	} {
		t.Run(name, func(t *testing.T) {
			got := run.Run(t.Context(), tc.module, preflight.Filter{RootID: "mine", KnownRootIDs: tc.known}, limits, nil)
			if got.Reason != tc.reason {
				t.Errorf("%s: %s", got.Reason, got.Message)
			}
			if got.Reason == wasmev1.ReasonUnknownRootID && !strings.HasSuffix(got.Message, `with the root id "mine": set spec.filter.rootID to one that it knows`) {
				t.Error(got.Message)
			}
		})
	}
}

func TestWhatOnlyAProxyKnowsIsNotHeldAgainstAModule(t *testing.T) {
	asking := func(path string) []byte {
		ask := slices.Concat(I32(DataAt), I32(int32(len(path))), I32(0), I32(4), Call(0), Drop)
		return Assembly{
			Imports:   []Import{{Name: "proxy_get_property", Params: "wwww", Results: "w"}},
			Functions: []Function{Answering(OnConfigure, 0, ask)}, Data: path,
		}.Assemble()
	}
	for name, tc := range map[string]struct {
		module []byte
		filter preflight.Filter
		reason string
		asked  string
	}{
		"a property of the node":    {asking("node\x00id"), preflight.Filter{}, wasmev1.ReasonUndecided, "property node.id"},
		"a variable of the sidecar": {module(Answering(OnConfigure, 0)), preflight.Filter{HostEnvironment: []string{"TOKEN"}}, wasmev1.ReasonUndecided, "environment variables TOKEN"},
		"a property that none has":  {asking("no_such"), preflight.Filter{}, wasmev1.ReasonConfigurationRefused, ""},
		"a property of the plugin":  {asking("plugin_name"), preflight.Filter{}, wasmev1.ReasonConfigurationRefused, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := run.Run(t.Context(), tc.module, tc.filter, limits, nil)
			if got.Reason != tc.reason || !strings.Contains(got.Message, tc.asked) || got.Refused() == (tc.asked != "") {
				t.Errorf("%s: %s", got.Reason, got.Message)
			}
		})
	}
}
