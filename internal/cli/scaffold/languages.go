package scaffold

import "github.com/wasme-io/wasme-operator/internal/cli/toolchain"

// about is what a README says about a language.
type about struct {
	// Title is what people call it.
	Title string
	// Source is the file of the filter, and Pins the files with the versions.
	Source, Pins string
	// Needs are sentences about what has to be installed.
	Needs string
	// AnyRootID: modules of its SDK answer to any root id.
	AnyRootID bool
}

var languages = map[toolchain.Language]about{
	toolchain.Go: {
		Title: "Go", Source: "main.go", Pins: "`go.mod`, `go.sum`", AnyRootID: true,
		Needs: "You need Go 1.24 or later. Modules in Go run in Envoy 1.33 and later, and so in Istio 1.25 and later.",
	},
	toolchain.TinyGo: {
		Title: "TinyGo", Source: "main.go", Pins: "`go.mod`, `go.sum`", AnyRootID: true,
		Needs: "You need Go, and TinyGo 0.32 or later. The SDK gets no more changes, and the one for standard Go does: for a new filter\nthat need not be small, prefer `wasme init --language=go`.",
	},
	toolchain.Rust: {
		Title: "Rust", Source: "src/lib.rs", Pins: "`Cargo.toml`, `Cargo.lock`", AnyRootID: true,
		Needs: "You need Rust 1.63 or later with its target for Wasm: `rustup target add wasm32-wasip1`, or on Debian the packages cargo,\nlibstd-rust-dev-wasm32 and lld.",
	},
	toolchain.AssemblyScript: {
		Title: "AssemblyScript", Source: "assembly/index.ts", Pins: "`package.json`, `package-lock.json`",
		Needs: "You need Node.js with npm. The compiler is the last one that the SDK works with.",
	},
	toolchain.CPP: {
		Title: "C++", Source: "filter.cc", Pins: "`MODULE.bazel`, `.bazelversion`",
		Needs: "You need [Bazelisk](https://bazel.build/install/bazelisk). It fetches Bazel, and Bazel the compiler and the SDK: the first\nbuild takes some minutes.",
	},
}

// Title returns what people call a language.
func Title(l toolchain.Language) string { return languages[l].Title }

// rootIDs are the sentences about root ids.
func (a about) rootIDs() string {
	if a.AnyRootID {
		return "The SDK knows no root ids, so that the filter runs with any. The one in `runtime-config.json` is what a deployment gets\nthat sets none."
	}
	return "The filter registers this root id. If you change it in `" + a.Source + "`, change it in `runtime-config.json`, too."
}
