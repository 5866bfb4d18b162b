package condition

import (
	"errors"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func TestTheNoteOfAnEventIsCutByBytes(t *testing.T) {
	for name, tc := range map[string][2]string{
		"not at the bound":              {strings.Repeat("ä", 512), strings.Repeat("ä", 512)},
		"by bytes beyond it":            {strings.Repeat("ä", 513), strings.Repeat("ä", 510) + "…"},
		"with three bytes for the mark": {strings.Repeat("a", 1025), strings.Repeat("a", 1021) + "…"},
	} {
		t.Run(name, func(t *testing.T) { NewWithT(t).Expect(EventNote(tc[0])).To(Equal(tc[1])) })
	}
}

func TestAMessageIsCutByCharacters(t *testing.T) {
	for name, tc := range map[string][2]string{
		"not when it is short":    {"short", "short"},
		"not at the bound":        {strings.Repeat("ä", 1024), strings.Repeat("ä", 1024)},
		"by characters beyond it": {strings.Repeat("ä", 1025), strings.Repeat("ä", 1023) + "…"},
	} {
		t.Run(name, func(t *testing.T) { NewWithT(t).Expect(Cut(tc[0])).To(Equal(tc[1])) })
	}
}

func TestEnumerateNamesThreeAndCountsTheOthers(t *testing.T) {
	name := func(s string) string { return "<" + s + ">" }
	for want, things := range map[string][]string{
		"":                          {},
		"<a>":                       {"a"},
		"<a>; <b>; <c>":             {"a", "b", "c"},
		"<a>; <b>; <c>; and 1 more": {"a", "b", "c", "d"},
		"<a>; <b>; <c>; and 2 more": {"a", "b", "c", "d", "e"},
	} {
		NewWithT(t).Expect(Enumerate(things, "; ", name)).To(Equal(want))
	}
}

func TestVerdictsAreWhatTheirNamesSay(t *testing.T) {
	g, err := NewWithT(t), errors.New("100 % wrong")
	g.Expect(True("R", "%d of %d", 1, 2)).To(Equal(Verdict{Status: metav1.ConditionTrue, Reason: "R", Message: "1 of 2"}))
	g.Expect(Unknown("R", "%d", 1)).To(Equal(Verdict{Status: metav1.ConditionUnknown, Reason: "R", Message: "1"}))
	g.Expect(False("R", "%d", 1)).To(Equal(Verdict{Status: metav1.ConditionFalse, Reason: "R", Message: "1"}))
	g.Expect(FalseUntilChanged("R", err)).To(Equal(Verdict{Status: metav1.ConditionFalse, Reason: "R", Message: "100 % wrong", Stalled: true}))
	g.Expect(FalseAndRetried("R", err)).To(Equal(Verdict{Status: metav1.ConditionFalse, Reason: "R", Message: "100 % wrong", Err: err}))
}

func TestWhatOnlyAChangeHelpsIsTheFirstProblem(t *testing.T) {
	yes, no, open, stuck := True("Y", ""), False("N", ""), Unknown("U", ""), FalseUntilChanged("S", errors.New(""))
	for name, tc := range map[string]struct {
		steps []Verdict
		want  Verdict
		found bool
	}{
		"none":                           {[]Verdict{yes, yes}, Verdict{}, false},
		"the first":                      {[]Verdict{yes, open, no}, open, true},
		"a failure":                      {[]Verdict{yes, no, open}, no, true},
		"stalled, though it is the last": {[]Verdict{no, open, yes, stuck}, stuck, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, found := FirstProblem(tc.steps...)
			g.Expect(got).To(Equal(tc.want))
			g.Expect(found).To(Equal(tc.found))
		})
	}
}

func TestReconcilingAndStalledFollowFromReady(t *testing.T) {
	for name, tc := range map[string]struct{ ready, reconciling, stalled Verdict }{
		"True":              {True("R", "m"), Verdict{}, Verdict{}},
		"Unknown":           {Unknown("R", "m"), True(wasmev1.ReasonProgressing, "m"), Verdict{}},
		"False":             {False("R", "m"), True(wasmev1.ReasonProgressingWithRetry, "m"), Verdict{}},
		"False and retried": {FalseAndRetried("R", errors.New("m")), True(wasmev1.ReasonProgressingWithRetry, "m"), Verdict{}},
		"stalled":           {FalseUntilChanged("R", errors.New("m")), Verdict{}, True("R", "m")},
		"True and stalled":  {Verdict{Status: metav1.ConditionTrue, Stalled: true}, Verdict{}, Verdict{}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(Reconciling(tc.ready)).To(Equal(tc.reconciling))
			g.Expect(Stalled(tc.ready)).To(Equal(tc.stalled))
		})
	}
}

func TestConditionsAreSetWithTheTimeOfTheDecision(t *testing.T) {
	g := NewWithT(t)
	first := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var conditions []metav1.Condition
	Set(&conditions, "Loaded", Unknown("Loading", "%s", strings.Repeat("x", 2000)), 7, first)
	g.Expect(conditions).To(HaveExactElements(And(
		HaveField("Type", "Loaded"), HaveField("Status", metav1.ConditionUnknown), HaveField("Reason", "Loading"),
		HaveField("Message", HaveSuffix("x…")), HaveField("ObservedGeneration", int64(7)), HaveField("LastTransitionTime.Time", first),
	)))
	Set(&conditions, "Loaded", Unknown("Unreachable", "m"), 8, first.Add(time.Hour))
	g.Expect(conditions[0]).To(And(HaveField("Reason", "Unreachable"), HaveField("ObservedGeneration", int64(8)), HaveField("LastTransitionTime.Time", first)))
	Set(&conditions, "Loaded", True("Loaded", "m"), 8, first.Add(time.Hour))
	g.Expect(conditions[0].LastTransitionTime.Time).To(Equal(first.Add(time.Hour)))

	SetWhileTrue(&conditions, "Contested", False("R", "m"), 8, first)
	g.Expect(conditions).To(HaveLen(2))
	g.Expect(conditions[1]).To(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", "R")))
	SetWhileTrue(&conditions, "Contested", Verdict{}, 8, first)
	g.Expect(conditions).To(HaveExactElements(HaveField("Type", "Loaded")))
}
