package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/migrate"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// deleteAttempts is how often an object is deleted whose status someone else writes.
const deleteAttempts = 5

// replaceAll does one step after the other. A step that fails keeps the others from nothing.
func (m *migrator) replaceAll(ctx context.Context, c client.WithWatch, steps []migrate.Step, names []string) error {
	if len(steps) == 0 {
		m.say("There is nothing to migrate.")
		return nil
	}
	var failures []error
	refused := 0
	for i := range steps {
		err := m.replace(ctx, c, &steps[i], isNamed(&steps[i], names))
		if ctx.Err() != nil {
			m.say("Interrupted: run the command again to go on. Until then, an object and its FilterDeployment may both run.")
			return ctx.Err()
		}
		if _, no := errors.AsType[refusal](err); no {
			refused++
			m.say("%s stays as it is: %s", titleOf(&steps[i]), inOneLine(err))
		} else if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", titleOf(&steps[i]), err))
		}
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if refused > 0 {
		return refuse("%d of %d replacements were not made", refused, len(steps))
	}
	return nil
}

// replace does one step.
func (m *migrator) replace(ctx context.Context, c client.WithWatch, s *migrate.Step, named bool) error {
	switch {
	case s.Err != nil:
		return refusal{s.Err}
	case s.Differs && !named:
		return refuse("%s: to replace it all the same, name it: wasme migrate %s --apply", strings.Join(s.Notes, "; "), migrate.KeyOf(s.Objects[0]))
	}
	m.say("%s: rolling out FilterDeployment %s; until it is Ready, both run", titleOf(s), namesOf(s))
	for _, note := range s.Notes {
		m.note("%s", note)
	}
	if err := m.rollOut(ctx, c, s); err != nil {
		return err
	}
	for _, object := range s.Objects {
		if err := m.remove(ctx, c, object); err != nil {
			return err
		}
	}
	return nil
}

// rollOut creates the FilterDeployments of a step and waits until all workloads run them. If
// they do not, it deletes them.
func (m *migrator) rollOut(ctx context.Context, c client.WithWatch, s *migrate.Step) error {
	for _, fd := range s.FilterDeployments {
		if s.Kept {
			continue
		}
		if err := m.create(ctx, c, fd); err != nil {
			return m.takeBack(ctx, c, s, err)
		}
	}
	follower := &follower{app: m.app, lines: m.Out, timeout: m.timeout}
	for _, fd := range s.FilterDeployments {
		if err := follower.follow(ctx, c, client.ObjectKeyFromObject(fd)); err != nil {
			return m.takeBack(ctx, c, s, err)
		}
	}
	for _, fd := range s.FilterDeployments {
		if s.Kept {
			continue
		}
		if err := m.write(ctx, c, fd, false); err != nil {
			return err
		}
	}
	return nil
}

// create creates a FilterDeployment that goes from workload to workload, or brings the one
// of an earlier migration up to date.
func (m *migrator) create(ctx context.Context, c client.Client, fd *wasmev1.FilterDeployment) error {
	var live wasmev1.FilterDeployment
	err := c.Get(ctx, client.ObjectKeyFromObject(fd), &live)
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return explain(ctx, "reading FilterDeployment "+fd.Name, err)
	case err == nil && !isFromMigration(&live):
		return fmt.Errorf("someone created FilterDeployment %s in the meantime: run the command again", fd.Name)
	case live.DeletionTimestamp != nil:
		return fmt.Errorf("FilterDeployment %s is being deleted: run the command again when it is gone", fd.Name)
	}
	return m.write(ctx, c, fd, true)
}

func isFromMigration(fd *wasmev1.FilterDeployment) bool {
	return fd.Annotations[migrate.ReplacesAnnotation] != ""
}

// write applies a FilterDeployment. While it is rolled out, one workload at a time gets the
// filter: then a fault is seen on the first, and the others never run it.
func (m *migrator) write(ctx context.Context, c client.Client, fd *wasmev1.FilterDeployment, rollingOut bool, options ...client.ApplyOption) error {
	object, err := bare(fd)
	if err != nil {
		return err
	}
	if rollingOut {
		if err := unstructured.SetNestedField(object.Object, int64(1), "spec", "rollout", "maxPods"); err != nil {
			return err
		}
	}
	err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), append(options, client.FieldOwner(fieldManager))...)
	if apierrors.IsInvalid(err) {
		return refuse("the API server refuses FilterDeployment %s: %w", fd.Name, err)
	}
	return explainApply(ctx, fd.Name, err)
}

// bare returns a FilterDeployment with what a user would write, and nothing else.
func bare(fd *wasmev1.FilterDeployment) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(fd)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	for _, field := range []string{"creationTimestamp", "managedFields", "uid", "resourceVersion", "generation"} {
		unstructured.RemoveNestedField(content, "metadata", field)
	}
	object := &unstructured.Unstructured{Object: content}
	object.SetGroupVersionKind(wasmev1.GroupVersion.WithKind(wasmev1.FilterDeploymentKind)) // lists leave it out
	return object, nil
}

// takeBack deletes the FilterDeployments of a step that were refused, and returns the
// refusal. Those that have replaced objects already stay, and so do those of other errors:
// they may be on their way.
func (m *migrator) takeBack(ctx context.Context, c client.WithWatch, s *migrate.Step, err error) error {
	if _, refused := errors.AsType[refusal](err); !refused || s.Kept {
		return err
	}
	for _, fd := range s.FilterDeployments {
		var live wasmev1.FilterDeployment
		if reading := c.Get(ctx, client.ObjectKeyFromObject(fd), &live); reading != nil || !isFromMigration(&live) {
			continue // it was not created
		}
		if deleting := m.undeploy(ctx, c, &live, m.timeout); deleting != nil {
			return errors.Join(err, deleting)
		}
	}
	return err
}

// remove deletes an object, unless it was changed since it was read. Only its status may
// change.
func (m *migrator) remove(ctx context.Context, c client.Client, object istio.Output) error {
	title := fmt.Sprintf("%s %s/%s", istio.KindOf(object), object.GetNamespace(), object.GetName())
	live := object
	for range deleteAttempts {
		err := c.Delete(ctx, live, client.Preconditions{UID: new(live.GetUID()), ResourceVersion: new(live.GetResourceVersion())})
		if client.IgnoreNotFound(err) == nil {
			fmt.Fprintf(m.Out, "%s deleted\n", title)
			return nil
		}
		if !apierrors.IsConflict(err) {
			return explain(ctx, "deleting "+title, err)
		}
		live = istio.Kinds[istio.KindOf(object)].New()
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), live); err != nil {
			return explain(ctx, "reading "+title, client.IgnoreNotFound(err))
		}
		if !isUnchanged(object, live) {
			break
		}
	}
	return fmt.Errorf("deleting %s: it was changed since it was read: look at it, and run the command again", title)
}

// isUnchanged reports whether an object is the one that was read, but for its status. Its
// generation stays as long as its spec does.
func isUnchanged(read, live istio.Output) bool {
	return read.GetUID() == live.GetUID() && read.GetGeneration() == live.GetGeneration() &&
		maps.Equal(read.GetLabels(), live.GetLabels()) && maps.Equal(read.GetAnnotations(), live.GetAnnotations())
}
