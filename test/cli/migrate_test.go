package cli_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	metaapi "istio.io/api/meta/v1alpha1"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/cli/migrate"
	"github.com/wasme-io/wasme-operator/test/predecessor"
)

const cachedDigest = "165600e2e4d099b5d32b29fbfcc3a03b9215d70df2523fa9abcf4901408fbac1"

// byWasme is the EnvoyFilter that `wasme deploy istio --id hello` of wasme 0.0.33 made for a workload.
func byWasme(namespace, workload string) *networking.EnvoyFilter {
	GinkgoHelper()
	object := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: workload + "-hello"}}
	made := predecessor.Filter{ID: "hello", RootID: "root", Configuration: "world", App: workload, SHA256: cachedDigest}
	Expect(yaml.Unmarshal([]byte(made.EnvoyFilter()), &object.Spec)).To(Succeed())
	return object
}

// wasmPlugin is one that someone wrote for a workload.
func wasmPlugin(namespace, name, workload string) *extensions.WasmPlugin {
	GinkgoHelper()
	object := &extensions.WasmPlugin{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	Expect(yaml.Unmarshal([]byte(`{selector: {matchLabels: {app: `+workload+`}}, url: 'oci://registry.test/hello:v1', pluginName: root,
  pluginConfig: {a: b}, phase: AUTHN, match: [{mode: SERVER}]}`), &object.Spec)).To(Succeed())
	return object
}

// wide returns a table without the widths of its columns.
func wide(table string) string {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	for i, line := range lines {
		var cells []string
		for cell := range strings.SplitSeq(line, "   ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				cells = append(cells, cell)
			}
		}
		lines[i] = strings.Join(cells, " | ")
	}
	return strings.Join(lines, "\n")
}

