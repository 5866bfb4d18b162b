package condition_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
)

var errFailed = errors.New("100%d failed")

func TestVerdicts(t *testing.T) {
	for _, row := range []struct {
		name      string
		got, want condition.Verdict
	}{
		{"True", condition.True("R", "%d of %d", 1, 2), condition.Verdict{Status: metav1.ConditionTrue, Reason: "R", Message: "1 of 2"}},
		{"Unknown", condition.Unknown("R", "%d of %d", 1, 2), condition.Verdict{Status: metav1.ConditionUnknown, Reason: "R", Message: "1 of 2"}},
		{"False", condition.False("R", "%d of %d", 1, 2), condition.Verdict{Status: metav1.ConditionFalse, Reason: "R", Message: "1 of 2"}},
		{"FalseUntilChanged", condition.FalseUntilChanged("R", errFailed), condition.Verdict{Status: metav1.ConditionFalse, Reason: "R", Message: "100%d failed", Stalled: true}},
		{"FalseAndRetried", condition.FalseAndRetried("R", errFailed), condition.Verdict{Status: metav1.ConditionFalse, Reason: "R", Message: "100%d failed", Err: errFailed}},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(row.got).To(Equal(row.want))
		})
	}
}

func TestReadyRepeats(t *testing.T) {
	fine, waits, fails := condition.True("Fine", ""), condition.Unknown("Waits", "why it waits"), condition.False("Fails", "why it fails")
	stalls, retried := condition.FalseUntilChanged("Stalls", errFailed), condition.FalseAndRetried("Retried", errFailed)
	for _, row := range []struct {
		name  string
		steps []condition.Verdict
		// problem, reconciling and stalled are the reasons and messages.
		problem, reconciling, stalled string
	}{
		{"nothing where there are no steps", nil, " ", " ", " "},
		{"nothing where all is fine", []condition.Verdict{fine, fine}, " ", " ", " "},
		{"a step that waits", []condition.Verdict{fine, waits, fine}, "Waits why it waits", "Progressing why it waits", " "},
		{"a step that fails", []condition.Verdict{fine, fails}, "Fails why it fails", "ProgressingWithRetry why it fails", " "},
		{"a step that is retried", []condition.Verdict{retried, fine}, "Retried 100%d failed", "ProgressingWithRetry 100%d failed", " "},
		{"a step that stalls", []condition.Verdict{fine, stalls}, "Stalls 100%d failed", " ", "Stalls 100%d failed"},
		{"the first of two problems", []condition.Verdict{waits, fails}, "Waits why it waits", "Progressing why it waits", " "},
		{"the one that stalls before an earlier one", []condition.Verdict{waits, fails, stalls, fine}, "Stalls 100%d failed", " ", "Stalls 100%d failed"},
		{"a step of which nothing is known", []condition.Verdict{fine, {Reason: "Nothing"}}, "Nothing ", "ProgressingWithRetry ", " "},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			problem, found := condition.FirstProblem(row.steps...)
			g.Expect(found).To(Equal(row.problem != " "))
			g.Expect(problem.Reason + " " + problem.Message).To(Equal(row.problem))
			if !found {
				problem = fine
			}
			for kind, c := range map[string]struct {
				got  condition.Verdict
				want string
			}{
				wasmev1.ConditionReconciling: {condition.Reconciling(problem), row.reconciling},
				wasmev1.ConditionStalled:     {condition.Stalled(problem), row.stalled},
			} {
				g.Expect(c.got.Reason+" "+c.got.Message).To(Equal(c.want), kind)
				if c.got.Reason != "" {
					g.Expect(c.got.Status).To(Equal(metav1.ConditionTrue), kind)
				}
			}
		})
	}
}

func TestWhatIsTrueIsNotStalled(t *testing.T) {
	if got := condition.Stalled(condition.Verdict{Status: metav1.ConditionTrue, Reason: "R", Stalled: true}); got != (condition.Verdict{}) {
		t.Errorf("got %v, want none", got)
	}
}

func TestSet(t *testing.T) {
	g := NewWithT(t)
	start := time.Unix(1000, 0)
	var conditions []metav1.Condition
	condition.Set(&conditions, "Loaded", condition.Unknown("Loading", "%s", strings.Repeat("ä", 1025)), 3, start)
	g.Expect(conditions).To(Equal([]metav1.Condition{{
		Type: "Loaded", Status: metav1.ConditionUnknown, Reason: "Loading", Message: strings.Repeat("ä", 1023) + "…",
		ObservedGeneration: 3, LastTransitionTime: metav1.NewTime(start),
	}}))

	condition.Set(&conditions, "Loaded", condition.Unknown("Waiting", "still"), 4, start.Add(time.Minute))
	g.Expect(conditions).To(Equal([]metav1.Condition{{
		Type: "Loaded", Status: metav1.ConditionUnknown, Reason: "Waiting", Message: "still",
		ObservedGeneration: 4, LastTransitionTime: metav1.NewTime(start),
	}}), "the same status is no transition")

	condition.Set(&conditions, "Loaded", condition.True("Loaded", "all"), 4, start.Add(time.Hour))
	g.Expect(conditions).To(Equal([]metav1.Condition{{
		Type: "Loaded", Status: metav1.ConditionTrue, Reason: "Loaded", Message: "all",
		ObservedGeneration: 4, LastTransitionTime: metav1.NewTime(start.Add(time.Hour)),
	}}))
}

func TestSetCorrectsATimeFromTheFuture(t *testing.T) {
	var conditions []metav1.Condition
	ahead, now := time.Unix(7000, 0), time.Unix(1000, 0)
	condition.Set(&conditions, "Loaded", condition.Unknown("Loading", "of a replica whose clock is ahead"), 1, ahead)
	condition.Set(&conditions, "Loaded", condition.Unknown("Loading", "of another one"), 1, now)
	if got := conditions[0].LastTransitionTime.Time; !got.Equal(now) {
		t.Errorf("the time is %s, not %s", got, now)
	}
}

func TestSetWhileTrue(t *testing.T) {
	g := NewWithT(t)
	now := time.Unix(1000, 0)
	other := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse}
	conditions := []metav1.Condition{other}
	condition.SetWhileTrue(&conditions, "Contested", condition.Verdict{}, 3, now)
	g.Expect(conditions).To(Equal([]metav1.Condition{other}))

	condition.SetWhileTrue(&conditions, "Contested", condition.False("StatusOverwritten", "by another"), 3, now)
	g.Expect(conditions).To(Equal([]metav1.Condition{other, {
		Type: "Contested", Status: metav1.ConditionTrue, Reason: "StatusOverwritten", Message: "by another",
		ObservedGeneration: 3, LastTransitionTime: metav1.NewTime(now),
	}}))

	condition.SetWhileTrue(&conditions, "Contested", condition.Verdict{}, 3, now)
	g.Expect(conditions).To(Equal([]metav1.Condition{other}))
}
