package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"time"

	"github.com/creack/pty"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
)

// lines returns the lines of a table, each with single spaces.
func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all
}

var _ = Describe("wasme status", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("shows FilterDeployments", func(ctx context.Context) {
		setStatus(ctx, createFilterDeployment(ctx, namespace, "hello", "world"), complete)
		createFilterDeployment(ctx, namespace, "young", "world")
		got := wasme(ctx, "status", "-n", namespace)
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(lines(got.Out)).To(HaveExactElements(
			"NAME READY ROLLOUT WORKLOADS PODS AGE",
			MatchRegexp("^hello True Complete 1/1 1/1 [0-9]+s$"),
			MatchRegexp("^young Unknown - - - [0-9]+s$"),
		))
		Expect(got.Out).NotTo(ContainSubstring("\x1b"))
		got = wasme(ctx, "status", "-A", "-o", "wide")
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(lines(got.Out)[0]).To(Equal("NAMESPACE NAME READY ROLLOUT WORKLOADS PODS AGE REVISION MODULE DIGEST MESSAGE"))
		Expect(got.Out).To(MatchRegexp(namespace + ` +hello .*registry.test/hello:v1.*1 of 1 pods`))
	})

	It("shows the workloads of one, with their pods", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 2)
		fd := createFilterDeployment(ctx, namespace, "hello", "world")
		createOutput(ctx, fd, "details", "aaaaaaaa")
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			complete(status)
			status.Conditions = ready(metav1.ConditionFalse, wasmev1.ReasonRolledBack, "revision bbbbbbbb was rolled back")
			status.Workloads = map[string]wasmev1.WorkloadStatus{"details": {State: wasmev1.WorkloadFailed, Reason: "it was refused"}}
		})
		got := wasme(ctx, "status", "hello", "-n", namespace)
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(lines(got.Out)[2:]).To(Equal([]string{
			"", "Ready is False, RolledBack: revision bbbbbbbb was rolled back", "",
			"WORKLOAD STATE PODS REVISION REASON",
			"details Failed 2/2 aaaaaaaa it was refused",
		}))
	})

	It("prints objects", func(ctx context.Context) {
		createFilterDeployment(ctx, namespace, "hello", "world")
		Expect(wasme(ctx, "status", "-n", namespace, "-o", "name")).To(Equal(result{Out: "filterdeployment.wasme.io/hello\n"}))
		var list wasmev1.FilterDeploymentList
		Expect(json.Unmarshal([]byte(wasme(ctx, "status", "-n", namespace, "-o", "json").Out), &list)).To(Succeed())
		Expect(list.Kind).To(Equal("FilterDeploymentList"))
		Expect(list.Items).To(HaveExactElements(HaveField("Name", "hello")))
		Expect(wasme(ctx, "status", "hello", "-n", namespace, "-o", "yaml").Out).To(ContainSubstring("kind: FilterDeployment\n"))
		got := wasme(ctx, "status", "-n", namespace, "-o", "xml")
		Expect(got.Code).To(Equal(2))
		Expect(got.ErrOut).To(ContainSubstring(`"xml"`))
	})

	It("says that there are none", func(ctx context.Context) {
		got := wasme(ctx, "status", "-n", namespace)
		Expect(got).To(Equal(result{ErrOut: "There are no FilterDeployments in namespace " + namespace + ".\n"}))
	})

	It("suggests a name", func(ctx context.Context) {
		createFilterDeployment(ctx, namespace, "bookinfo-filter", "world")
		got := wasme(ctx, "status", "bookinfo-fliter", "-n", namespace)
		Expect(got).To(Equal(result{Code: 1, ErrOut: "Error: namespace " + namespace + " has no FilterDeployment bookinfo-fliter: did you mean bookinfo-filter?\n"}))
		other := newNamespace(ctx)
		got = wasme(ctx, "status", "bookinfo-filter", "-n", other)
		Expect(got.ErrOut).To(HaveSuffix("has: add -n " + namespace + "\n"))
		Expect(wasme(ctx, "status", "xyz", "-n", namespace).ErrOut).To(HaveSuffix("has no FilterDeployment xyz: see wasme status -A\n"))
	})

	It("prints a line for each change while it is piped", func(ctx context.Context) {
		fd := createFilterDeployment(ctx, namespace, "hello", "world")
		limited, cancel := context.WithCancel(ctx)
		out := gbytes.NewBuffer()
		ended := make(chan int)
		go func() {
			ended <- cli.Run(limited, []string{"status", "--watch", "-n", namespace, "--kubeconfig", kubeconfig}, genericiooptions.IOStreams{Out: out, ErrOut: GinkgoWriter})
		}()
		Eventually(out).WithTimeout(10 * time.Second).Should(gbytes.Say(`NAME +READY +ROLLOUT.*\nhello +Unknown +- `))
		setStatus(ctx, fd, complete)
		Eventually(out).WithTimeout(10 * time.Second).Should(gbytes.Say(`\nhello +True +Complete .*\n`))
		cancel()
		Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(Equal(130)))
		Expect(string(out.Contents())).NotTo(ContainSubstring("\x1b"))
	})

	It("redraws its table on a terminal of 40 columns", func(ctx context.Context) {
		fd := createFilterDeployment(ctx, namespace, "a-rather-long-name-of-a-filter", "world")
		GinkgoT().Setenv("TERM", "xterm")
		terminal, device, err := pty.Open()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(terminal.Close)
		DeferCleanup(device.Close)
		Expect(pty.Setsize(terminal, &pty.Winsize{Cols: 40, Rows: 20})).To(Succeed())
		shown := gbytes.BufferReader(terminal)
		limited, cancel := context.WithCancel(ctx)
		ended := make(chan int)
		go func() {
			ended <- cli.Run(limited, []string{"status", "--watch", "-n", namespace, "--kubeconfig", kubeconfig}, genericiooptions.IOStreams{Out: device, ErrOut: GinkgoWriter})
		}()
		Eventually(shown).WithTimeout(10 * time.Second).Should(gbytes.Say("a-rather-long-name-of-a-filter   Unknown"))
		setStatus(ctx, fd, complete)
		Eventually(shown).WithTimeout(10 * time.Second).Should(gbytes.Say("\x1b\\[2A.*NAME(.|\n)*a-rather-long-name-of-a-filter   True"))
		cancel()
		Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(Equal(130)))
		for line := range strings.Lines(string(shown.Contents())) {
			plain := strings.NewReplacer("\x1b[2K", "", "\x1b[2A", "", "\x1b[J", "").Replace(strings.TrimRight(line, " \r\n"))
			Expect(len(plain)).To(BeNumerically("<=", 40), "%q", plain)
		}
	})

	It("goes on with its table when it cannot read the workloads", func(ctx context.Context) {
		fd := createFilterDeployment(ctx, namespace, "hello", "world")
		path := guest(ctx, namespace, "get", "list", "watch")
		Eventually(func() string { return wasmeWith(ctx, path, "", "status").Out }).WithTimeout(waiting).Should(ContainSubstring("hello"))
		GinkgoT().Setenv("TERM", "xterm")
		terminal, device, err := pty.Open()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(terminal.Close)
		DeferCleanup(device.Close)
		Expect(pty.Setsize(terminal, &pty.Winsize{Cols: 80, Rows: 20})).To(Succeed())
		shown := gbytes.BufferReader(terminal)
		limited, cancel := context.WithCancel(ctx)
		ended := make(chan int)
		go func() {
			ended <- cli.Run(limited, []string{"status", "hello", "--watch", "--kubeconfig", path}, genericiooptions.IOStreams{Out: device, ErrOut: GinkgoWriter})
		}()
		Eventually(shown).WithTimeout(waiting).Should(gbytes.Say("hello +Unknown(.|\n)*Error: listing the objects of kind EnvoyFilter"))
		setStatus(ctx, fd, complete)
		Eventually(shown).WithTimeout(waiting).Should(gbytes.Say("hello +True(.|\n)*Error: listing the objects of kind EnvoyFilter"))
		cancel()
		Eventually(ended).WithTimeout(waiting).Should(Receive(Equal(130)))
	})

	Describe("without", func() {
		It("a kubeconfig says where to set one", func(ctx context.Context) {
			var out, errOut bytes.Buffer
			code := cli.Run(ctx, []string{"status"}, genericiooptions.IOStreams{Out: &out, ErrOut: &errOut})
			Expect(result{code, out.String(), errOut.String()}).To(Equal(result{Code: 1, ErrOut: "Error: no cluster is configured: set --kubeconfig or KUBECONFIG, or write ~/.kube/config\n"}))
			got := wasmeWith(ctx, filepath.Join(GinkgoT().TempDir(), "none"), "", "status")
			Expect(got.Code).To(Equal(1))
			Expect(got.ErrOut).To(ContainSubstring("no such file"))
		})

		It("the CRD says what to install", func() {
			Expect(withoutCRD).To(Equal(result{Code: 1, ErrOut: "Error: listing the FilterDeployments: this cluster does not serve FilterDeployments (wasme.io/v1): install wasme-operator\n"}))
		})

		It("a right says which", func(ctx context.Context) {
			Expect(user.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "guest"}})).To(Succeed())
			guest, err := controlPlane.KubeconfigAs(ctx, namespace, "guest")
			Expect(err).NotTo(HaveOccurred())
			got := wasmeWith(ctx, guest, "", "status")
			Expect(got.Code).To(Equal(1))
			Expect(got.ErrOut).To(And(HavePrefix("Error: listing the FilterDeployments: "), ContainSubstring(`cannot list resource "filterdeployments"`), HaveSuffix("ask for that right, or choose another --context\n")))
		})

		It("a namespace of its own refuses a name", func(ctx context.Context) {
			got := wasme(ctx, "status", "hello", "-A")
			Expect(got).To(Equal(result{Code: 2, ErrOut: "Error: -A shows all namespaces, and hello is in one: leave out -A, or the name\n"}))
		})
	})
})