var _ = Describe("wasme migrate", func() {
	var namespace string
	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	run := func(ctx context.Context, args ...string) result {
		return wasme(ctx, append([]string{"migrate", "-n", namespace}, args...)...)
	}
	at := func(name string) client.ObjectKey { return client.ObjectKey{Namespace: namespace, Name: name} }
	// start runs a command until it ends or its context does.
	start := func(ctx context.Context, args ...string) (out, errOut *gbytes.Buffer, ended chan int) {
		out, errOut, ended = gbytes.NewBuffer(), gbytes.NewBuffer(), make(chan int, 1)
		go func() {
			ended <- cli.Run(ctx, append([]string{"migrate", "-n", namespace, "--kubeconfig", kubeconfig}, args...), genericiooptions.IOStreams{Out: out, ErrOut: errOut})
		}()
		return out, errOut, ended
	}
	// created waits for a FilterDeployment.
	created := func(ctx context.Context, name string) *wasmev1.FilterDeployment {
		GinkgoHelper()
		var fd wasmev1.FilterDeployment
		Eventually(func() error { return user.Get(ctx, at(name), &fd) }).WithTimeout(waiting).Should(Succeed())
		return &fd
	}
	exists := func(ctx context.Context, object client.Object) func() bool {
		return func() bool {
			GinkgoHelper()
			err := user.Get(ctx, client.ObjectKeyFromObject(object), object)
			Expect(client.IgnoreNotFound(err)).To(Succeed())
			return err == nil
		}
	}
	complies := func(ctx context.Context, fd *wasmev1.FilterDeployment) {
		GinkgoHelper()
		setStatus(ctx, fd, complete)
	}

	It("shows what would replace what, and why not", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		createDeployment(ctx, namespace, "reviews", 0)
		Expect(user.Create(ctx, byWasme(namespace, "details"))).To(Succeed())
		Expect(user.Create(ctx, wasmPlugin(namespace, "auth", "reviews"))).To(Succeed())
		createOutput(ctx, createFilterDeployment(ctx, namespace, "mine", "x"), "reviews", "aaaaaaaa")
		got := run(ctx)
		Expect(got.Code).To(BeZero())
		lines := strings.Split(wide(got.Out), "\n")
		Expect(lines[0]).To(Equal("OBJECT | KIND | WORKLOADS | REPLACED BY | NOTE"))
		Expect(lines[1:]).To(ConsistOf(
			"auth | WasmPlugin | reviews | auth | -",
			HavePrefix("details-hello | EnvoyFilter | details | hello | not replaced: the module is the file /var/local/lib/wasme-cache/"+cachedDigest+" of the proxy: name the image with --image hello=IMAGE"),
		))
		Expect(got.ErrOut).To(ContainSubstring("until a new filter is Ready both run"))
		all := wasme(ctx, "migrate", "-A")
		Expect(all.Code).To(BeZero())
		Expect(wide(all.Out)).To(And(HavePrefix("NAMESPACE | OBJECT"), ContainSubstring(namespace+" | auth | WasmPlugin")))

		By("printing the FilterDeployments")
		printed := run(ctx, "-o", "yaml")
		Expect(printed.Code).To(BeZero())
		Expect(printed.ErrOut).To(ContainSubstring("details-hello: the module is the file"))
		Expect(printed.Out).To(Equal(`apiVersion: wasme.io/v1
kind: FilterDeployment
metadata:
  annotations:
    wasme.io/replaces: WasmPlugin/auth
  name: auth
  namespace: ` + namespace + `
spec:
  deployment:
    istio:
      kind: Deployment
      labels:
        app: reviews
      output: WasmPlugin
  filter:
    config:
      a: b
    failStrategy: FailClosed
    image: registry.test/hello:v1
    patchContext: inbound
    position:
      phase: Authn
    rootID: root
`))
		Expect(strings.Count(run(ctx, "-o", "yaml", "--image", "hello=registry.test/hello:v1").Out, "---\n")).To(Equal(1))

		By("having the API server check them")
		Expect(wide(run(ctx, "--dry-run=server", "auth").Out)).To(HaveSuffix("auth | WasmPlugin | reviews | auth | -"))
		refused := wasmPlugin(namespace, "many", "reviews")
		refused.Spec.PluginName = strings.Repeat("r", 256)
		refused.Spec.ImagePullSecret = "s"
		refused.Spec.Url = "oci://registry.test/" + strings.Repeat("r", 1024)
		Expect(user.Create(ctx, refused)).To(Succeed())
		Expect(run(ctx, "--dry-run=server", "many").Out).To(ContainSubstring("spec.filter.image"))
		Expect(exists(ctx, &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "auth"}})()).To(BeFalse())
	})

	It("replaces an object once the FilterDeployment is Ready", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		plugin := wasmPlugin(namespace, "auth", "details")
		Expect(user.Create(ctx, plugin)).To(Succeed())
		out, errOut, ended := start(ctx, "--apply")
		Eventually(errOut).WithTimeout(waiting).Should(gbytes.Say("rolling out FilterDeployment auth; until it is Ready, both run"))
		fd := created(ctx, "auth")
		Expect(*fd.Spec.Rollout.MaxPods).To(Equal(int32(1)), "one workload at a time")
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			status.Conditions = ready(metav1.ConditionUnknown, wasmev1.ReasonLoading, "0 of 1 pods run it")
		})
		Eventually(errOut).WithTimeout(waiting).Should(gbytes.Say("0 of 1 pods run it"))
		Expect(exists(ctx, plugin)()).To(BeTrue())
		plugin.Status.Conditions = []*metaapi.IstioCondition{{Type: "Reconciled", Status: "True"}} // as istiod may do at any time
		Expect(user.Status().Update(ctx, plugin)).To(Succeed())
		complies(ctx, fd)
		Eventually(ended).WithTimeout(waiting).Should(Receive(BeZero()))
		Expect(out).To(gbytes.Say("WasmPlugin " + namespace + "/auth deleted\n"))
		Expect(exists(ctx, plugin)()).To(BeFalse())
		Expect(created(ctx, "auth").Spec.Rollout).To(Or(BeNil(), HaveField("MaxPods", BeNil())), "later rollouts are as usual")
		Expect(run(ctx, "--apply", "--istio-root-namespace=istio-system")).To(Equal(result{ErrOut: "There is nothing to migrate.\n"}))
	})

	It("keeps the object when the FilterDeployment is refused, and goes on with the next", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		bad := wasmPlugin(namespace, "bad", "details")
		Expect(user.Create(ctx, bad)).To(Succeed())
		good := wasmPlugin(namespace, "good", "details")
		Expect(user.Create(ctx, good)).To(Succeed())
		out, errOut, ended := start(ctx, "--apply")
		fd := created(ctx, "bad")
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			status.Conditions = append(ready(metav1.ConditionFalse, wasmev1.ReasonConfigurationRefused, "the module refused its configuration"),
				metav1.Condition{Type: wasmev1.ConditionStalled, Status: metav1.ConditionTrue, Reason: wasmev1.ReasonConfigurationRefused, LastTransitionTime: metav1.Now()})
		})
		Eventually(func() error { // no garbage collector runs here
			if err := user.Get(ctx, client.ObjectKeyFromObject(fd), fd); err != nil || fd.DeletionTimestamp == nil {
				return err
			}
			fd.Finalizers = nil
			return user.Update(ctx, fd)
		}).WithTimeout(waiting).Should(Satisfy(apierrors.IsNotFound))
		Eventually(errOut).WithTimeout(waiting).Should(gbytes.Say("bad stays as it is: the module refused its configuration"))
		complies(ctx, created(ctx, "good"))
		Eventually(ended).WithTimeout(waiting).Should(Receive(Equal(3)))
		Expect(errOut).To(gbytes.Say("Error: 1 of 2 replacements were not made"))
		Expect(out).To(gbytes.Say("good deleted\n"))
		Expect(exists(ctx, bad)()).To(BeTrue())
		Expect(exists(ctx, good)()).To(BeFalse())
	})

	It("goes on where Ctrl-C has stopped it", func(ctx context.Context) {
		var olds []client.Object
		for _, app := range []string{"details", "reviews"} {
			createDeployment(ctx, namespace, app, 1)
			old := byWasme(namespace, app)
			Expect(user.Create(ctx, old)).To(Succeed())
			olds = append(olds, old)
		}
		apply := []string{"--apply", "--image", "hello=registry.test/hello:v1"}
		interrupted, interrupt := context.WithCancel(ctx)
		_, errOut, ended := start(interrupted, apply...)
		fd := created(ctx, "hello")
		uid := fd.UID
		interrupt()
		Eventually(ended).WithTimeout(waiting).Should(Receive(Equal(130)))
		Expect(errOut).To(gbytes.Say("Interrupted: run the command again to go on"))
		complies(ctx, fd)

		By("having deleted one of two objects before it stopped")
		Expect(user.Delete(ctx, olds[0])).To(Succeed())
		got := run(ctx, apply...)
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(got.Out).To(ContainSubstring("EnvoyFilter " + namespace + "/reviews-hello deleted\n"))
		Expect(exists(ctx, olds[1])()).To(BeFalse())
		kept := created(ctx, "hello")
		Expect(kept.UID).To(Equal(uid))
		Expect(kept.Spec.Deployment.Istio.Selector).To(Equal(&metav1.LabelSelector{}), "it stays for both workloads")
		Expect(kept.Spec.Filter.ID).To(BeEmpty())
		Expect(kept.Annotations).To(HaveKeyWithValue(migrate.ReplacesAnnotation, "EnvoyFilter/details-hello,EnvoyFilter/reviews-hello"))
	})

	It("does not delete what was changed meanwhile", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		plugin := wasmPlugin(namespace, "auth", "details")
		Expect(user.Create(ctx, plugin)).To(Succeed())
		_, errOut, ended := start(ctx, "--apply")
		fd := created(ctx, "auth")
		plugin.Spec.PluginName = "other"
		Expect(user.Update(ctx, plugin)).To(Succeed())
		complies(ctx, fd)
		Eventually(ended).WithTimeout(waiting).Should(Receive(Equal(1)))
		Expect(errOut).To(gbytes.Say("auth: it was changed since it was read: look at it, and run the command again"))
		Expect(exists(ctx, plugin)()).To(BeTrue())

		By("replacing what it is now")
		_, _, ended = start(ctx, "--apply")
		Eventually(func() string { return created(ctx, "auth").Spec.Filter.RootID }).WithTimeout(waiting).Should(Equal("other"))
		complies(ctx, fd)
		Eventually(ended).WithTimeout(waiting).Should(Receive(BeZero()))
		Expect(exists(ctx, plugin)()).To(BeFalse())
	})

	It("replaces what reaches other pods only by its name", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		job := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "job", Labels: map[string]string{"app": "details"}}}
		job.Spec.Containers = []corev1.Container{{Name: "istio-proxy", Image: "istio/proxyv2:1.31.0"}}
		Expect(user.Create(ctx, job)).To(Succeed())
		plugin := wasmPlugin(namespace, "auth", "details")
		Expect(user.Create(ctx, plugin)).To(Succeed())
		got := run(ctx, "--apply")
		Expect(got.Code).To(Equal(3))
		Expect(got.ErrOut).To(ContainSubstring("the pods job belong to no Deployment, DaemonSet or StatefulSet, and lose the filter: to replace it all the same, name it: wasme migrate WasmPlugin/auth --apply"))
		_, _, ended := start(ctx, "WasmPlugin/auth", "--apply")
		complies(ctx, created(ctx, "auth"))
		Eventually(ended).WithTimeout(waiting).Should(Receive(BeZero()))
	})

	It("says how long it has waited", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		plugin := wasmPlugin(namespace, "auth", "details")
		Expect(user.Create(ctx, plugin)).To(Succeed())
		got := run(ctx, "--apply", "--timeout=1s")
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(ContainSubstring("wasme rollout status auth -n " + namespace))
		Expect(exists(ctx, plugin)()).To(BeTrue())
		Expect(created(ctx, "auth").DeletionTimestamp).To(BeNil(), "it may be on its way")
	})

	It("removes the annotations of wasme 0.0.33, one workload after the other", func(ctx context.Context) {
		const volume, mount = "sidecar.istio.io/userVolume", "sidecar.istio.io/userVolumeMount"
		createDeployment(ctx, namespace, "details", 0)
		var details appsv1.Deployment
		Expect(user.Get(ctx, at("details"), &details)).To(Succeed())
		details.Spec.Template.Annotations = map[string]string{
			volume: `[{"name":"cache-dir","hostPath":{"path":"/var/local/lib/wasme-cache"}}]`, mount: `[{"mountPath":"/var/local/lib/wasme-cache","name":"cache-dir"}]`,
			"wasme-backup." + volume: `[]`, "mine": "stays",
		}
		Expect(user.Update(ctx, &details)).To(Succeed())
		old := byWasme(namespace, "details")
		Expect(user.Create(ctx, old)).To(Succeed())
		Expect(wide(run(ctx).Out)).To(ContainSubstring("details | Deployment | - | - | its pods mount the cache of wasme 0.0.33: --clean ends that, and restarts them"))
		refused := run(ctx, "--apply", "--clean")
		Expect(refused.Code).To(Equal(3))
		Expect(refused.ErrOut).To(ContainSubstring("keeps its annotations: EnvoyFilter " + namespace + "/details-hello still loads a module from there"))

		Expect(user.Delete(ctx, old)).To(Succeed())
		root := newNamespace(ctx)
		everywhere := byWasme(root, "details")
		Expect(user.Create(ctx, everywhere)).To(Succeed())
		refused = run(ctx, "--apply", "--clean", "--istio-root-namespace", root)
		Expect(refused.Code).To(Equal(3))
		Expect(refused.ErrOut).To(ContainSubstring("keeps its annotations: EnvoyFilter " + root + "/details-hello still loads a module from there"))

		Expect(user.Delete(ctx, everywhere)).To(Succeed())
		out, errOut, ended := start(ctx, "--apply", "--clean", "--timeout=0")
		Eventually(errOut).WithTimeout(waiting).Should(gbytes.Say("removing the annotations of wasme 0.0.33 from its pod template, which restarts its pods"))
		Eventually(func() map[string]string {
			Expect(user.Get(ctx, at("details"), &details)).To(Succeed())
			return details.Spec.Template.Annotations
		}).WithTimeout(waiting).Should(Equal(map[string]string{volume: "[]", "mine": "stays"}))
		Consistently(ended).WithTimeout(2 * time.Second).ShouldNot(Receive())
		details.Status = appsv1.DeploymentStatus{ObservedGeneration: details.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
		details.Status.Conditions = []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue},
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"},
		}
		Expect(user.Status().Update(ctx, &details)).To(Succeed())
		Eventually(ended).WithTimeout(waiting).Should(Receive(BeZero()))
		Expect(out).To(gbytes.Say("Deployment " + namespace + "/details cleaned\n"))
	})

	DescribeTable("bad input names the fix", func(ctx context.Context, code int, says string, args ...string) {
		Expect(user.Create(ctx, wasmPlugin(namespace, "auth", "details"))).To(Succeed())
		got := run(ctx, args...)
		Expect(got.Code).To(Equal(code))
		Expect(got.ErrOut).To(ContainSubstring(says))
	},
		Entry("an unknown dry run", 2, "use none or server", "--dry-run=client"),
		Entry("both a dry run and none", 2, "leave one of them out", "--dry-run=server", "--apply"),
		Entry("an output of what is done", 2, "leave out -o yaml", "--apply", "-o", "yaml"),
		Entry("an unknown output", 2, "see wasme migrate --help", "-o", "xml"),
		Entry("an image without registry", 2, "has no registry", "--image", "auth=hello:v1"),
		Entry("an image that nothing needs", 2, "--image auth: there is no such object, or it says itself where its module comes from", "--image", "auth=registry.test/a:v1"),
		Entry("an object that is not there", 1, "there is nothing to migrate with the name aut: did you mean auth?", "aut"),
	)

	It("says which right is missing", func(ctx context.Context) {
		Expect(user.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nobody"}})).To(Succeed())
		path, err := controlPlane.KubeconfigAs(ctx, namespace, "nobody")
		Expect(err).NotTo(HaveOccurred())
		got := wasmeWith(ctx, path, "", "migrate")
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(And(ContainSubstring(fmt.Sprintf(`cannot list resource "envoyfilters" in API group "networking.istio.io" in the namespace %q`, namespace)), ContainSubstring("ask for that right")))
	})
})
