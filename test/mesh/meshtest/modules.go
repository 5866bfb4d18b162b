// Licensed under the Apache License, Version 2.0; see LICENSE.

package meshtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/wasme-io/wasme-operator/test/filters"
)

// ModuleServer serves modules by their digests, as the operator does, and ends
// with the suite or spec that started it.
type ModuleServer struct {
	// URL is where it serves.
	URL string

	mu   sync.Mutex
	held map[string][]byte
}

// StartModuleServer starts a server that has no modules.
func StartModuleServer() *ModuleServer {
	m := &ModuleServer{held: map[string][]byte{}}
	server := httptest.NewServer(m)
	DeferCleanup(server.Close)
	m.URL = server.URL
	return m
}

// ServeHTTP answers with the module whose SHA-256 is the last element of the
// path, with .wasm behind it.
func (m *ModuleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	m.mu.Lock()
	content, found := m.held[strings.TrimSuffix(name, ".wasm")]
	m.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
}

// Serve builds a test filter, serves it and returns its SHA-256 in hexadecimal.
func (m *ModuleServer) Serve(ctx context.Context, filter string) string {
	GinkgoHelper()
	content := Build(ctx, filter)
	digest := SHA256(content)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[digest] = content
	return digest
}

var (
	building sync.Mutex
	built    = map[string][]byte{}
)

// Build builds a test filter, once in a run.
func Build(ctx context.Context, filter string) []byte {
	GinkgoHelper()
	building.Lock()
	defer building.Unlock()
	if built[filter] == nil {
		module, err := filters.Build(ctx, filter)
		Expect(err).NotTo(HaveOccurred())
		built[filter] = module
	}
	return bytes.Clone(built[filter])
}

// PathOf returns the path of a module with this SHA-256 on a ModuleServer.
func PathOf(sha256 string) string { return "/" + sha256 + ".wasm" }

// SHA256 returns a module's SHA-256 in hexadecimal.
func SHA256(module []byte) string {
	sum := sha256.Sum256(module)
	return hex.EncodeToString(sum[:])
}
