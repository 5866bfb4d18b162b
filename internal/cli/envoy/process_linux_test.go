package envoy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

func TestEnvoyEndsWithAWasmeThatIsKilled(t *testing.T) {
	wasme := exec.Command(os.Args[0])
	wasme.Env = append(os.Environ(), holder+"="+installed(t), "TMPDIR="+t.TempDir())
	output, err := wasme.StdoutPipe()
	must(t, err)
	must(t, wasme.Start())
	var pid int
	_, err = fmt.Fscan(output, &pid)
	_ = wasme.Process.Kill()
	_ = wasme.Wait() // it was killed
	must(t, err)
	err = wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, patience, true, func(context.Context) (bool, error) { return gone(pid), nil })
	if err != nil {
		t.Errorf("Envoy %d still runs", pid)
	}
}
