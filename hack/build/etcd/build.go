//go:build tools

// Package build pins the version of etcd that tests run.
package build

import _ "go.etcd.io/etcd/server/v3"
