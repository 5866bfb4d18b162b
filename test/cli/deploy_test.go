package cli_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
)

const helloImage = "registry.example.com/filters/hello:v1"

var _ = Describe("wasme deploy istio", func() {
	var namespace string
	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	deploy := func(ctx context.Context, args ...string) result {
		return wasme(ctx, append([]string{"deploy", "istio", helloImage, "--id", "hello", "-n", namespace}, args...)...)
	}
	live := func(ctx context.Context) *wasmev1.FilterDeployment {
		GinkgoHelper()
		var fd wasmev1.FilterDeployment
		Expect(user.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "hello"}, &fd)).To(Succeed())
		return &fd
	}

	It("applies what the flags say, and nothing else", func(ctx context.Context) {
		got := deploy(ctx, "--wait=false", "--config", "world", "--root-id", "root", "-l", "app=details,version=v1", "-t", "statefulset",
			"--patch-context", "outbound", "--istio-namespace", "mesh", "--pull-secret", "registry", "--plain-http")
		Expect(got).To(Equal(result{ErrOut: "applied FilterDeployment hello in namespace " + namespace + "\n"}))
		fd := live(ctx)
		Expect(fd.Spec.Filter).To(Equal(wasmev1.FilterSpec{
			ID: "hello", Image: helloImage, Config: text("world"), RootID: "root", PatchContext: "outbound", FailStrategy: wasmev1.FailReload,
			ImagePullOptions: &wasmev1.ImagePullOptions{PullSecret: "registry", PlainHTTP: true},
		}))
		Expect(fd.Spec.Deployment.Istio.Labels).To(Equal(map[string]wasmev1.LabelValue{"app": "details", "version": "v1"}))
		Expect(fd.Spec.Deployment.Istio.Kind).To(Equal("statefulset"))
		Expect(fd.Spec.Deployment.Istio.IstioNamespace).To(Equal("mesh"))

		By("applying less, which takes the rest away")
		Expect(deploy(ctx, "--wait=false").Code).To(BeZero())
		Expect(live(ctx).Spec.Filter.Config).To(BeNil())
		Expect(live(ctx).Spec.Deployment.Istio.Labels).To(BeEmpty())
	})

	It("follows each workload until all run the filter", func(ctx context.Context) {
		out, errOut := gbytes.NewBuffer(), gbytes.NewBuffer()
		ended := make(chan int)
		go func() {
			ended <- cli.Run(ctx, []string{"deploy", "istio", helloImage, "--id", "hello", "-n", namespace, "--kubeconfig", kubeconfig}, genericiooptions.IOStreams{Out: out, ErrOut: errOut})
		}()
		Eventually(errOut).WithTimeout(10 * time.Second).Should(gbytes.Say("applied FilterDeployment hello"))
		fd := live(ctx)
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			status.Conditions = ready(metav1.ConditionUnknown, wasmev1.ReasonSpreading, "revision bbbbbbbb on 1 of 2 workloads")
			status.Workloads = map[string]wasmev1.WorkloadStatus{"a": {State: wasmev1.WorkloadSucceeded}, "b": {State: wasmev1.WorkloadPending, Reason: "it waits"}}
		})
		Eventually(out).WithTimeout(10 * time.Second).Should(gbytes.Say("a: Succeeded\nb: Pending: it waits\n"))
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			complete(status)
			status.Workloads = map[string]wasmev1.WorkloadStatus{"a": {State: wasmev1.WorkloadSucceeded}, "b": {State: wasmev1.WorkloadSucceeded}}
		})
		Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(BeZero()))
		Expect(out).To(gbytes.Say("b: Succeeded\n"))
		Expect(errOut).To(gbytes.Say("all workloads run the filter\n"))
	})

	It("ends with 3 when the filter is refused", func(ctx context.Context) {
		Expect(deploy(ctx, "--wait=false").Code).To(BeZero())
		setStatus(ctx, live(ctx), func(status *wasmev1.FilterDeploymentStatus) {
			status.Conditions = append(ready(metav1.ConditionFalse, wasmev1.ReasonConfigurationRefused, "the module refused its configuration"),
				metav1.Condition{Type: wasmev1.ConditionStalled, Status: metav1.ConditionTrue, Reason: wasmev1.ReasonConfigurationRefused, LastTransitionTime: metav1.Now()})
		})
		got := deploy(ctx)
		Expect(got.Code).To(Equal(3))
		Expect(got.ErrOut).To(HaveSuffix("Error: the module refused its configuration\n"))
	})

	It("says what it waits for when the time is over", func(ctx context.Context) {
		got := deploy(ctx, "--timeout=300ms")
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(HaveSuffix("is not done after 300ms: follow it with wasme rollout status hello -n " + namespace + "\n"))
	})

	It("only prints for a dry run", func(ctx context.Context) {
		client := deploy(ctx, "--dry-run=client", "--config", "world")
		Expect(client.Code).To(BeZero())
		Expect(client.Out).To(Equal(`apiVersion: wasme.io/v1
kind: FilterDeployment
metadata:
  name: hello
  namespace: ` + namespace + `
spec:
  deployment:
    istio:
      kind: deployment
  filter:
    config: world
    id: hello
    image: ` + helloImage + `
    patchContext: inbound
`))
		server := deploy(ctx, "--dry-run=server", "-o", "json")
		Expect(server.Code).To(BeZero())
		Expect(server.Out).To(ContainSubstring(`"failStrategy": "FailReload"`), "the default of the API server")
		Expect(wasme(ctx, "rollout", "status", "hello", "-n", namespace).Code).To(Equal(1), "it does not exist")
	})

	It("accepts the predecessor's flags that mean nothing any more", func(ctx context.Context) {
		got := deploy(ctx, "--dry-run=client", "--ignore-version-check", "--cache-timeout=1m", "--istiod-name=istiod", "--cache-repo=x", "--cache-tag=y",
			"--cache-name=z", "--cache-namespace=wasme", "--cache-image-pull-policy=Always", "--cache-custom-command=c")
		Expect(got.Code).To(BeZero())
		Expect(got.ErrOut).To(ContainSubstring("note: --ignore-version-check does nothing any more\n"))
		Expect(got.ErrOut).To(ContainSubstring("note: --cache-timeout does nothing any more\n"))
	})

	It("does not take fields from someone else", func(ctx context.Context) {
		createFilterDeployment(ctx, namespace, "hello", "theirs")
		got := deploy(ctx, "--wait=false", "--config", "ours")
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(ContainSubstring("someone else manages it: change it there, or delete it first"))
		Expect(live(ctx).Spec.Filter.Config).To(Equal(text("theirs")))
	})

	DescribeTable("bad input names the fix", func(ctx context.Context, code int, says string, args ...string) {
		got := wasme(ctx, append(append([]string{"deploy", "istio"}, args...), "-n", namespace)...)
		Expect(got.Code).To(Equal(code))
		Expect(got.ErrOut).To(ContainSubstring(says))
	},
		Entry("no id", 2, "set --id", helloImage),
		Entry("an id that is no name", 2, `the id "Hello_World" cannot be the name of a FilterDeployment`, helloImage, "--id", "Hello_World"),
		Entry("no registry", 2, "has no registry", "hello:v1", "--id", "hello"),
		Entry("no tag", 2, "has no tag", "registry.example.com/hello", "--id", "hello"),
		Entry("an unknown kind", 2, "use deployment, daemonset or statefulset", helloImage, "--id", "hello", "-t", "job", "--dry-run=client"),
		Entry("an unknown patch context", 2, "use inbound, outbound, gateway or any", helloImage, "--id", "hello", "--patch-context", "inboud", "--dry-run=client"),
		Entry("an unknown dry run", 2, "use none, client or server", helloImage, "--id", "hello", "--dry-run=maybe"),
		Entry("an unknown output, before anything is applied", 2, "use one of json, yaml", helloImage, "--id", "hello", "-o", "xml"),
	)

	It("says what is wrong with the cluster", func(ctx context.Context) {
		got := wasmeWith(ctx, "/none", "", "deploy", "istio", helloImage, "--id", "hello")
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(ContainSubstring("/none"))
	})
})

