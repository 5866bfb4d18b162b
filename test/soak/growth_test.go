package main

import (
	"slices"
	"testing"
)

func samplesOf(life string, values ...float64) []sample {
	var samples []sample
	for _, v := range values {
		samples = append(samples, sample{Series: "memory", Life: life, Value: v})
	}
	return samples
}

func TestGrowth(t *testing.T) {
	for name, test := range map[string]struct {
		samples []sample
		want    []string
	}{
		"a level series has not grown":          {samplesOf("a", 100, 100, 100, 100, 100, 100), nil},
		"nor one that grows as it warms up":     {samplesOf("a", 10, 50, 100, 100, 101, 100), nil},
		"nor one within the tolerance":          {samplesOf("a", 0, 0, 100, 100, 105, 105), nil},
		"nor one with unusual rounds":           {samplesOf("a", 0, 0, 100, 100, 100, 900, 900, 100), nil},
		"nor one that is too short to say":      {samplesOf("a", 0, 0, 100, 200, 300), nil},
		"nor one that shrinks":                  {samplesOf("a", 0, 0, 300, 300, 100, 100), nil},
		"one that leaks has":                    {samplesOf("a", 0, 0, 100, 110, 120, 130, 140, 150), []string{"memory grew from 100 to 130 (least of two halves of 6 quiet points)"}},
		"one just above the tolerance has":      {samplesOf("a", 0, 0, 100, 100, 106, 106), []string{"memory grew from 100 to 106 (least of two halves of 4 quiet points)"}},
		"whatever it was before":                {samplesOf("a", 0, 0, 100000, 100000, 100006, 100006), []string{"memory grew from 100000 to 100006 (least of two halves of 4 quiet points)"}},
		"a new process begins anew":             {slices.Concat(samplesOf("a", 10, 10, 10), samplesOf("b", 100, 100, 100)), nil},
		"lives are compared with themselves":    {slices.Concat(samplesOf("a", 0, 0, 10, 10, 10, 10), samplesOf("b", 0, 0, 100, 100, 100, 100)), nil},
		"a later life that leaks is noticed":    {slices.Concat(samplesOf("a", 0, 0, 10, 10, 10, 10), samplesOf("b", 0, 0, 10, 10, 90, 90)), []string{"memory grew from 10 to 90 (least of two halves of 4 quiet points)"}},
		"samples of several lives may be mixed": {[]sample{{"memory", "a", 1}, {"memory", "b", 500}, {"memory", "a", 1}, {"memory", "b", 500}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := growth(test.samples, 5); !slices.Equal(got, test.want) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestUnjudged(t *testing.T) {
	for name, test := range map[string]struct {
		samples []sample
		want    string
	}{
		"too few quiet points":  {samplesOf("a", 1, 1, 1), "growth of memory was not judged: 3 quiet points"},
		"too few in each life":  {slices.Concat(samplesOf("a", 1, 1, 1), samplesOf("b", 1, 1, 1, 1, 1)), "growth of memory was not judged: 5 quiet points"},
		"enough in one of them": {slices.Concat(samplesOf("a", 1), samplesOf("b", 1, 1, 1, 1, 1, 1)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := unjudged(test.samples); got != test.want {
				t.Errorf("%q", got)
			}
		})
	}
}

// A leak of a part of the tolerance in each round is found, if the run is long enough.
func TestGrowthFindsASlowLeak(t *testing.T) {
	const perRound = 0.1
	found := func(rounds int) bool {
		var values []float64
		for i := range rounds {
			values = append(values, 90+perRound*float64(i)+float64(i*7%5)) // with some noise
		}
		return len(growth(samplesOf("a", values...), series[liveHeap])) > 0
	}
	if found(10) {
		t.Error("10 rounds say nothing of a tenth of a MiB a round")
	}
	if !found(200) {
		t.Error("200 rounds do not show a tenth of a MiB a round")
	}
}
