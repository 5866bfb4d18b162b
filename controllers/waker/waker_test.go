package waker_test

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/wasme-io/wasme-operator/controllers/waker"
)

var name = types.NamespacedName{Namespace: "n", Name: "f"}

func TestWakerDoesNothingBeforeItsControllerStarts(*testing.T) {
	var w waker.Waker
	w.Wake(name)
	w.WakeAfter(name, time.Second)
}

// delays is a queue that notes what is added after which time.
type delays struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]
	added map[reconcile.Request][]time.Duration
}

func (d *delays) Add(request reconcile.Request) { d.AddAfter(request, 0) }

func (d *delays) AddAfter(request reconcile.Request, delay time.Duration) {
	d.added[request] = append(d.added[request], delay)
}

func TestWakerPutsObjectsIntoTheQueueOfItsController(t *testing.T) {
	g := NewWithT(t)
	queue := &delays{added: map[reconcile.Request][]time.Duration{}}
	var w waker.Waker
	g.Expect(w.Start(t.Context(), queue)).To(Succeed())
	w.Wake(name)
	w.WakeAfter(name, time.Second)
	g.Expect(queue.added).To(Equal(map[reconcile.Request][]time.Duration{
		{NamespacedName: name}: {0, time.Second},
	}))
}
