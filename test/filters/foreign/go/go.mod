// The modules of this folder are built with an SDK that the product does not need.
module github.com/wasme-io/wasme-operator/test/filters/foreign/go

go 1.26.0

require github.com/proxy-wasm/proxy-wasm-go-sdk v0.0.0-20250212164326-ab4161dcf924
