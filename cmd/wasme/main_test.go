package main

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// asWasme is the variable that has the tests' program be wasme.
const asWasme = "RUN_AS_WASME"

func TestMain(m *testing.M) {
	if os.Getenv(asWasme) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestASecondInterruptionEndsAReadOfTheStandardInput(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), program, "load")
	c.Env = append(os.Environ(), asWasme+"=1", "HOME="+t.TempDir())
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	beginArchive(t, in)
	ended := make(chan struct{}, 1)
	go func() {
		_ = c.Wait() // how it ended is in its state
		ended <- struct{}{}
	}()
	err = wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		_ = c.Process.Signal(os.Interrupt) // it may have ended
		return len(ended) > 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	if status := c.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("wasme ended with %v", c.ProcessState)
	}
}

// beginArchive writes a part of an archive, which is more than a pipe holds: it returns when
// the other end waits for the rest.
func beginArchive(t *testing.T, to io.Writer) {
	t.Helper()
	archive := tar.NewWriter(to)
	header := &tar.Header{Name: "blobs/sha256/" + strings.Repeat("0", 64), Mode: 0o600, Size: 1 << 20}
	if err := archive.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write(make([]byte, header.Size/2)); err != nil {
		t.Fatal(err)
	}
}
