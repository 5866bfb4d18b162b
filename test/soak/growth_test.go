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
	allowed := tolerance{share: 0.1, number: 5}
	for name, test := range map[string]struct {
		samples []sample
		want    []string
	}{
		"a level series has not grown":          {samplesOf("a", 100, 100, 100, 100, 100, 100), nil},
		"nor one that grows as it warms up":     {samplesOf("a", 10, 50, 100, 100, 101, 100), nil},
		"nor one within the tolerance":          {samplesOf("a", 0, 0, 100, 100, 115, 115), nil},
		"nor one with an unusual round":         {samplesOf("a", 0, 0, 100, 100, 100, 100, 900, 100), nil},
		"nor one that is too short to say":      {samplesOf("a", 0, 0, 100, 200, 300), nil},
		"nor one that shrinks":                  {samplesOf("a", 0, 0, 300, 300, 100, 100), nil},
		"one that leaks has":                    {samplesOf("a", 0, 0, 100, 110, 120, 130, 140, 150), []string{"memory grew from 110 to 140 (medians of two halves of 6 quiet points)"}},
		"one just above the tolerance has":      {samplesOf("a", 0, 0, 100, 100, 116, 116), []string{"memory grew from 100 to 116 (medians of two halves of 4 quiet points)"}},
		"a new process begins anew":             {slices.Concat(samplesOf("a", 10, 10, 10), samplesOf("b", 100, 100, 100)), nil},
		"lives are compared with themselves":    {slices.Concat(samplesOf("a", 0, 0, 10, 10, 10, 10), samplesOf("b", 0, 0, 100, 100, 100, 100)), nil},
		"a later life that leaks is noticed":    {slices.Concat(samplesOf("a", 0, 0, 10, 10, 10, 10), samplesOf("b", 0, 0, 10, 10, 90, 90)), []string{"memory grew from 10 to 90 (medians of two halves of 4 quiet points)"}},
		"samples of several lives may be mixed": {[]sample{{"memory", "a", 1}, {"memory", "b", 500}, {"memory", "a", 1}, {"memory", "b", 500}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := growth(test.samples, allowed); !slices.Equal(got, test.want) {
				t.Errorf("%q", got)
			}
		})
	}
}

// A leak of a share of the tolerance in each round is found, if the run is long enough.
func TestGrowthFindsASlowLeak(t *testing.T) {
	const perRound = 0.5
	allowed := series[residentMemory]
	found := func(rounds int) bool {
		var values []float64
		for i := range rounds {
			values = append(values, 90+perRound*float64(i)+float64(i*7%5)) // with some noise
		}
		return len(growth(samplesOf("a", values...), allowed)) > 0
	}
	if found(10) {
		t.Error("10 rounds say nothing of half a MiB a round")
	}
	if !found(300) {
		t.Error("300 rounds do not show half a MiB a round")
	}
}
