package child

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/wasme-io/wasme-operator/internal/preflight"
)

const (
	// compilingBytes is the memory that compiling, and all else but the module's own memory,
	// may take. A module of 1 MB that was made for it takes 320 MiB.
	compilingBytes = 512 << 20
	// memories is how often the module's memory is there: for the VM that is under way, and
	// for one that is started beside it.
	memories = 2
	// threads is the number of threads whose CPU time counts at the same time.
	threads = 4
)

// limit bounds the address space and the CPU time of the process, and has it be the first
// that the kernel ends when memory is short.
func limit(limits preflight.Limits) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("being the first to end: %w", err)
	}
	used, err := addressSpace()
	if err != nil {
		return err
	}
	space := used + uint64(memories*limits.MemoryBytes+compilingBytes) //nolint:gosec // flags that are checked
	seconds := uint64(limits.Time/time.Second)*threads + threads       //nolint:gosec // a flag that is checked
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"address space", unix.RLIMIT_AS, space},
		{"CPU time", unix.RLIMIT_CPU, seconds},
		{"core file", unix.RLIMIT_CORE, 0},
		{"open files", unix.RLIMIT_NOFILE, notesFD + 1},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("bounding the %s: %w", l.name, err)
		}
	}
	return nil
}

// addressSpace returns the bytes of address space that the process has, most of it
// reserved by the Go runtime and never used.
func addressSpace() (uint64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("reading the size of the process: %w", err)
	}
	pages, _, _ := strings.Cut(string(statm), " ")
	n, err := strconv.ParseUint(pages, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the size of the process: %w", err)
	}
	return n * uint64(os.Getpagesize()), nil //nolint:gosec // a size
}

// allowed are the system calls of the Go runtime and of wazero: memory, threads, time, and
// what the open descriptors take. There is none that opens a file or a socket, or starts a
// process.
var allowed = []string{
	"brk", "clock_gettime", "clock_nanosleep", "clone", "clone3", "close", "epoll_ctl", "epoll_pwait", "exit", "exit_group",
	"fcntl", "futex", "getpid", "getrandom", "gettid", "madvise", "mincore", "mmap", "mprotect", "mremap", "munmap",
	"nanosleep", "read", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity",
	"sched_yield", "set_robust_list", "sigaltstack", "tgkill", "timer_create", "timer_delete", "timer_settime", "write",
}

// confine gives up all other system calls, for all threads and for good: they return
// EPERM.
func confine() error {
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno,
			Syscalls:      []seccomp.SyscallGroup{{Names: allowed, Action: seccomp.ActionAllow}},
		},
	})
}
