package main

import "fmt"

// sample is what a quiet point has measured.
type sample struct {
	// Series is what was measured, and where.
	Series string
	// Life tells processes of one series apart, and what they do: a replica that begins to
	// lead needs more from then on. Samples of two lives are not compared.
	Life  string
	Value float64
}

const (
	// warmUp is the number of samples at the begin of a life that do not count: caches and
	// pools fill.
	warmUp = 2
	// leastSamples is the number of those after it that a judgement needs.
	leastSamples = 4
)

// growth says which lives of a series have grown by more than a number. It compares the least of
// the last half of the samples with that of the first half: what was freed since, or comes and
// goes with a round, is not in it. What leaks with each round passes any number in a run that is
// long enough.
func growth(samples []sample, allowed float64) []string {
	var grown []string
	for _, life := range lives(samples) {
		if !judged(life) {
			continue
		}
		counted := life[warmUp:]
		first, last := least(counted[:len(counted)/2]), least(counted[len(counted)/2:])
		if last > first+allowed {
			grown = append(grown, fmt.Sprintf("%s grew from %.0f to %.0f (least of two halves of %d quiet points)",
				life[0].Series, first, last, len(counted)))
		}
	}
	return grown
}

// judged reports whether a life is long enough to say whether it has grown.
func judged(life []sample) bool { return len(life) >= warmUp+leastSamples }

// unjudged says that no life of a series was long enough; empty: one was.
func unjudged(samples []sample) string {
	longest := 0
	for _, life := range lives(samples) {
		if judged(life) {
			return ""
		}
		longest = max(longest, len(life))
	}
	return fmt.Sprintf("growth of %s was not judged: %d quiet points", samples[0].Series, longest)
}

// lives groups samples by their life, in their order.
func lives(samples []sample) [][]sample {
	var order []string
	of := map[string][]sample{}
	for _, s := range samples {
		if of[s.Life] == nil {
			order = append(order, s.Life)
		}
		of[s.Life] = append(of[s.Life], s)
	}
	grouped := make([][]sample, 0, len(order))
	for _, life := range order {
		grouped = append(grouped, of[life])
	}
	return grouped
}

func least(of []sample) float64 {
	found := of[0].Value
	for _, s := range of {
		found = min(found, s.Value)
	}
	return found
}
