// Licensed under the Apache License, Version 2.0; see LICENSE.

package ports_test

import (
	"testing"

	"github.com/wasme-io/wasme-operator/test/mesh/ports"
)

func TestNothingIsGivenTwice(t *testing.T) {
	pools := []*ports.Pool{newPool(t), newPool(t)}
	seen := map[any]bool{}
	for range 1000 {
		for _, pool := range pools {
			port, err := pool.Port()
			if err != nil {
				t.Fatal(err)
			}
			address, err := pool.Address(port, 15090)
			if err != nil {
				t.Fatal(err)
			}
			if seen[port] || seen[address] {
				t.Fatalf("%d or %s was given twice", port, address)
			}
			seen[port], seen[address] = true, true
		}
	}
}

func newPool(t *testing.T) *ports.Pool {
	t.Helper()
	pool, err := ports.NewPool()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Release)
	return pool
}
