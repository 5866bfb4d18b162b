package e2e

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/toolchains"
)

// fetchTime is how long a compiler may take to fetch what it needs, and to build.
const fetchTime = 5 * time.Minute

// wasme runs a command that must succeed, and returns its standard output.
func wasme(ctx context.Context, args ...string) string {
	GinkgoHelper()
	var out bytes.Buffer
	code := cli.Run(ctx, args, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: GinkgoWriter})
	Expect(code).To(BeZero(), "wasme %q printed %s", args, out.String())
	return out.String()
}

// The scenario that the predecessor's users know: httpbin gets a filter, and is rid of it.
var _ = Describe("The command line", Serial, func() {
	BeforeEach(func() {
		// The user has no store and no credentials, but the compilers' caches.
		store := GinkgoT().TempDir()
		GinkgoT().Setenv("DOCKER_CONFIG", filepath.Join(store, ".docker"))
		GinkgoT().Setenv("KUBECONFIG", theMesh.Kubeconfig())
		toolchains.Use(GinkgoTB())
	})

	for _, language := range []string{"go", "rust", "assemblyscript"} {
		It("brings a new filter in "+language+" to httpbin, and takes it away", func(ctx SpecContext) {
			namespace := newNamespace(ctx)
			httpbin := run(ctx, workload(namespace, "httpbin", map[string]string{"app": "httpbin", "version": "v1"}))
			meshtest.EventuallyAnswers(ctx, httpbin)
			folder := GinkgoT().TempDir()
			project, store := filepath.Join(folder, "filter"), filepath.Join(folder, "store")
			image := theMesh.Registry() + "/filters/" + language

			wasme(ctx, "init", project, "--language", language, "--platform", "istio", "--disable-prompt")
			built := wasme(ctx, "build", language, project, "-t", image+":v1", "--store", store)
			Expect(wasme(ctx, "list", "--store", store)).To(ContainSubstring(image))
			wasme(ctx, "tag", image+":v1", image+":stable", "--store", store)
			Expect(wasme(ctx, "push", image+":stable", "--store", store)).To(Equal(built))

			followed := wasme(ctx, "deploy", "istio", image+":stable", "--id", "hello", "-n", namespace, "-l", "app=httpbin", "--plain-http", "--config", language)
			Expect(followed).To(HaveSuffix("httpbin: Succeeded\n"))
			meshtest.EventuallyAnswers(ctx, httpbin, language)
			Expect(wasme(ctx, "status", "hello", "-n", namespace)).To(ContainSubstring("1/1"))

			wasme(ctx, "undeploy", "istio", "--id", "hello", "-n", namespace)
			meshtest.EventuallyAnswers(ctx, httpbin)
			var filters networking.EnvoyFilterList
			Expect(admin.List(ctx, &filters, client.InNamespace(namespace))).To(Succeed())
			Expect(filters.Items).To(BeEmpty())
		}, NodeTimeout(fetchTime))
	}
})
