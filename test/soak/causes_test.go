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
		at      time.Duration
		cause   cause
		want    bool
	}{
		"a killed sidecar explains that its pod does not answer":      {noAnswer, 5 * time.Second, lasted(sidecarKilled, pod), true},
		"also just after it answered again":                           {noAnswer, 10500 * time.Millisecond, lasted(sidecarKilled, pod), true},
		"but not later":                                               {noAnswer, 12 * time.Second, lasted(sidecarKilled, pod), false},
		"nor before":                                                  {noAnswer, -time.Second, lasted(sidecarKilled, pod), false},
		"nor on another pod":                                          {noAnswer, 5 * time.Second, lasted(sidecarKilled, other), false},
		"nor a denial":                                                {denied, 5 * time.Second, lasted(sidecarKilled, pod), false},
		"nor an answer past the filter":                               {unfiltered, 5 * time.Second, lasted(sidecarKilled, pod), false},
		"a start without modules explains a denial":                   {denied, 5 * time.Second, lasted(unservedStart, pod), true},
		"but no other status":                                         {broken, 5 * time.Second, lasted(unservedStart, pod), false},
		"a deleted output explains answers past the filter":           {unfiltered, 5 * time.Second, lasted(outputDeleted, workload), true},
		"until istiod and Envoy know the new one":                     {unfiltered, 19 * time.Second, lasted(outputDeleted, workload), true},
		"but not longer":                                              {unfiltered, 21 * time.Second, lasted(outputDeleted, workload), false},
		"nor a refused connection":                                    {noAnswer, 5 * time.Second, lasted(outputDeleted, workload), false},
		"a FilterDeployment that is away does, too":                   {unfiltered, 5 * time.Second, lasted(filterRecreated, workload), true},
		"a configuration that is refused explains nothing":            {unfiltered, 5 * time.Second, lasted(configurationRefused, workload), false},
		"nor does a module that is none":                              {denied, 5 * time.Second, lasted(tagBroken, workload), false},
		"nor an API server that is away":                              {noAnswer, 5 * time.Second, lasted(apiServerAway), false},
		"nor a killed istiod":                                         {noAnswer, 5 * time.Second, lasted(istiodKilled), false},
		"nor a killed replica, for a pod that runs":                   {denied, 5 * time.Second, lasted(replicaKilled), false},
		"nothing explains an older configuration than the proved one": {outdated, 5 * time.Second, lasted(filterSuspended, workload), false},
	} {
		t.Run(name, func(t *testing.T) {
			f := failure{At: after(test.at), Pod: pod, Workload: workload, Symptom: test.symptom}
			if got := explain(f, []cause{test.cause}); (got != nil) != test.want {
				t.Errorf("explained by %v", got)
			}
		})
	}
}

func TestNoKindExplainsBrokenOrOutdated(t *testing.T) {
	for _, r := range rules {
		for _, s := range r.symptoms {
			if s == broken || s == outdated {
				t.Errorf("%s explains %q", r.kind, s)
			}
		}
	}
}

func TestACauseThatIsUnderWayExplains(t *testing.T) {
	begin := time.Now()
	c := cause{Kind: sidecarKilled, Of: []string{"app-0"}, Begin: begin}
	if explain(failure{At: begin.Add(time.Hour), Pod: "app-0", Symptom: noAnswer}, []cause{c}) == nil {
		t.Error("it does not")
	}
	if got := underWay([]cause{c}, begin.Add(-time.Second)); len(got) > 0 {
		t.Errorf("under way before it began: %v", got)
	}
}

func TestExplainsRollback(t *testing.T) {
	for k, want := range map[kind]bool{
		replicaHung: true, istiodPaused: true, sidecarKilled: true,
		registryDown: false, configurationRefused: false, configurationChanged: false, filterRecreated: false,
	} {
		if got := explainsRollback([]cause{{Kind: k}}); got != want {
			t.Errorf("%s: %t", k, got)
		}
	}
}