var _ = Describe("wasme undeploy istio", func() {
	It("deletes the FilterDeployment", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		fd := createFilterDeployment(ctx, namespace, "hello", "x")
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			status.Workloads = map[string]wasmev1.WorkloadStatus{"a": {State: wasmev1.WorkloadSucceeded}}
		})
		undeploy := []string{"undeploy", "istio", "--id", "hello", "-n", namespace}
		Expect(wasme(ctx, append(undeploy, "--dry-run")...)).To(Equal(result{Out: "FilterDeployment hello would be deleted\na: the filter would be removed\n"}))
		Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		part := wasme(ctx, append(undeploy, "-l", "app=a")...)
		Expect(part.Code).To(Equal(2))
		Expect(part.ErrOut).To(ContainSubstring("--labels cannot limit the removal"))
		Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		// No garbage collector runs here: what waits for it is deleted by a user.
		ended := make(chan result)
		go func() { ended <- wasme(ctx, append(undeploy, "--patch-context=inbound")...) }()
		Eventually(func() error {
			if err := user.Get(ctx, client.ObjectKeyFromObject(fd), fd); err != nil || fd.DeletionTimestamp == nil {
				return err
			}
			fd.Finalizers = nil
			return user.Update(ctx, fd)
		}).WithTimeout(10 * time.Second).Should(Satisfy(apierrors.IsNotFound))
		var got result
		Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(&got))
		Expect(got).To(Equal(result{Out: "FilterDeployment hello deleted\n", ErrOut: "note: --patch-context does nothing any more\n"}))

		again := wasme(ctx, undeploy...)
		Expect(again.Code).To(Equal(1))
		Expect(again.ErrOut).To(ContainSubstring("namespace " + namespace + " has no FilterDeployment hello"))
	})
})
