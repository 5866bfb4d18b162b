package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	kstatus "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/cli/migrate"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// leftover is a workload whose pod template has annotations of wasme 0.0.33.
type leftover struct{ object workload.Object }

// title is that of the workload in messages.
func (l leftover) title() string {
	return fmt.Sprintf("%s %s/%s", workload.TargetOf(l.object).Kind, l.object.GetNamespace(), l.object.GetName())
}

// leftoversIn returns the workloads of a namespace, or of all, that have something to clean;
// none when single objects are named.
func leftoversIn(found *migrate.Inventory, namespace string, names []string) []leftover {
	var all []leftover
	for _, w := range found.Workloads {
		outside := namespace != "" && w.GetNamespace() != namespace
		if _, dirty := migrate.Cleaned(templateOf(w).Annotations); dirty && !outside && len(names) == 0 {
			all = append(all, leftover{w})
		}
	}
	return all
}

// templateOf returns the pod template of a workload.
func templateOf(w workload.Object) *corev1.PodTemplateSpec {
	switch w := w.(type) {
	case *appsv1.Deployment:
		return &w.Spec.Template
	case *appsv1.DaemonSet:
		return &w.Spec.Template
	case *appsv1.StatefulSet:
		return &w.Spec.Template
	}
	return &corev1.PodTemplateSpec{}
}

// cleanAll removes wasme's annotations from one workload after the other.
func (m *migrator) cleanAll(ctx context.Context, c client.Client, leftovers []leftover, root string) error {
	for _, l := range leftovers {
		if err := m.checkUnused(ctx, c, l, root); err != nil {
			return err
		}
		m.say("%s: removing the annotations of wasme 0.0.33 from its pod template, which restarts its pods", l.title())
		if err := m.cleanOne(ctx, c, l); err != nil {
			return err
		}
		fmt.Fprintf(m.Out, "%s cleaned\n", l.title())
	}
	return nil
}

// checkUnused refuses to take the cache away from proxies that may load files from it.
// Objects of the root namespace reach proxies everywhere.
func (m *migrator) checkUnused(ctx context.Context, c client.Reader, l leftover, root string) error {
	for namespace := range sets.New(l.object.GetNamespace(), root) {
		objects, err := readIstioObjects(ctx, c, namespace)
		if err != nil {
			return err
		}
		for _, object := range objects {
			if migrate.UsesCache(object.Content().Raw) {
				return refuse("%s keeps its annotations: %s %s still loads a module from there: replace or delete it first", l.title(), istio.KindOf(object), nameOf(object))
			}
		}
	}
	return nil
}

// cleanOne changes one pod template and waits until the pods were restarted.
func (m *migrator) cleanOne(ctx context.Context, c client.Client, l leftover) error {
	object := l.object.(client.Object)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		before := object.DeepCopyObject().(client.Object)
		templateOf(l.object).Annotations, _ = migrate.Cleaned(templateOf(l.object).Annotations)
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		return c.Patch(ctx, object, patch, client.FieldOwner(fieldManager))
	})
	if err != nil {
		return explain(ctx, "changing "+l.title(), err)
	}
	limited, cancel := watchtools.ContextWithOptionalTimeout(ctx, m.timeout)
	defer cancel()
	err = wait.PollUntilContextCancel(limited, restartPoll, true, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return false, explain(ctx, "reading "+l.title(), err)
		}
		return isRestarted(object)
	})
	if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("waiting for the pods of %s: they have not restarted within %v: see kubectl get pods -n %s, and run the command again for the other workloads", l.title(), m.timeout, object.GetNamespace())
	}
	return err
}

// restartPoll is how often wasme looks whether the pods of a workload were restarted.
const restartPoll = time.Second

// isRestarted reports whether all pods of a workload are those of its newest template.
func isRestarted(object client.Object) (bool, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return false, err
	}
	kind, _ := workload.KindOf(object)
	whole := &unstructured.Unstructured{Object: content}
	whole.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind(kind.Name)) // lists leave it out
	result, err := kstatus.Compute(whole)
	return err == nil && result.Status == kstatus.CurrentStatus, err
}
