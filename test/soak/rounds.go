package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// soak is one run.
type soak struct {
	*world

	seed    uint64
	round   int
	settles []time.Duration // of each round, the time until everything was at rest
	samples map[string][]sample

	// lasts is closed when the next round begins, and ends what has lasted until then.
	lasts     chan struct{}
	happening sync.WaitGroup

	mu      sync.Mutex
	targets map[string]*sync.Mutex
}

// spareAfter is the share of the time after which no fault ends a replica any more, so that
// growth shows in processes that live for the rest of it.
const spareAfter = 1.0 / 3

// warm waits until all FilterDeployments are Ready, and begins to send requests.
func (s *soak) warm(ctx context.Context) error {
	ended := make(chan struct{})
	close(ended)
	for _, of := range workloads {
		for i := range of.pods {
			s.pods[shortName(of.name, i)].filters = s.filtersOf(of.filter)
		}
	}
	took, problems, err := s.settle(ctx, ended)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("not everything is Ready before the first fault: %s", strings.Join(problems, "; "))
	}
	for _, f := range s.filters {
		f.prove()
	}
	s.startClients(ctx)
	say("everything runs after %s", took.Round(time.Second))
	return nil
}

// rounds has rounds begin until the time is over, and stops at the first one with a problem:
// the logs then end where it happened.
func (s *soak) rounds(ctx context.Context, length time.Duration) error {
	s.began = time.Now()
	for time.Since(s.began) < length {
		s.round++
		spare := time.Since(s.began) > time.Duration(float64(length)*spareAfter)
		problems, err := s.oneRound(ctx, spare)
		if err != nil {
			return err
		}
		if len(problems) > 0 {
			say("PROBLEMS in round %d:\n    %s", s.round, strings.Join(problems, "\n    "))
			return errProblems
		}
	}
	return nil
}

// oneRound has the faults of a round happen and looks at what they leave.
func (s *soak) oneRound(ctx context.Context, spare bool) ([]string, error) {
	s.endLasting()
	faults := plan(s.seed, s.round, spare, recipes(targets()))
	say("round %d: %d faults", s.round, len(faults))
	begin := time.Now()
	var resting sync.WaitGroup // until faults are over, or last
	s.lasts = make(chan struct{})
	for _, f := range faults {
		resting.Add(1)
		rests := sync.OnceFunc(resting.Done)
		until := forItsTime(f.For)
		if f.Lasts {
			until = untilClosed(s.lasts, rests)
		}
		s.happening.Go(func() {
			defer rests()
			s.happen(ctx, f, begin, until)
		})
	}
	rest := make(chan struct{})
	go func() {
		resting.Wait()
		close(rest)
	}()
	if err := pause(ctx, roundTime); err != nil {
		return nil, err
	}
	return s.check(ctx, rest)
}

// endLasting ends the faults that have outlasted their round.
func (s *soak) endLasting() {
	if s.lasts != nil {
		close(s.lasts)
		s.lasts = nil
	}
}

func forItsTime(length time.Duration) hold {
	return func(ctx context.Context) error { return pause(ctx, length) }
}

// untilClosed says that the fault lasts, and waits for the channel.
func untilClosed(end <-chan struct{}, lasts func()) hold {
	return func(ctx context.Context) error {
		lasts()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		}
	}
}

// happen has a fault happen when its time has come and its targets are free: a former one may
// take longer than planned.
func (s *soak) happen(ctx context.Context, f fault, begin time.Time, until hold) {
	if err := pause(ctx, f.At-time.Since(begin)); err != nil {
		return
	}
	defer s.lock(f.locked(recipes(targets())))()
	began := time.Now()
	say("  %s: %s", f.Kind, f.Target)
	switch err := s.inject(ctx, f, until); {
	case errors.Is(err, errSkipped):
		say("  %s: %s: skipped, it has no target now", f.Kind, f.Target)
	case ctx.Err() != nil:
	case err != nil:
		s.report(fmt.Sprintf("%s of %s: %v", f.Kind, f.Target, err))
	default:
		s.ledger.count(f.Kind)
		if took := time.Since(began); took > time.Second {
			say("  %s: %s: over after %.1f s", f.Kind, f.Target, took.Seconds())
		}
	}
}

