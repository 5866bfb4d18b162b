// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package toolchains is about the compilers that wasme builds projects with. Its tests
// build what wasme init writes, and run what comes out.
package toolchains

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Use has a test build with the compilers of Debian 12, and with the Go on the PATH: a
// rustup on the PATH may have no target for Wasm, and Debian's Go is too old.
//
// Debian's cargo would clone the whole index of crates, and one that allows what is
// unstable reads single entries.
func Use(tb testing.TB) {
	tb.Helper()
	golang, err := exec.LookPath("go")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Setenv("PATH", filepath.Dir(golang)+":/usr/bin:/bin:"+os.Getenv("PATH"))
	tb.Setenv("RUSTC_BOOTSTRAP", "1")
	tb.Setenv("CARGO_UNSTABLE_SPARSE_REGISTRY", "true")
}
