// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ClockOffset is the environment variable by whose seconds the clock of a
// program that OwnWithClock built is wrong.
const ClockOffset = "TEST_CLOCK_OFFSET_SECONDS"

// OwnWithClock builds a package as Own does, with a wall clock that can be
// wrong: a process cannot have one of its own from Linux, and a static Go
// program takes none from a library. So time.Now itself adds ClockOffset. The
// first time all packages are built once more, which takes minutes.
func OwnWithClock(ctx context.Context, pkg, target string) error {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("finding Go's source: %w", err)
	}
	original := filepath.Join(string(bytes.TrimSpace(goroot)), "src", "time", "time.go")
	patched, err := withOffset(original)
	if err != nil {
		return fmt.Errorf("patching %s: %w", original, err)
	}
	replacement, overlay := target+".time.go", target+".overlay.json"
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: replacement}})
	if err != nil {
		return fmt.Errorf("writing the overlay: %w", err)
	}
	for path, content := range map[string][]byte{replacement: patched, overlay: replace} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing the overlay: %w", err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("writing the overlay: %w", err)
		}
	}
	return own(ctx, pkg, target, "-overlay", overlay)
}

// withOffset is Go's own source with an offset in Now.
func withOffset(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	const reading = "sec, nsec, mono := runtimeNow()\n"
	const imports = "import (\n"
	if bytes.Count(content, []byte(reading)) != 1 || bytes.Count(content, []byte(imports)) != 1 {
		return nil, errors.New("this Go reads the clock in another way")
	}
	content = bytes.Replace(content, []byte(reading), []byte(reading+"\tsec += clockOffset\n"), 1)
	content = bytes.Replace(content, []byte(imports), []byte(imports+"\t\"syscall\"\n"), 1)
	return append(content, `
var clockOffset = func() int64 {
	text, _ := syscall.Getenv("`+ClockOffset+`")
	seconds, _ := atoi(text)
	return int64(seconds)
}()
`...), nil
}
