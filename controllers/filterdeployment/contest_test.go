package filterdeployment

import (
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/module/signatures"
	"github.com/wasme-io/wasme-operator/internal/preflight/pool"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

func TestControllerWakesForAStatus(t *testing.T) {
	for _, row := range []struct {
		name          string
		before, after []string
		want          bool
	}{
		{"that loses its conditions", []string{"Ready"}, nil, true},
		{"that loses Ready", []string{"Ready", "Stalled"}, []string{"Stalled"}, true},
		{"not of its own", nil, []string{"Ready"}, false},
		{"not that changes", []string{"Ready", "Stalled"}, []string{"Ready"}, false},
		{"not that never was", nil, nil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			with := func(types []string) *wasmev1.FilterDeployment {
				fd := &wasmev1.FilterDeployment{}
				for _, kind := range types {
					fd.Status.Conditions = append(fd.Status.Conditions, metav1.Condition{Type: kind})
				}
				return fd
			}
			g.Expect(statusLost().Update(event.UpdateEvent{ObjectOld: with(row.before), ObjectNew: with(row.after)})).To(Equal(row.want))
			g.Expect(statusLost().Create(event.CreateEvent{Object: with(row.before)})).To(BeFalse())
			g.Expect(statusLost().Delete(event.DeleteEvent{Object: with(row.before)})).To(BeFalse())
			g.Expect(statusLost().Generic(event.GenericEvent{Object: with(row.before)})).To(BeFalse())
		})
	}
}

func TestControllerWakesForItsAnnotations(t *testing.T) {
	g := NewWithT(t)
	with := func(annotations map[string]string) *wasmev1.FilterDeployment {
		return &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}}
	}
	none, off, other := with(nil), with(map[string]string{wasmev1.VerifyPodsAnnotation: "false"}), with(map[string]string{"other": "false"})
	wakes := func(before, after *wasmev1.FilterDeployment) bool {
		return annotationsChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after})
	}
	g.Expect(wakes(none, off)).To(BeTrue())
	g.Expect(wakes(off, none)).To(BeTrue())
	g.Expect(wakes(none, with(map[string]string{wasmev1.RetryAnnotation: "12345678"}))).To(BeTrue())
	g.Expect(wakes(none, other)).To(BeFalse())
	g.Expect(annotationsChanged().Create(event.CreateEvent{Object: off})).To(BeFalse())
	g.Expect(annotationsChanged().Delete(event.DeleteEvent{Object: off})).To(BeFalse())
	g.Expect(annotationsChanged().Generic(event.GenericEvent{Object: off})).To(BeFalse())
}

func TestNothingIsRememberedOfAFilterDeployment(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := errors.Join(wasmev1.AddToScheme(scheme), appsv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	named := func(name string) *wasmev1.FilterDeployment {
		return &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name)}}
	}
	deleted := named("f")
	deleted.DeletionTimestamp, deleted.Finalizers = new(metav1.Now()), []string{"example.com/hold"}
	for _, row := range []struct {
		name string
		left []client.Object
	}{
		{"that is gone", nil},
		{"that is being deleted", []client.Object{deleted}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			r := &Reconciler{
				Client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(row.left...).Build(),
				Finder: source.Finder{Modules: &resolve.Resolver{}}, Preflights: pool.New(pool.Options{}), Signatures: signatures.New(nil, nil, nil), Written: &Written{},
				Budget: rollout.NewBudget(rollout.DefaultLimit), Clock: clock.RealClock{},
			}
			for _, fd := range []*wasmev1.FilterDeployment{named("f"), named("other")} {
				r.statuses.keep(fd, false, time.Unix(0, 0))
				r.reported.of(fd)
				fd.Status.Conditions = []metav1.Condition{{Type: wasmev1.ConditionReady}}
				r.applied.keep(fd)
			}
			g.Expect(r.statuses.known).To(HaveLen(2))
			g.Expect(r.reported.known).To(HaveLen(2))
			g.Expect(r.applied.known).To(HaveLen(2))

			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "n", Name: "f"}})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(result).To(Equal(ctrl.Result{}))
			other := types.NamespacedName{Namespace: "n", Name: "other"}
			g.Expect(r.statuses.known).To(And(HaveLen(1), HaveKey(other)))
			g.Expect(r.reported.known).To(And(HaveLen(1), HaveKey(other)))
			g.Expect(r.applied.known).To(And(HaveLen(1), HaveKey(other)))
		})
	}
}
