package rollout

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestAnOutputKeepsTheLastFetchThatItAskedFor(t *testing.T) {
	last := Fetch{Revision: "r", Renewals: 3, At: noon}
	var object metav1.ObjectMeta
	if got := fetchOf(object.Annotations[FetchAnnotation]); got != (Fetch{}) {
		t.Errorf("%+v", got)
	}
	object.Annotations = map[string]string{FetchAnnotation: last.Annotation()}
	if got := fetchOf(object.Annotations[FetchAnnotation]); got != last {
		t.Errorf("%+v, not %+v", got, last)
	}
	for _, spoilt := range []string{"r", "r x 2026-11-21T12:00:00Z", "r 3 noon", "r 3 2026-11-21T12:00:00Z more"} {
		object.Annotations[FetchAnnotation] = spoilt
		if got := fetchOf(object.Annotations[FetchAnnotation]); got != (Fetch{}) {
			t.Errorf("%q is read as %+v", spoilt, got)
		}
	}
	if got := last.renewal("r"); got != "3" {
		t.Errorf("renewal %q", got)
	}
	if got := last.renewal("other"); got != "" {
		t.Errorf("renewal of another revision %q", got)
	}
	if got := (Fetch{Revision: "r"}).renewal("r"); got != "" {
		t.Errorf("renewal of a first fetch %q", got)
	}
}

func TestWhenTheNextRenewalComes(t *testing.T) {
	for _, tc := range []struct {
		name     string
		renewals int
		want     time.Duration
	}{
		{"at once", 0, 0},
		{"after the first", 1, 30 * time.Second},
		{"after the second", 2, time.Minute},
		{"after the fifth", 5, 8 * time.Minute},
		{"at the bound", 6, 10 * time.Minute},
		{"after very many", 1_000_000, 10 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := renewalWait(tc.renewals); got != tc.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestARenewalIsDueOnceItsWaitIsOver(t *testing.T) {
	once := Fetch{Revision: "r", Renewals: 1, At: noon}
	for _, tc := range []struct {
		name  string
		fetch Fetch
		now   time.Time
		want  time.Duration
	}{
		{"after the wait", once, noon.Add(30 * time.Second), 0},
		{"a second before", once, noon.Add(29 * time.Second), time.Second},
		{"long after", once, noon.Add(time.Hour), 0},
		{"the first at once", Fetch{Revision: "r", At: noon}, noon, 0},
		{"of another revision at once", once, noon.Add(-time.Hour), 0},
		{"at the longest wait", Fetch{Revision: "r", Renewals: 9, At: noon}, noon, maxRenewal},
		{"when a clock was wrong", Fetch{Revision: "r", Renewals: 9, At: noon.Add(time.Second)}, noon, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.fetch.renewalDue("r", tc.now); got != tc.want {
				t.Errorf("%v, not %v", got, tc.want)
			}
		})
	}
	if got, want := once.renewed("r", noon), (Fetch{Revision: "r", Renewals: 2, At: noon}); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
	if got, want := once.renewed("next", noon), (Fetch{Revision: "next", Renewals: 1, At: noon}); got != want {
		t.Errorf("%+v, not %+v", got, want)
	}
}

func TestPodsAreWaitedForSinceTheirOutputWasWritten(t *testing.T) {
	fetch := Fetch{Revision: "r", At: noon}
	for _, tc := range []struct {
		name  string
		fetch Fetch
		now   time.Time
		want  time.Duration
	}{
		{"later than the others", fetch, noon.Add(10 * time.Second), 10 * time.Second},
		{"no longer than the others", fetch, noon.Add(2 * time.Minute), time.Minute},
		{"as the others with another revision", Fetch{Revision: "q", At: noon}, noon, time.Minute},
		{"as the others after a renewal", Fetch{Revision: "r", Renewals: 1, At: noon}, noon, time.Minute},
		{"as the others when a clock was wrong", fetch, noon.Add(-time.Second), time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.fetch.waited("r", time.Minute, tc.now); got != tc.want {
				t.Errorf("%v, not %v", got, tc.want)
			}
		})
	}
}

func TestSoonest(t *testing.T) {
	for _, tc := range [][3]time.Duration{{0, 0, 0}, {0, 2, 2}, {2, 0, 2}, {2, 3, 2}, {3, 2, 2}, {3, -1, 3}} {
		if got := soonest(tc[0], tc[1]); got != tc[2] {
			t.Errorf("soonest of %v and %v is %v", tc[0], tc[1], got)
		}
	}
}

func TestRoomIsThatOfTheModule(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bytes int64
		pods  int
	}{
		{"for pods as may drain, of a small module", 1 << 10, MaxLoadingPods},
		{"for pods as may fetch, of a large one", 64 << 20, 8},
		{"for one pod at least", 1 << 40, 1},
		{"for an empty module", 0, MaxLoadingPods},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := roomFor(wasmev1.ModuleStatus{SizeBytes: &tc.bytes}, Strategy{}, Share{}).size; got != tc.pods {
				t.Errorf("%d pods", got)
			}
		})
	}
	if got := roomFor(wasmev1.ModuleStatus{}, Strategy{}, Share{}).size; got != MaxLoadingPods {
		t.Errorf("%d pods of a module whose size is not known", got)
	}
}

func TestAWorkloadLargerThanTheRoomHasItToItself(t *testing.T) {
	r := room{size: 10}
	if !r.take(11) || r.take(1) || !r.take(0) {
		t.Errorf("%+v", r)
	}
	if (&room{taken: 1, size: 10}).take(10) {
		t.Error("11 of 10 pods load")
	}
	if !(&room{taken: 1, size: 10}).take(9) {
		t.Error("10 of 10 pods may load")
	}
}
