package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// follower watches the EnvoyFilters of a namespace: it knows when they are
// there without asking, which would slow down what is measured.
type follower struct {
	watch   watch.Interface
	changed chan struct{}

	mu sync.Mutex
	// generations by name.
	generations map[string]int64
	ended       bool
}

func follow(ctx context.Context, from client.WithWatch, namespace string) (*follower, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(networking.SchemeGroupVersion.WithKind("EnvoyFilterList"))
	events, err := from.Watch(ctx, list, client.InNamespace(namespace))
	if err != nil {
		return nil, fmt.Errorf("watching EnvoyFilters: %w", err)
	}
	f := &follower{watch: events, changed: make(chan struct{}, 1), generations: map[string]int64{}}
	go f.run()
	return f, nil
}

func (f *follower) stop() { f.watch.Stop() }

func (f *follower) run() {
	for event := range f.watch.ResultChan() {
		f.take(event)
	}
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.signal()
}

func (f *follower) take(event watch.Event) {
	object, ok := event.Object.(metav1.Object)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if event.Type == watch.Deleted {
		delete(f.generations, object.GetName())
	} else {
		f.generations[object.GetName()] = object.GetGeneration()
	}
	f.signal()
}

func (f *follower) signal() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// await waits until there are exactly n objects, each of this generation or a later one.
func (f *follower) await(ctx context.Context, n int, generation int64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		there, ended := f.count(generation)
		switch {
		case there == n:
			return nil
		case ended:
			return errors.New("the watch of EnvoyFilters ended")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d EnvoyFilters of generation %d, with %d there: %w", n, generation, there, ctx.Err())
		case <-f.changed:
		}
	}
}

func (f *follower) count(generation int64) (there int, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.generations {
		if g >= generation {
			there++
		}
	}
	return there, f.ended
}
