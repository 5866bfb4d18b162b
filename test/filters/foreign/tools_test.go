// Licensed under the Apache License, Version 2.0; see LICENSE.

package foreign

import "testing"

func TestAMissingToolNamesItsPackage(t *testing.T) {
	_, err := tool{name: "no-such-compiler", pkg: "compilers"}.path()
	const want = "no-such-compiler is missing: install the package compilers of Debian 12"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
