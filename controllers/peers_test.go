package controllers

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/peers"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// lackingReplica has the operator know another replica, which lacks every module until has is
// true; then the FilterDeployments that wait for it are woken.
func (w *world) lackingReplica() (has *atomic.Bool, woken <-chan types.NamespacedName) {
	GinkgoHelper()
	has = &atomic.Bool{}
	replica := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if !has.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	DeferCleanup(replica.Close)
	running, stop := context.WithCancel(context.Background())
	DeferCleanup(stop)
	wakes := make(chan types.NamespacedName, 1)
	var err error
	w.Peers, err = peers.New(running, []string{replica.URL}, "", w.Store, func(name types.NamespacedName) { wakes <- name })
	Expect(err).NotTo(HaveOccurred())
	return has, wakes
}

var _ = Describe("While another replica lacks the module", func() {
	var (
		w     *world
		fd    *wasmev1.FilterDeployment
		has   *atomic.Bool // what the other replica answers
		woken <-chan types.NamespacedName
	)

	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"))
		Expect(w.settle(ctx, fd)).To(Succeed())

		has, woken = w.lackingReplica()
	})

	It("a new module waits, and what is in force is repaired, extended and reported", func(ctx context.Context) {
		before := fd.Status.Revision
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Image = w.push(ctx, "other:v1", "another module") })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionUnknown, wasmev1.ReasonDistributing))
		Expect(fd.Status.Revision).To(Equal(before))
		Expect(fd.Status.Summary.WorkloadsReady).To(Equal("0/1"))

		Expect(user.Delete(ctx, &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: w.outputs(ctx)[0]}})).To(Succeed())
		w.deployments(ctx, "b")
		Expect(w.settle(ctx, fd)).To(Succeed())
		var outputs networking.EnvoyFilterList
		Expect(user.List(ctx, &outputs, client.InNamespace(w.namespace))).To(Succeed())
		Expect(outputs.Items).To(HaveLen(2))
		for _, output := range outputs.Items {
			Expect(output.Annotations).To(HaveKeyWithValue(revision.HashAnnotation, before))
		}

		has.Store(true)
		Eventually(ctx, woken).WithTimeout(bound).Should(Receive(Equal(client.ObjectKeyFromObject(fd))))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(fd.Status.Revision).NotTo(Equal(before))
	})

	It("what is in force stays so while the cache has not seen its revision", func(ctx context.Context) {
		w.written()
		w.knowRevisions(appsv1.ControllerRevisionList{})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.written()).To(HaveExactElements(HavePrefix("create ControllerRevision")), "which the API server refuses")
	})

	It("a new configuration of a module that proxies have does not wait", func(ctx context.Context) {
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`"other"`)}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})
})
