package main

import (
	"testing"
	"time"
)

func TestExplain(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	after := noon.Add
	const pod, workload, other = "app-0", "app", "other"
	// Each cause lasts from noon for 10 s.
	lasted := func(k kind, of ...string) cause {
		return cause{Kind: k, Of: of, Begin: noon, End: after(10 * time.Second)}
	}
	for name, test := range map[string]struct {
		symptom symptom
		began   time.Duration // and ended a second later
		cause   cause
		want    bool
	}{
		"a killed sidecar explains that its pod does not answer":      {noAnswer, 5 * time.Second, lasted(sidecarKilled, pod), true},
		"also just after it answered again":                           {noAnswer, 10500 * time.Millisecond, lasted(sidecarKilled, pod), true},
		"but not later":                                               {noAnswer, 12 * time.Second, lasted(sidecarKilled, pod), false},
		"nor before":                                                  {noAnswer, -2 * time.Second, lasted(sidecarKilled, pod), false},
		"a request that was under way then may fail":                  {noAnswer, -500 * time.Millisecond, lasted(sidecarKilled, pod), true},
		"nor on another pod":                                          {noAnswer, 5 * time.Second, lasted(sidecarKilled, other), false},
		"nor a denial":                                                {denied, 5 * time.Second, lasted(sidecarKilled, pod), false},
		"nor an answer past the filter":                               {unfiltered, 5 * time.Second, lasted(sidecarKilled, pod), false},
		"a start without modules explains a denial":                   {denied, 5 * time.Second, lasted(unservedStart, pod), true},
		"a start with a refused revision explains a denial":           {denied, 5 * time.Second, lasted(refusedStart, pod), true},
		"a start before the filter explains answers past it":          {unfiltered, 5 * time.Second, lasted(earlyStart, pod), true},
		"but no denial":                                               {denied, 5 * time.Second, lasted(earlyStart, pod), false},
		"but no other status":                                         {broken, 5 * time.Second, lasted(unservedStart, pod), false},
		"a deleted output explains answers past the filter":           {unfiltered, 5 * time.Second, lasted(outputDeleted, workload), true},
		"until istiod and Envoy know the new one":                     {unfiltered, 19 * time.Second, lasted(outputDeleted, workload), true},
		"but not longer":                                              {unfiltered, 21 * time.Second, lasted(outputDeleted, workload), false},
		"one that lost its labels does not":                           {unfiltered, 5 * time.Second, lasted(outputUnlabeled, workload), false},
		"a workload that is new has no filter yet":                    {unfiltered, 5 * time.Second, lasted(unreached, workload), true},
		"but denies nothing":                                          {denied, 5 * time.Second, lasted(unreached, workload), false},
		"a deleted output explains no refused connection":             {noAnswer, 5 * time.Second, lasted(outputDeleted, workload), false},
		"a FilterDeployment that is away does, too":                   {unfiltered, 5 * time.Second, lasted(filterRecreated, workload), true},
		"a configuration that is refused explains nothing":            {unfiltered, 5 * time.Second, lasted(configurationRefused, workload), false},
		"nor does a broken tag":                                       {denied, 5 * time.Second, lasted(tagBroken, workload), false},
		"nor a revision that pods refuse":                             {broken, 5 * time.Second, lasted(revisionRefused, workload), false},
		"nor an API server that is away":                              {noAnswer, 5 * time.Second, lasted(apiServerAway), false},
		"nor a killed istiod":                                         {noAnswer, 5 * time.Second, lasted(istiodKilled), false},
		"nor a killed replica, for a pod that runs":                   {denied, 5 * time.Second, lasted(replicaKilled), false},
		"nothing explains an older configuration than the proved one": {outdated, 5 * time.Second, lasted(filterSuspended, workload), false},
	} {
		t.Run(name, func(t *testing.T) {
			f := failure{Began: after(test.began), Ended: after(test.began + time.Second), Pod: pod, Workload: workload, Symptom: test.symptom}
			if got := explain(f, []cause{test.cause}); (got != nil) != test.want {
				t.Errorf("explained by %v", got)
			}
		})
	}
}

func TestNoKindExplainsBrokenOutdatedOrMisplaced(t *testing.T) {
	for _, r := range rules {
		for _, s := range r.symptoms {
			if s == broken || s == outdated || s == misplaced {
				t.Errorf("%s explains %q", r.kind, s)
			}
		}
	}
}

func TestACauseThatIsUnderWayExplains(t *testing.T) {
	begin := time.Now()
	c := cause{Kind: sidecarKilled, Of: []string{"app-0"}, Begin: begin}
	if explain(failure{Began: begin.Add(time.Hour), Ended: begin.Add(time.Hour), Pod: "app-0", Symptom: noAnswer}, []cause{c}) == nil {
		t.Error("it does not")
	}
	if got := underWay([]cause{c}, begin.Add(-time.Second)); len(got) > 0 {
		t.Errorf("under way before it began: %v", got)
	}
}

func TestExplainsRollback(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	// The rollout lasts from noon for a minute.
	names, asked, rejected := []string{"app", "app-0"}, noon, at(60)
	for name, test := range map[string]struct {
		cause cause
		want  bool
	}{
		"a replica that hangs meanwhile":                {cause{replicaHung, nil, at(10), at(20)}, true},
		"one that still does":                           {cause{replicaHung, nil, at(10), time.Time{}}, true},
		"one that did just before":                      {cause{replicaHung, nil, at(-60), at(-29)}, true},
		"not one that did before that":                  {cause{replicaHung, nil, at(-60), at(-31)}, false},
		"nor one that did later":                        {cause{replicaHung, nil, at(61), at(70)}, false},
		"watches that come back late":                   {cause{apiServerAway, nil, at(-90), at(-59)}, true},
		"an API server that was away long ago":          {cause{apiServerAway, nil, at(-90), at(-61)}, false},
		"istiod":                                        {cause{istiodPaused, nil, at(0), at(1)}, true},
		"the sidecar of one of its pods":                {cause{sidecarKilled, []string{"app-0"}, at(10), at(20)}, true},
		"that of another pod":                           {cause{sidecarKilled, []string{"other-0"}, at(10), at(20)}, false},
		"a pod of one of its workloads":                 {cause{podAdded, []string{"app"}, at(10), at(20)}, true},
		"an output of another workload that was edited": {cause{outputEdited, []string{"other"}, at(10), at(20)}, false},
		"the registry":                                  {cause{registryDown, nil, at(10), at(20)}, false},
		"what its user did":                             {cause{configurationRefused, []string{"app"}, at(10), at(20)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := explainsRollback([]cause{test.cause}, names, asked, rejected); got != test.want {
				t.Errorf("%t", got)
			}
		})
	}
}
