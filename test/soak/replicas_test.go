package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMayEnd(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for name, test := range map[string]struct {
		log    string
		faults []kind
		want   bool
	}{
		"a lost lease":                          {"{}\nerror: leader election lost\n", []kind{apiServerAway}, true},
		"that no fault explains":                {"error: leader election lost\n", []kind{registryDown}, false},
		"a lost lease of long before":           {"error: leader election lost\n{}\npanic: boom\n", []kind{apiServerAway}, false},
		"another error while a lease may be so": {"error: setting up the manager\n", []kind{apiServerAway}, false},
		"an empty log":                          {"", []kind{apiServerAway}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(log, []byte(test.log), 0o600); err != nil {
				t.Fatal(err)
			}
			var causes []cause
			for _, k := range test.faults {
				causes = append(causes, cause{Kind: k, Begin: time.Now().Add(-time.Second)})
			}
			if got := mayEnd(lastLine(log), causes, time.Now()); got != test.want {
				t.Errorf("%t", got)
			}
		})
	}
}
