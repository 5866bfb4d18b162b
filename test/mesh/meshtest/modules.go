// Licensed under the Apache License, Version 2.0; see LICENSE.

package meshtest

import (
	"bytes"
	"context"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/wasme-io/wasme-operator/test/filters"
)

// StartModuleServer starts a server of modules that ends with the suite or spec.
func StartModuleServer() *filters.Server {
	server := filters.StartServer()
	DeferCleanup(server.Close)
	return server
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
