package resolve

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

func TestVisitsLeaveALimitedRegistryAlone(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	r := New(nil, nil, Options{Clock: clock})
	image, other := pull.Request{Image: "ghcr.io/a/b:v1"}, pull.Request{Image: "quay.io/a/b:v1"}
	limited := &module.Error{Reason: wasmev1.ReasonRegistryUnavailable, Message: "ghcr.io limits requests (status 429)", RetryAfter: time.Minute}
	visits := 0
	visit := func(req pull.Request, result error) *module.Error {
		return module.AsError(r.Visit(t.Context(), req, func(context.Context) error { visits++; return result }))
	}
	if err := visit(image, limited); err == nil || err.RetryAfter < time.Minute || !strings.Contains(err.Message, "it is asked again at") {
		t.Errorf("the visit that meets the limit: %+v", err)
	}
	if r.circuits.open(wayOf(image, "ghcr.io")) == nil {
		t.Error("the resolver does not leave the registry alone")
	}
	if err := visit(image, nil); err == nil || err.RetryAfter < time.Minute || visits != 1 {
		t.Errorf("a visit meanwhile: %+v, after %d visits", err, visits)
	}
	if err := visit(other, nil); err != nil || visits != 2 {
		t.Errorf("another registry: %v", err)
	}
	clock.Step(2 * time.Minute)
	err := r.Visit(t.Context(), image, func(context.Context) error {
		if err := visit(image, nil); err == nil || visits != 2 {
			t.Errorf("a second one while it is seen whether the registry answers: %v, after %d visits", err, visits)
		}
		return nil
	})
	if err != nil || visit(image, nil) != nil || visits != 3 {
		t.Errorf("once it answers: %v, after %d visits", err, visits)
	}
}

func TestVisitsThatFailSayNothingOfImages(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	r := New(nil, nil, Options{Clock: clock})
	image := pull.Request{Image: "ghcr.io/a/b:v1"}
	broken := module.Temporary(wasmev1.ReasonRegistryUnavailable, "reading a signature: status 500")
	for range openAfter + 1 {
		if err := r.Visit(t.Context(), image, func(context.Context) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	}
	if r.circuits.open(wayOf(image, "ghcr.io")) != nil {
		t.Error("the resolver leaves the registry alone")
	}
}

func TestVisitsThatSeeWhetherARegistryAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		open bool
	}{
		"it answers":                {nil, false},
		"it refuses the credential": {module.Terminal(wasmev1.ReasonUnauthorized, "denied"), false},
		"it fails for what is read": {module.Temporary(wasmev1.ReasonRegistryUnavailable, "status 500"), true},
		"nothing is said of it":     {context.Canceled, true},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakeClock(time.Now())
			r := New(nil, nil, Options{Clock: clock})
			image := pull.Request{Image: "ghcr.io/a/b:v1"}
			visit := func(err error) error { return r.Visit(t.Context(), image, func(context.Context) error { return err }) }
			if visit(&module.Error{Reason: wasmev1.ReasonRegistryUnavailable, Message: "status 429", RetryAfter: time.Minute}) == nil {
				t.Fatal("no error")
			}
			clock.Step(2 * time.Minute)
			before := r.circuits.open(wayOf(image, "ghcr.io"))
			if err := visit(test.err); !errors.Is(err, test.err) {
				t.Errorf("%v", err)
			}
			after := r.circuits.open(wayOf(image, "ghcr.io"))
			if test.open && after != before || !test.open && after != nil {
				t.Errorf("what is known of the registry: %+v, before: %+v", after, before)
			}
		})
	}
}
