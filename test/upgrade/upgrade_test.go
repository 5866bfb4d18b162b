package upgrade

import (
	"context"
	"maps"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// outputs are the Istio objects of a namespace: their UIDs by their names.
func outputs(ctx context.Context, namespace string) map[string]types.UID {
	GinkgoHelper()
	found := map[string]types.UID{}
	var filters networking.EnvoyFilterList
	Expect(admin.List(ctx, &filters, client.InNamespace(namespace))).To(Succeed())
	for _, object := range filters.Items {
		found[object.Name] = object.UID
	}
	var plugins extensions.WasmPluginList
	Expect(admin.List(ctx, &plugins, client.InNamespace(namespace))).To(Succeed())
	for _, object := range plugins.Items {
		found[object.Name] = object.UID
	}
	return found
}

// history are the names of the ControllerRevisions of a namespace.
func history(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	var list appsv1.ControllerRevisionList
	Expect(admin.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	names := map[string]bool{}
	for _, object := range list.Items {
		names[object.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

var _ = Describe("Another version of the operator", Ordered, func() {
	var (
		namespace string
		install   *installation
		// filtered and plugged are FilterDeployments with an EnvoyFilter and a WasmPlugin each.
		filtered, plugged *wasmev1.FilterDeployment
		pods              map[*wasmev1.FilterDeployment][]*mesh.Running
	)
	all := func() []*mesh.Running { return slices.Concat(pods[filtered], pods[plugged]) }
	both := func() []*wasmev1.FilterDeployment { return []*wasmev1.FilterDeployment{filtered, plugged} }
	// holds waits until both FilterDeployments are Ready, and their pods answer with a value.
	holds := func(ctx context.Context, value string) {
		GinkgoHelper()
		for _, fd := range both() {
			for _, pod := range pods[fd] {
				meshtest.EventuallyAnswers(ctx, pod, answer(value))
			}
			Eventually(condition(ctx, fd, wasmev1.ConditionReady)).Should(Equal("True"), fd.Name)
		}
	}
	change := func(ctx context.Context, value string) {
		GinkgoHelper()
		for _, fd := range both() {
			configure(ctx, fd, value)
		}
		holds(ctx, value)
	}

	BeforeAll(func(ctx SpecContext) {
		namespace = meshtest.NewNamespace(ctx, admin)
		Expect(theMesh.InstallOperatorOf(ctx, former)).To(Succeed())
		install = newInstallation()
		install.start(ctx, formerBinary)
		install.start(ctx, formerBinary)
		image := push(ctx)
		two := []*mesh.Running{run(ctx, namespace, "app", "filtered", 0), run(ctx, namespace, "app", "filtered", 1), run(ctx, namespace, "other", "filtered", 0)}
		one := []*mesh.Running{run(ctx, namespace, "plugged", "plugged", 0)}
		filtered = create(ctx, namespace, "filtered", image, wasmev1.OutputEnvoyFilter)
		plugged = create(ctx, namespace, "plugged", image, wasmev1.OutputWasmPlugin)
		pods = map[*wasmev1.FilterDeployment][]*mesh.Running{filtered: two, plugged: one}
		holds(ctx, "first")
		change(ctx, "second") // a revision to go back to
	})

	It("takes over from the former one without a failed request, and keeps its objects", func(ctx SpecContext) {
		made, kept := outputs(ctx, namespace), history(ctx, namespace)
		revision := live(ctx, filtered).Status.Revision
		load := startTraffic(ctx, false, all()...)
		Expect(theMesh.InstallOperator(ctx)).To(Succeed())
		install.replace(ctx, "", func() {
			By("changing a configuration while the former version leads and this one follows")
			change(ctx, "third")
		})
		for _, fd := range both() {
			Eventually(condition(ctx, fd, wasmev1.ConditionPreflighted)).Should(Equal("True"), "only this version has it")
		}
		holds(ctx, "third")
		Expect(outputs(ctx, namespace)).To(Equal(made), "none was made anew")
		Expect(history(ctx, namespace)).To(ContainElements(kept), "what the former version has recorded is still there")
		Expect(live(ctx, filtered).Status.Revision).NotTo(Equal(revision), "the change between has its own")

		By("changing it back to what the former version has recorded")
		change(ctx, "second")
		Expect(live(ctx, filtered).Status.Revision).To(Equal(revision), "both give the same revision its name")
		change(ctx, "fourth")
		load.expectNoFailure()
	})

	It("hands over to the former one without a failed request", func(ctx SpecContext) {
		Expect(install.leader(ctx).Ended()).To(BeFalse(), "of this version only, two replicas still run")
		made := outputs(ctx, namespace)
		var revision string
		load := startTraffic(ctx, false, all()...)
		Expect(theMesh.InstallOperatorOf(ctx, former)).To(Succeed())
		install.replace(ctx, formerBinary, func() {
			By("changing a configuration while this version leads and the former one follows")
			change(ctx, "fifth")
			revision = live(ctx, filtered).Status.Revision
		})
		holds(ctx, "fifth")
		Expect(live(ctx, filtered).Status.Revision).To(Equal(revision), "the former version keeps what this one made")
		change(ctx, "sixth")
		Expect(outputs(ctx, namespace)).To(Equal(made))
		load.expectNoFailure()
	})
})
