package cli_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var _ = Describe("wasme diff", func() {
	var (
		namespace string
		images    *registry.Registry
		image     string
	)

	BeforeEach(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		images = startRegistry()
		image = push(ctx, images, "hello:v1", "one")
		createDeployment(ctx, namespace, "details", 2)
		createDeployment(ctx, namespace, "ratings", 1)
	})

	// applied creates the FilterDeployment of a file, with the revision that it asks for in
	// outputs of both Deployments.
	applied := func(ctx context.Context, file string) {
		GinkgoHelper()
		fd := &wasmev1.FilterDeployment{}
		Expect(yaml.Unmarshal([]byte(read(file)), fd)).To(Succeed())
		Expect(user.Create(ctx, fd)).To(Succeed())
		rendered := objects(wasme(ctx, "render", "-f", file).Out)
		Expect(rendered).To(HaveLen(2))
		for _, object := range rendered {
			Expect(user.Create(ctx, &object)).To(Succeed())
		}
		fd.Spec.Filter.RootID = "root"
		keepRevision(ctx, fd, strings.Repeat("1", 64))
	}

	It("says what a new one costs", func(ctx context.Context) {
		got := wasme(ctx, "diff", "-f", write("fd.yaml", manifest, namespace, image, "world"))
		Expect(got.Code).To(Equal(3))
		Expect(got.ErrOut).To(HaveSuffix("Error: 1 of 1 FilterDeployments would change\n"))
		Expect(lines(got.Out)).To(ContainElements(
			"FilterDeployment "+namespace+"/hello", "+ config: world",
			"WORKLOAD CHANGE FROM TO PODS FETCH DRAINS",
			MatchRegexp("^details filter is added - [0-9a-f]{8} 2 [0-9]+ B 2$"),
			MatchRegexp("^ratings filter is added - [0-9a-f]{8} 1 [0-9]+ B 2$"),
			"Steps: ratings (1 pod) first, for 10s; then 1 other workload in 1 wave.",
			MatchRegexp("^Cost: 3 pods fetch the module, [0-9]+ B in all; connections of 3 pods drain.$"),
		))
	})

	It("finds nothing where nothing would change", func(ctx context.Context) {
		file := write("fd.yaml", manifest, namespace, image, "world")
		applied(ctx, file)
		operator := []string{"--cluster-id=Kubernetes", "--istio-root-namespace=istio-system", "--module-server-url=http://wasme-modules.wasme-system.svc.cluster.local"}
		Expect(wasme(ctx, append(operator, "diff", "-f", file)...)).To(Equal(result{}))
	})

	It("says what a change costs, and what is not selected any more", func(ctx context.Context) {
		applied(ctx, write("fd.yaml", manifest, namespace, image, "world"))
		changed := strings.Replace(manifest, "{kind: Deployment}", "{kind: Deployment, labels: {app: details}}", 1)
		got := wasme(ctx, "diff", "-f", write("changed.yaml", changed, namespace, push(ctx, images, "hello:v2", "two"), "world"))
		Expect(got.Code).To(Equal(3))
		Expect(lines(got.Out)).To(ContainElements(
			"- image: "+image, HavePrefix("+ image: "),
			MatchRegexp("^details unknown revision [0-9a-f]{8} [0-9a-f]{8} 2 [0-9]+ B -$"),
			MatchRegexp("^ratings filter is removed [0-9a-f]{8} - 0 - 1$"),
			"Steps: details (2 pods).",
		))
	})

	It("says that only the rollout would change", func(ctx context.Context) {
		applied(ctx, write("fd.yaml", manifest, namespace, image, "world"))
		got := wasme(ctx, "diff", "-f", write("changed.yaml", manifest+"  rollout: {bakeTime: 1m}\n", namespace, image, "world"))
		Expect(got.Code).To(Equal(3))
		Expect(got.Out).To(And(ContainSubstring("+  bakeTime: 1m0s\n"), HaveSuffix("\nNothing changes on workloads.\n")))
	})

	It("uses what the operator resolved while the registry is away", func(ctx context.Context) {
		file := write("fd.yaml", manifest, namespace, image, "world")
		applied(ctx, file)
		images.Close()
		got := wasme(ctx, "diff", "-f", file)
		Expect(got.ErrOut).To(ContainSubstring("the module is the one that the operator resolved before"))
	})

	It("fails on what it cannot compare", func(ctx context.Context) {
		got := wasme(ctx, "diff", "-f", write("fd.yaml", manifest, namespace, strings.Replace(image, "hello:v1", "none:v1", 1), "world"))
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(HavePrefix("Error: comparing hello: "))
	})
})
