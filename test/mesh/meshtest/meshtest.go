// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package meshtest is what the Ginkgo suites on a mesh share: how long they
// wait, what they start and create for one spec, and how they ask.
package meshtest

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// Patience bounds the wait for a change to arrive at a proxy: that of each
	// Eventually without another bound. It is longer than the 30 s for which the
	// operator itself waits until a workload's pods have loaded what came before.
	Patience = time.Minute
	// Poll is how often Eventually and Consistently look, where nothing else is said.
	Poll = 20 * time.Millisecond
	// StartTimeout bounds the start of a suite: the first time on a machine
	// everything is built.
	StartTimeout = 30 * time.Minute
)

// Start prepares a suite: it starts a mesh that ends with it, and has Gomega wait
// with Patience. A user's requests are recorded when audited names one.
func Start(ctx context.Context, audited string) *mesh.Mesh {
	GinkgoHelper()
	log.SetLogger(GinkgoLogr)
	SetDefaultEventuallyTimeout(Patience)
	SetDefaultEventuallyPollingInterval(Poll)
	SetDefaultConsistentlyPollingInterval(Poll)
	m, err := mesh.Start(ctx, mesh.Options{Log: GinkgoWriter, Audited: audited})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(m.Stop()).To(Succeed()) })
	return m
}

// NewNamespace creates a namespace that ends with the spec.
func NewNamespace(ctx context.Context, c client.Client) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "spec-"}}
	Expect(c.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(c.Delete(ctx, namespace))).To(Succeed()) })
	return namespace.Name
}

// Run starts a workload that ends with the spec.
func Run(ctx context.Context, m *mesh.Mesh, workload mesh.Workload) *mesh.Running {
	GinkgoHelper()
	running, err := m.StartWorkload(ctx, workload)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(running.Stop(ctx)).To(Succeed()) })
	return running
}

// Apply creates an object that ends with the spec, or replaces the one that is
// there.
func Apply(ctx context.Context, c client.Client, object client.Object) {
	GinkgoHelper()
	live := object.DeepCopyObject().(client.Object)
	if err := c.Get(ctx, client.ObjectKeyFromObject(object), live); err == nil {
		object.SetResourceVersion(live.GetResourceVersion())
		Expect(c.Update(ctx, object)).To(Succeed())
		return
	}
	Expect(c.Create(ctx, object)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(c.Delete(ctx, object))).To(Succeed()) })
}

// Asking returns a function that sends a request, for Eventually and Consistently.
func Asking(ctx context.Context, url string, headers ...string) func() mesh.Answer {
	return func() mesh.Answer { return mesh.Ask(ctx, url, headers...) }
}

// Fetching returns a function that fetches the text at a URL, for Eventually and
// Consistently.
func Fetching(ctx context.Context, url string) func() string {
	return func() string { return string(mesh.Fetch(ctx, url)) }
}

// EventuallyAnswers waits until a pod's inbound traffic is answered with 200 and
// these values of the header hello.
func EventuallyAnswers(ctx context.Context, pod *mesh.Running, hello ...string) {
	GinkgoHelper()
	EventuallyIs(ctx, pod, mesh.Answered(200, hello...))
}

// EventuallyIs waits until a pod's inbound traffic is answered in this way.
func EventuallyIs(ctx context.Context, pod *mesh.Running, want mesh.Answer) {
	GinkgoHelper()
	Eventually(Asking(ctx, pod.URL)).Should(Equal(want), pod.Pod)
}
