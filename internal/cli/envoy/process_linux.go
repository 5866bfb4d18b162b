package envoy

import "syscall"

// attributes has the kernel kill Envoy when wasme ends without ending it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
