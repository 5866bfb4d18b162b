package filterdeployment

import (
	"testing"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

func TestChangeOfAnOutputIs(t *testing.T) {
	for _, row := range []struct {
		name        string
		annotations map[string]string
		want        string
	}{
		{"an update of another revision", map[string]string{revision.HashAnnotation: "q"}, opUpdate},
		{"an update of another revision that asked for the same fetch", map[string]string{revision.HashAnnotation: "q", rollout.FetchAnnotation: "r 1 1970-01-01T00:00:00Z"}, opUpdate},
		{"an update when it is renewed", map[string]string{revision.HashAnnotation: "r"}, opUpdate},
		{"an update when it is rendered anew", map[string]string{revision.HashAnnotation: "r", rollout.FetchAnnotation: "r 1 1970-01-01T00:00:00Z", rollout.RenderingAnnotation: "v 1970-01-01T00:00:00Z"}, opUpdate},
		{"an update of canaries", map[string]string{revision.HashAnnotation: "r", rollout.FetchAnnotation: "r 1 1970-01-01T00:00:00Z", rollout.CanaryAnnotation: "q 1970-01-01T00:00:00Z a"}, opUpdate},
		{"else a repair", map[string]string{revision.HashAnnotation: "r", rollout.FetchAnnotation: "r 1 1970-01-01T00:00:00Z"}, opRepair},
	} {
		t.Run(row.name, func(t *testing.T) {
			cached := istio.Kinds[wasmev1.OutputEnvoyFilter].New()
			cached.SetAnnotations(row.annotations)
			renewed := rollout.Fetch{Revision: "r", Renewals: 1, At: time.Unix(0, 0)}
			notes := map[string]string{revision.HashAnnotation: "r", rollout.FetchAnnotation: renewed.Annotation()}
			if got := changeOf(cached, notes); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
