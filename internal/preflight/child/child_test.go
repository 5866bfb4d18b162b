package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// patience is how long a test waits for what must come, and pollInterval how often it looks.
const (
	patience     = 30 * time.Second
	pollInterval = 10 * time.Millisecond
)

// The processes that the test's own executable can be, by its first argument.
var processes = map[string]func() error{
	Name: func() error { return Main(os.Stdin, os.Stdout) },
	// A child that has done what a real one does before it runs a module, and then tries
	// what it must not be able to.
	"confined": confined,
	"stopped":  func() error { return syscall.Kill(os.Getpid(), syscall.SIGSTOP) },
	"chatter": func() error {
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 4096)); err != nil {
				return err
			}
		}
	},
	"crash": func() error { return errors.New("it is broken") },
	"liar": func() error {
		return json.NewEncoder(os.Stdout).Encode(preflight.Verdict{Reason: "Perfect", Message: "trust me"})
	},
	"silent":   func() error { return nil },
	"operator": operator,
}

func TestMain(m *testing.M) {
	if len(os.Args) >= 2 && processes[os.Args[1]] != nil {
		if err := processes[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runner returns one whose children are one of the processes.
func runner(process string, time time.Duration) *Runner {
	limits := preflight.DefaultLimits
	limits.Time = time
	return &Runner{Command: []string{"/proc/self/exe", process}, Limits: limits}
}

// moduleFile returns a file with a module.
func moduleFile(t *testing.T, module []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "module.wasm")
	if err := os.WriteFile(path, module, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestAModuleRunsInAChild(t *testing.T) {
	good := moduletest.Assembly{}.Assemble()
	v, err := runner(Name, patience).Run(t.Context(), moduleFile(t, good), int64(len(good)), preflight.Filter{})
	if err != nil || v.Reason != wasmev1.ReasonPreflighted || v.Cost == nil {
		t.Errorf("%+v, %v", v, err)
	}
	bad := moduletest.Assembly{Functions: []moduletest.Function{moduletest.Answering(moduletest.OnConfigure, 0)}}.Assemble()
	v, err = runner(Name, patience).Run(t.Context(), moduleFile(t, bad), int64(len(bad)), preflight.Filter{})
	if err != nil || v.Reason != wasmev1.ReasonConfigurationRefused {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestAFilterReachesTheModule(t *testing.T) {
	getProperty := slices.Concat(moduletest.I32(moduletest.DataAt), moduletest.I32(14), moduletest.I32(0), moduletest.I32(4), moduletest.Call(0), moduletest.Drop)
	log := slices.Concat(moduletest.I32(4), moduletest.Load(0), moduletest.Load(4), moduletest.Call(1), moduletest.Drop)
	module := moduletest.Assembly{
		Imports:   []moduletest.Import{{Name: "proxy_get_property", Params: "wwww", Results: "w"}, {Name: "proxy_log", Params: "www", Results: "w"}},
		Functions: []moduletest.Function{moduletest.Answering(moduletest.OnConfigure, 0, getProperty, log)}, Data: "plugin_root_id",
	}.Assemble()
	v, err := runner(Name, patience).Run(t.Context(), moduleFile(t, module), int64(len(module)), preflight.Filter{RootID: "the root"})
	if err != nil || !slices.Equal(v.Logs, []string{"the root"}) {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestAModuleThatDoesNotReturn(t *testing.T) {
	logs := slices.Concat(moduletest.I32(2), moduletest.I32(moduletest.DataAt), moduletest.I32(5), moduletest.Call(0), moduletest.Drop)
	getProperty := slices.Concat(moduletest.I32(moduletest.DataAt+5), moduletest.I32(7), moduletest.I32(0), moduletest.I32(4), moduletest.Call(1), moduletest.Drop)
	fewHeaders := slices.Concat(moduletest.Local(1), moduletest.I32(4), moduletest.Equal, []byte{0x04, 0x40}, moduletest.Forever, []byte{0x0b})
	for name, tc := range map[string]struct {
		function        moduletest.Function
		reason, message string
		logs, warnings  []string
	}{
		"configure": {
			moduletest.Answering(moduletest.OnConfigure, 1, logs, moduletest.Forever),
			wasmev1.ReasonTimedOut, "the module did not return in proxy_on_configure as it was configured, in 1s: ", []string{"hello"}, nil,
		},
		"a stream": {
			moduletest.Handling(moduletest.OnRequestHeaders, moduletest.Forever),
			wasmev1.ReasonTimedOut, "the module did not return in proxy_on_request_headers in stream 1 (", nil, nil,
		},
		"endless logging": {
			moduletest.Answering(moduletest.OnVMStart, 1, moduletest.Loop(logs)),
			wasmev1.ReasonTimedOut, "in proxy_on_vm_start as it was configured", slices.Repeat([]string{"hello"}, 5), nil,
		},
		"after a question": {
			moduletest.Answering(moduletest.OnConfigure, 1, getProperty, moduletest.Forever),
			wasmev1.ReasonUndecided, "it had asked for what only a proxy knows: property node.id", nil, nil,
		},
		"few headers only": {
			moduletest.Handling(moduletest.OnRequestHeaders, fewHeaders),
			wasmev1.ReasonPreflighted, "without a fault", nil, []string{"a request with few headers"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			module := moduletest.Assembly{
				Imports:   []moduletest.Import{{Name: "proxy_log", Params: "www", Results: "w"}, {Name: "proxy_get_property", Params: "wwww", Results: "w"}},
				Functions: []moduletest.Function{tc.function}, Data: "hellonode\x00id",
			}.Assemble()
			v, err := runner(Name, time.Second).Run(t.Context(), moduleFile(t, module), int64(len(module)), preflight.Filter{})
			if err != nil || v.Reason != tc.reason || !strings.Contains(v.Message, tc.message) || !slices.Equal(v.Logs, tc.logs) || !slices.Equal(v.Warnings, tc.warnings) {
				t.Errorf("%+v, %v", v, err)
			}
			if passed := v.Cost != nil; passed != (tc.reason == wasmev1.ReasonPreflighted) {
				t.Errorf("its cost: %+v", v.Cost)
			}
		})
	}
}

func TestChildrenThatMisbehave(t *testing.T) {
	for process, tc := range map[string]struct {
		time            time.Duration
		reason, message string
		err             string
	}{
		"stopped": {time.Second, wasmev1.ReasonTimedOut, "could not be compiled in 1s", ""},
		"chatter": {patience, "", "", "the child wrote too much"},
		"crash":   {patience, "", "", "the child failed: exit status 1: it is broken"},
		"liar":    {patience, "", "", "the child wrote an invalid verdict"},
		"silent":  {patience, "", "", "the child wrote no verdict"},
	} {
		t.Run(process, func(t *testing.T) {
			t.Parallel()
			good := moduletest.Assembly{}.Assemble()
			v, err := runner(process, tc.time).Run(t.Context(), moduleFile(t, good), int64(len(good)), preflight.Filter{})
			if v.Reason != tc.reason || !strings.Contains(v.Message, tc.message) {
				t.Errorf("%+v", v)
			}
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || err.Error() != tc.err) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestWhatAChildWritesIsChecked(t *testing.T) {
	long := strings.Repeat("x", maxMessage+1)
	for name, v := range map[string]preflight.Verdict{
		"no message":          {Reason: wasmev1.ReasonPreflighted},
		"a long message":      {Reason: wasmev1.ReasonTrapped, Message: long},
		"a long log line":     {Reason: wasmev1.ReasonTrapped, Message: "m", Logs: []string{long}},
		"many log lines":      {Reason: wasmev1.ReasonTrapped, Message: "m", Logs: make([]string, maxLines+1)},
		"many warnings":       {Reason: wasmev1.ReasonPreflighted, Message: "m", Warnings: make([]string, maxLines+1)},
		"a long warning":      {Reason: wasmev1.ReasonPreflighted, Message: "m", Warnings: []string{long}},
		"a negative cost":     {Reason: wasmev1.ReasonPreflighted, Message: "m", Cost: &preflight.Cost{MemoryBytes: -1}},
		"a long capability":   {Reason: wasmev1.ReasonPreflighted, Message: "m", Cost: &preflight.Cost{Capabilities: []string{long}}},
		"a reason of its own": {Reason: "Perfect", Message: "m"},
	} {
		t.Run(name, func(t *testing.T) {
			written, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := parse(written); err == nil {
				t.Errorf("%+v", got)
			}
		})
	}
	if _, err := parse([]byte(`{"Reason":"Preflighted","Message":"m","Else":1}`)); err == nil {
		t.Error("an unknown field passes")
	}
}

func TestAChildCanOnlyCompute(t *testing.T) {
	command := exec.CommandContext(t.Context(), "/proc/self/exe", "confined")
	out, err := command.CombinedOutput()
	if err != nil || string(out) != "confined\n" {
		t.Errorf("%s%v", out, err)
	}
}

// confined tries what a child must not be able to, and fails when something works.
func confined() error {
	if err := limit(preflight.DefaultLimits); err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	attempts := map[string]func() error{
		"reading a file":     func() error { _, err := os.ReadFile("/etc/hostname"); return err },
		"writing a file":     func() error { return os.WriteFile("/tmp/written-by-a-child", nil, 0o600) },
		"opening a socket":   func() error { _, err := net.DialTimeout("tcp", "127.0.0.1:1", time.Second); return err },
		"listening":          func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
		"a socket of a file": func() error { _, err := net.Dial("unix", "/run/none"); return err },
		"starting a process": func() error { return exec.Command("/bin/true").Run() },
		"signalling":         func() error { return syscall.Kill(os.Getppid(), 0) },
		"raising a limit":    func() error { return syscall.Setrlimit(syscall.RLIMIT_CPU, &syscall.Rlimit{Cur: 1000, Max: 1000}) },
	}
	for name, attempt := range attempts {
		if err := attempt(); !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EMFILE) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	fmt.Println("confined")
	return nil
}

func TestNoChildIsLeftWhenTheOperatorDies(t *testing.T) {
	command := exec.CommandContext(t.Context(), "/proc/self/exe", "operator")
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait() // it was killed
	err = wait.PollUntilContextTimeout(t.Context(), pollInterval, patience, true, func(context.Context) (bool, error) { return !alive(child), nil })
	if err != nil {
		t.Errorf("process %d is left: %v", child, err)
	}
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// operator runs a module that never returns, and prints the process id of the child.
func operator() error {
	module := moduletest.Assembly{Functions: []moduletest.Function{moduletest.Answering(moduletest.OnVMStart, 1, moduletest.Forever)}}.Assemble()
	file, err := os.CreateTemp("", "module-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(module); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	go func() {
		_ = wait.PollUntilContextTimeout(context.Background(), pollInterval, patience, true, func(context.Context) (bool, error) {
			pid := childOf(os.Getpid())
			if pid != 0 {
				fmt.Println(pid)
			}
			return pid != 0, nil
		}) // the test sees that nothing was printed
	}()
	_, err = runner(Name, patience).Run(context.Background(), file, int64(len(module)), preflight.Filter{})
	return err
}

// childOf returns a child of a process; 0 for none.
func childOf(parent int) int {
	tasks, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(parent), "task", "*", "children"))
	for _, task := range tasks {
		var pid int
		if children, err := os.ReadFile(task); err == nil && len(children) > 0 {
			if _, err := fmt.Sscan(string(children), &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}
