package module_test

import (
	"errors"
	"fmt"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

func TestBoundsNameWhatTheyBoundAndTheirFlags(t *testing.T) {
	limits := module.Limits{ManifestBytes: 1, LayerBytes: 2, ModuleBytes: 3}
	for _, c := range []struct {
		bound   module.Bound
		message string
	}{
		{limits.Manifest(), "the image's manifest: more than 1 bytes: make it smaller, or raise the operator's --max-manifest-bytes"},
		{limits.Layers(), "the image's layers: more than 2 bytes: make it smaller, or raise the operator's --max-layer-bytes"},
		{limits.Module(), "the module: more than 3 bytes: make it smaller, or raise the operator's --max-module-bytes"},
		{module.Bound{Bytes: 4, What: "an answer"}, "an answer has more than 4 bytes"},
	} {
		e := c.bound.Exceeded()
		if e.Message != c.message || e.Reason != wasmev1.ReasonTooLarge || !e.Terminal {
			t.Errorf("%+v", e)
		}
	}
}

func TestDefaultLimitsAreWhatDocumentationSays(t *testing.T) {
	if got := module.DefaultLimits; got != (module.Limits{ManifestBytes: 4194304, LayerBytes: 268435456, ModuleBytes: 67108864, ArchiveEntries: 100000}) {
		t.Errorf("%+v", got)
	}
}

func TestErrors(t *testing.T) {
	temporary := module.Temporary(wasmev1.ReasonUnauthorized, "status %d", 401)
	if temporary.Reason != wasmev1.ReasonUnauthorized || temporary.Error() != "status 401" || temporary.Terminal {
		t.Errorf("%+v", temporary)
	}
	if terminal := module.Terminal(wasmev1.ReasonTooLarge, "more than %d", 1); terminal.Error() != "more than 1" || !terminal.Terminal {
		t.Errorf("%+v", terminal)
	}
	if got := module.AsError(fmt.Errorf("pulling: %w", temporary)); got != temporary {
		t.Errorf("%+v", got)
	}
	if got := module.AsError(errors.New("another")); got != nil {
		t.Errorf("%+v", got)
	}
}