// lock waits until all targets are free. They are in order, so that no two faults wait for each
// other.
func (s *soak) lock(names []string) (unlock func()) {
	locked := make([]*sync.Mutex, 0, len(names))
	for _, name := range names {
		s.mu.Lock()
		if s.targets[name] == nil {
			s.targets[name] = &sync.Mutex{}
		}
		target := s.targets[name]
		s.mu.Unlock()
		target.Lock()
		locked = append(locked, target)
	}
	return func() {
		for _, target := range locked {
			target.Unlock()
		}
	}
}

// check is the quiet point after a round. It returns the problems.
func (s *soak) check(ctx context.Context, rest <-chan struct{}) ([]string, error) {
	took, problems, err := s.settle(ctx, rest)
	if err != nil {
		return nil, err
	}
	if len(problems) == 0 {
		for _, f := range s.filters {
			f.prove()
		}
		s.settles = append(s.settles, took)
		measured, restless, err := s.sample(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			problems = append(problems, err.Error())
		}
		problems = append(problems, restless...)
		for name, samples := range measured {
			s.samples[name] = append(s.samples[name], samples...)
		}
	}
	problems = append(problems, s.ledger.settle()...)
	problems = append(problems, s.takeProblems()...)
	problems = append(problems, s.grown()...)
	requests, failed := s.ledger.counts()
	say("round %d: at rest after %s; %d requests, %d failed; %s", s.round, took.Round(time.Second), requests, failed, s.latest())
	return problems, nil
}

// grown says which series have grown.
func (s *soak) grown() (problems []string) {
	s.perSeries(func(name string, of []sample) { problems = append(problems, growth(of, series[name])...) })
	return problems
}

// notJudged says of which series there are too few samples.
func (s *soak) notJudged() (gaps []string) {
	s.perSeries(func(_ string, of []sample) {
		if gap := unjudged(of); gap != "" {
			gaps = append(gaps, gap)
		}
	})
	return gaps
}

// perSeries calls do with the samples of each series and place, in order.
func (s *soak) perSeries(do func(name string, of []sample)) {
	for _, name := range slices.Sorted(maps.Keys(series)) {
		of := map[string][]sample{}
		for _, one := range s.samples[name] {
			of[one.Series] = append(of[one.Series], one)
		}
		for _, where := range slices.Sorted(maps.Keys(of)) {
			do(name, of[where])
		}
	}
}

// latest returns the newest samples of the replicas' memory and goroutines.
func (s *soak) latest() string {
	var parts []string
	for _, name := range []string{liveHeap, "goroutines"} {
		all := s.samples[name]
		for _, one := range all[max(0, len(all)-len(s.replicas.all)):] {
			parts = append(parts, fmt.Sprintf("%s %.0f", one.Series, one.Value))
		}
	}
	return strings.Join(parts, ", ")
}

// summarise prints the figures of the run.
func (s *soak) summarise() {
	requests, failed := s.ledger.counts()
	fmt.Printf("\n%d rounds in %s, seed %d\n", s.round, time.Since(s.began).Round(time.Second), s.seed)
	fmt.Printf("requests: %d, failed: %d", requests, failed)
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for _, of := range symptoms {
		if n := s.ledger.failed[of]; n > 0 {
			fmt.Printf(", %s: %d", of, n)
		}
	}
	fmt.Println("\nfailures explained by:")
	for _, k := range slices.Sorted(maps.Keys(s.ledger.explained)) {
		fmt.Printf("  %-34s %d\n", k, s.ledger.explained[k])
	}
	fmt.Println("faults:")
	for _, k := range slices.Sorted(maps.Keys(s.ledger.faults)) {
		fmt.Printf("  %-34s %d\n", k, s.ledger.faults[k])
	}
	for _, f := range s.filters {
		if f.retries > 0 {
			fmt.Printf("%s was rolled back because of faults, and tried again: %d times\n", f.name, f.retries)
		}
	}
	for _, one := range s.replicas.all {
		fmt.Printf("replica-%d ended by itself because of faults: %d times\n", one.index, one.restarts)
	}
	if len(s.settles) > 0 {
		fmt.Printf("at rest after a round: longest %s, median %s\n", slices.Max(s.settles).Round(time.Second), middle(s.settles).Round(time.Second))
	}
	s.perSeries(func(_ string, of []sample) {
		fmt.Printf("%-42s first %.0f, last %.0f\n", of[0].Series, of[0].Value, of[len(of)-1].Value)
	})
	for _, gap := range s.notJudged() {
		fmt.Println(gap)
	}
}

func middle(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}
