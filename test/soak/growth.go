package main

import (
	"fmt"
	"slices"
)

// sample is what a quiet point has measured.
type sample struct {
	// Series is what was measured, and where.
	Series string
	// Life tells processes of one series apart, and what they do: a replica that begins to
	// lead needs more from then on. Samples of two lives are not compared.
	Life  string
	Value float64
}

// tolerance is how much a series may grow: by a share of what it was, and a number.
type tolerance struct {
	share, number float64
}

const (
	// warmUp is the number of samples at the begin of a life that do not count: caches and
	// pools fill.
	warmUp = 2
	// leastSamples is the number of those after it that a judgement needs.
	leastSamples = 4
)

// growth says which lives of a series have grown. It compares the median of the last half
// of the samples with that of the first half. What leaks with each round passes any
// tolerance in a run that is long enough. A slope through few points would follow the moment
// at which Go's collector last ran, and a maximum one unusual round; a median follows neither.
func growth(samples []sample, allowed tolerance) []string {
	var grown []string
	for _, life := range lives(samples) {
		if len(life) < warmUp+leastSamples {
			continue
		}
		counted := life[warmUp:]
		first, last := median(counted[:len(counted)/2]), median(counted[len(counted)/2:])
		if last > first*(1+allowed.share)+allowed.number {
			grown = append(grown, fmt.Sprintf("%s grew from %.0f to %.0f (medians of two halves of %d quiet points)",
				life[0].Series, first, last, len(counted)))
		}
	}
	return grown
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

func median(of []sample) float64 {
	values := make([]float64, 0, len(of))
	for _, s := range of {
		values = append(values, s.Value)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}
