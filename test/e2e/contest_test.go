package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// overwrite writes a status that has no conditions, as something would that
// knows the predecessor's fields only.
func overwrite(ctx context.Context, fd *wasmev1.FilterDeployment, state wasmev1.WorkloadState) {
	GinkgoHelper()
	Eventually(func() error {
		var live wasmev1.FilterDeployment
		if err := admin.Get(ctx, client.ObjectKeyFromObject(fd), &live); err != nil {
			return err
		}
		live.Status = wasmev1.FilterDeploymentStatus{
			ObservedGeneration: new(live.Generation),
			Workloads:          map[string]wasmev1.WorkloadStatus{"app": {State: state}},
		}
		return admin.Status().Update(ctx, &live)
	}).Should(Succeed())
}

// statusWrites counts the operator's writes of statuses in a namespace.
func statusWrites(namespace string) int {
	GinkgoHelper()
	writes := 0
	for event := range audited(theMesh.AuditLog()) {
		if ref := event.ObjectRef; ref.Namespace == namespace && ref.Resource == "filterdeployments" && ref.Subresource == "status" {
			writes++
		}
	}
	return writes
}

var _ = Describe("Something that overwrites the status", func() {
	It("is reported, is not fought with, and holds up no filter", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "before")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		before, begin := statusWrites(namespace), time.Now()

		overwrite(ctx, fd, wasmev1.WorkloadSucceeded)
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonStatusOverwritten))
		for i := range 50 {
			state := wasmev1.WorkloadPending
			if i%2 == 0 { // a write that changes nothing is none
				state = wasmev1.WorkloadSucceeded
			}
			overwrite(ctx, fd, state)
		}
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		meshtest.EventuallyAnswers(ctx, pod, "after")
		Expect(statusWrites(namespace) - before).To(BeNumerically("<=", 1+int(time.Since(begin)/time.Minute)))
	})
})
