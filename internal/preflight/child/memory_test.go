//go:build !race

// The race detector takes memory of its own, and ends the process in its own words when
// there is none.

package child

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func init() { processes["greedy"] = greedy }

// greedy takes memory for as long as it gets some.
func greedy() error {
	if err := limit(preflight.DefaultLimits); err != nil {
		return err
	}
	taken := map[int][]byte{}
	for {
		taken[len(taken)] = bytes.Repeat([]byte{1}, 16<<20)
	}
}

func TestAChildThatTakesTooMuchMemoryIsNoVerdictOnTheModule(t *testing.T) {
	good := moduletest.Assembly{}.Assemble()
	v, err := runner("greedy", 10*time.Second).Run(t.Context(), moduleFile(t, good), int64(len(good)), preflight.Filter{})
	if err != nil || v.Reason != wasmev1.ReasonNotRun || !strings.Contains(v.Message, "takes more than 512 MiB of memory") {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestAModuleOf100MBRuns(t *testing.T) {
	large := moduletest.Assembly{}.Assemble()
	section := append([]byte{1, 'x'}, make([]byte, 100<<20)...) // a custom section
	large = binary.AppendUvarint(append(large, 0), uint64(len(section)))
	large = append(large, section...)
	v, err := runner(Name, patience).Run(t.Context(), moduleFile(t, large), int64(len(large)), preflight.Filter{})
	if err != nil || v.Reason != wasmev1.ReasonPreflighted {
		t.Errorf("%+v, %v", v, err)
	}
}
