// Package recording records real traffic: a real istiod gives real sidecars the taps, and
// requests pass them. There is no kubelet, so nobody answers port-forwards: the admin
// endpoints of the sidecars are reached directly, or by a stand-in for the kubelet.
package recording

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic/tap"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/portforward"
)

var (
	theMesh *mesh.Mesh
	admin   client.Client
	modules *filters.Server
)

func TestRecording(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Recording on a real mesh")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	theMesh = meshtest.Start(ctx, "")
	admin = theMesh.Client()
	modules = meshtest.StartModuleServer()
}, NodeTimeout(meshtest.StartTimeout))

// direct reaches the admin endpoint of a sidecar without a port-forward.
type direct struct{ pod *mesh.Running }

// Forward implements tap.Forwarder.
func (d direct) Forward(_ context.Context, pod client.ObjectKey, port int) (string, error) {
	if pod.Name != d.pod.Pod || port != 15000 {
		return "", fmt.Errorf("asked for port %d of pod %s", port, pod.Name)
	}
	return strings.TrimPrefix(d.pod.AdminURL, "http://"), nil
}

// startApp starts an app that answers with what it was sent, and returns its port.
func startApp() int {
	GinkgoHelper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		w.Header().Set("x-app", r.Header.Get("x-tracking"))
		w.Header().Set("set-cookie", "session=secret")
		w.Header().Set("content-length", strconv.Itoa(len(content)))
		_, _ = w.Write(content) // the client may be gone
	}))
	DeferCleanup(app.Close)
	address, err := url.Parse(app.URL)
	Expect(err).NotTo(HaveOccurred())
	port, err := strconv.Atoi(address.Port())
	Expect(err).NotTo(HaveOccurred())
	return port
}

// startPod starts a pod of the Deployment app in a namespace.
func startPod(ctx context.Context, namespace string, replica int) *mesh.Running {
	GinkgoHelper()
	return meshtest.Run(ctx, theMesh, mesh.Workload{
		Namespace: namespace, Name: "app", Labels: map[string]string{"app": "app"}, Port: 9080, AppPort: startApp(), Replica: replica, NativeSidecar: true,
	})
}

// deploy has the pods of the Deployment app run a filter.
func deploy(ctx context.Context, namespace, filter, configuration string) {
	GinkgoHelper()
	module := meshtest.Build(ctx, filter)
	modules.Serve(module)
	owner := types.NamespacedName{Namespace: namespace, Name: filter}
	spec := wasmev1.FilterSpec{Image: "example.invalid/filter:v1"}
	if configuration != "" {
		spec.Config = &wasmev1.Configuration{Raw: []byte(configuration)}
	}
	made, err := render.NewFilter(owner, spec, wasmev1.DistributionServed, wasmev1.ModuleStatus{SHA256: filters.SHA256(module), RootIDs: []string{filters.RootID}})
	Expect(err).NotTo(HaveOccurred())
	target := workload.Target{Kind: "Deployment", Namespace: namespace, Name: "app", Selector: map[string]string{"app": "app"}}
	servers := render.Mesh{ClusterID: mesh.ClusterID, RootNamespace: mesh.RootNamespace, ModuleServerURL: modules.URL}
	rendered, err := render.EnvoyFilter(servers, owner, made, target, "")
	Expect(err).NotTo(HaveOccurred())
	object := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: render.Name(target, made.ID)}}
	rendered.DeepCopyInto(&object.Spec)
	meshtest.Apply(ctx, admin, object)
}

// recorder returns one for a pod, as a user who may do no more than a recording needs.
func recorder(ctx context.Context, pod *mesh.Running) *tap.Recorder {
	GinkgoHelper()
	c := user(ctx, pod.Workload.Namespace)
	found, err := tap.FindPod(ctx, c, client.ObjectKey{Namespace: pod.Workload.Namespace, Name: pod.Pod})
	Expect(err).NotTo(HaveOccurred())
	return &tap.Recorder{Client: c, Forwarder: direct{pod}, Pod: found, FilterName: tap.NewFilterName(), For: meshtest.Patience, Max: 1000}
}

// user returns a client with the rights that the help of wasme record lists.
func user(ctx context.Context, namespace string) client.Client {
	GinkgoHelper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "recording"}
	meshtest.Apply(ctx, admin, &corev1.ServiceAccount{ObjectMeta: meta})
	meshtest.Apply(ctx, admin, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"networking.istio.io"}, Resources: []string{"envoyfilters"}, Verbs: []string{"create", "delete"}},
	}})
	meshtest.Apply(ctx, admin, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: meta.Name}},
	})
	config, err := theMesh.As(ctx, namespace, meta.Name)
	Expect(err).NotTo(HaveOccurred())
	c, err := mesh.NewClient(config)
	Expect(err).NotTo(HaveOccurred())
	return c
}

// recorded is what a recording gave.
type recorded struct {
	tap.Recording
	err error
}

// begin records in the background, and returns once requests are recorded.
func begin(ctx context.Context, r *tap.Recorder) <-chan recorded {
	GinkgoHelper()
	begun, done := make(chan struct{}), make(chan recorded, 1)
	r.Begun = func() { close(begun) }
	go func() {
		recording, err := r.Record(ctx)
		done <- recorded{recording, err}
	}()
	Eventually(begun).Should(BeClosed())
	return done
}

// newConnections has each request go over a connection of its own: those that are open
// already stay with the listener that has no taps.
var newConnections = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// post sends a request with a body.
func post(ctx context.Context, address, content string, headers ...string) int {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(content))
	Expect(err).NotTo(HaveOccurred())
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := newConnections.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // the status says whether it worked
	return response.StatusCode
}

// postMany sends so many requests that the first were taken once the last are answered:
// what Envoy still sends when a recording ends is not taken.
func postMany(ctx context.Context, pod *mesh.Running) {
	GinkgoHelper()
	for range 50 {
		Expect(post(ctx, pod.URL, "")).To(Equal(http.StatusOK))
	}
}

// envoyFilters are the names of those in a namespace.
func envoyFilters(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	var list networking.EnvoyFilterList
	Expect(admin.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	names := []string{}
	for _, object := range list.Items {
		names = append(names, object.Name)
	}
	return names
}

// eventuallyTapped waits until new connections to a pod are recorded.
func eventuallyTapped(ctx context.Context, pod *mesh.Running) {
	GinkgoHelper()
	Eventually(meshtest.Fetching(ctx, pod.AdminURL+"/config_dump?resource=dynamic_listeners")).Should(
		And(ContainSubstring("wasme.record.first"), Not(ContainSubstring("warming_state"))))
}

// kubeconfig returns the path of one for a user with the rights to record a pod. It leads to
// the API server through a proxy that answers port-forwards, as there is no kubelet.
func kubeconfig(ctx context.Context, pod *mesh.Running) string {
	GinkgoHelper()
	namespace := pod.Workload.Namespace
	user(ctx, namespace)
	config, err := theMesh.As(ctx, namespace, "recording")
	Expect(err).NotTo(HaveOccurred())
	return portforward.Kubeconfig(GinkgoTB(), config, func(name, _ string) string {
		if name != pod.Pod {
			return ""
		}
		return strings.TrimPrefix(pod.AdminURL, "http://")
	})
}

// replayed writes a recording to a file, reads it again, and replays it.
func replayed(ctx context.Context, exchanges []traffic.Exchange, before, after string) traffic.Report {
	GinkgoHelper()
	var file bytes.Buffer
	Expect(traffic.Write(&file, "test", exchanges)).To(Succeed())
	read, err := traffic.Read(&file)
	Expect(err).NotTo(HaveOccurred())
	subject := func(name string) traffic.Subject {
		return traffic.Subject{Name: name, Wasm: meshtest.Build(ctx, name), RootID: filters.RootID}
	}
	report, err := traffic.Replay(ctx, read, subject(before), subject(after))
	Expect(err).NotTo(HaveOccurred())
	return report
}

func header(m traffic.Message, name string) string {
	value, _ := m.Headers.Get(name)
	return value
}

var _ = Describe("A recording, with the sidecar's admin port reached directly", func() {
	It("has what client and application sent, whatever filters are between them", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		deploy(ctx, namespace, filters.Tracking, `{"tracking_header": "x-tracking"}`)
		deploy(ctx, namespace, filters.Hello, "")
		meshtest.EventuallyAnswers(ctx, pod, "world")
		before := envoyFilters(ctx, namespace)

		r := recorder(ctx, pod)
		r.Max, r.Bodies = 3, true
		done := begin(ctx, r)
		Eventually(func() int { // until the new listener is there: it records, the old one does not
			post(ctx, pod.URL+"/first?token=secret", "hello", "authorization", "Bearer secret")
			return len(done)
		}).Should(Equal(1))
		got := <-done
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.Exchanges).To(HaveLen(3))
		e := got.Exchanges[0]
		Expect(e.Request.Target()).To(Equal("POST /first?token=secret"))
		Expect(header(e.Request, "authorization")).To(Equal("Bearer secret"))
		Expect(header(e.Request, "x-tracking")).To(BeEmpty(), "a filter adds it later")
		Expect(string(bytes.Join(e.Request.Body, nil))).To(Equal("hello"))
		Expect(e.Response).NotTo(BeNil())
		Expect(header(*e.Response, "x-app")).To(Equal("tracked"), "the filter ran before the application")
		Expect(header(*e.Response, "hello")).To(BeEmpty(), "a filter adds it later")
		Expect(string(bytes.Join(e.Response.Body, nil))).To(Equal("hello"))
		Expect(e.Request.Truncated || e.Response.Truncated).To(BeFalse())

		traffic.Redact(&e)
		var file bytes.Buffer
		Expect(traffic.Write(&file, "test", []traffic.Exchange{e})).To(Succeed())
		Expect(file.String()).NotTo(ContainSubstring("secret"))
		Expect(envoyFilters(ctx, namespace)).To(Equal(before), "the taps are gone, and only they")
		meshtest.EventuallyAnswers(ctx, pod, "world")
	})

	DescribeTable("has no bodies unless they are wanted", func(ctx SpecContext, envoy string) {
		pod := meshtest.Run(ctx, theMesh, mesh.Workload{
			Namespace: meshtest.NewNamespace(ctx, admin), Name: "app", Labels: map[string]string{"app": "app"}, Port: 9080, Envoy: envoy,
		})
		r := recorder(ctx, pod)
		r.Max = 1
		done := begin(ctx, r)
		Eventually(func() int {
			post(ctx, pod.URL, "hello")
			return len(done)
		}).Should(Equal(1))
		got := <-done
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.Exchanges).To(HaveLen(1))
		Expect(got.Exchanges[0].Request.Body).To(Equal([][]byte{{}}))
		Expect(got.Exchanges[0].Request.Truncated).To(BeTrue())
		Expect(got.Exchanges[0].Response).NotTo(BeNil())
	},
		Entry("from the oldest Envoy of the tests", "1.36.4"),
		Entry("from the newest", "1.40.0"),
	)

	It("finds the one request of 1,000 that another module treats differently, and fails none of them", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		deploy(ctx, namespace, filters.Hello, "")
		meshtest.EventuallyAnswers(ctx, pod, "world")
		done := begin(ctx, recorder(ctx, pod))
		failed := 0
		for i := 0; len(done) == 0; i++ {
			headers := []string{}
			if i == 500 {
				headers = []string{"x-crash", "1"}
			}
			if post(ctx, fmt.Sprintf("%s/%d", pod.URL, i), "", headers...) != http.StatusOK {
				failed++
			}
		}
		got := <-done
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.Exchanges).To(HaveLen(1000))
		Expect(failed).To(BeZero())
		report := replayed(ctx, got.Exchanges, filters.Hello, filters.Trap)
		Expect(report.Exchanges).To(Equal(1000))
		Expect(report.Differing).To(Equal(1))
		Expect(report.Differences[0].Request).To(Equal("POST /500"))
		Expect(replayed(ctx, got.Exchanges, filters.Hello, filters.Hello).Differing).To(BeZero())
	})

	It("keeps what it has at Ctrl-C, and leaves nothing behind", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		interrupted, interrupt := context.WithCancel(ctx)
		defer interrupt()
		done := begin(interrupted, recorder(ctx, pod))
		eventuallyTapped(ctx, pod)
		postMany(ctx, pod)
		interrupt()
		var got recorded
		Eventually(done).Should(Receive(&got))
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.Exchanges).NotTo(BeEmpty())
		Expect(envoyFilters(ctx, namespace)).To(BeEmpty())
	})

	It("leaves nothing behind when it is interrupted before it begins", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		r := recorder(ctx, pod)
		interrupted, interrupt := context.WithCancel(ctx)
		interrupt()
		_, err := r.Record(interrupted)
		Expect(err).To(MatchError(context.Canceled))
		Expect(envoyFilters(ctx, namespace)).To(BeEmpty())
	})

	It("taps no other pod of the workload, and no pod twice at a time", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod, other := startPod(ctx, namespace, 0), startPod(ctx, namespace, 1)
		interrupted, interrupt := context.WithCancel(ctx)
		defer interrupt()
		done := begin(interrupted, recorder(ctx, pod))
		_, err := recorder(ctx, pod).Record(ctx)
		Expect(err).To(MatchError("someone else is tapping this pod: try again later, or record another pod with pod/NAME"))
		Expect(string(mesh.Fetch(ctx, other.AdminURL+"/config_dump?resource=dynamic_listeners"))).NotTo(ContainSubstring("wasme.record"))
		interrupt()
		Eventually(done).Should(Receive())
		Expect(envoyFilters(ctx, namespace)).To(BeEmpty())
	})

	It("has what a gateway receives", func(ctx SpecContext) {
		gateway := meshtest.Run(ctx, theMesh, mesh.Workload{
			Namespace: meshtest.NewNamespace(ctx, admin), Name: "ingress", Labels: map[string]string{"istio": "ingress"}, Port: 8080, Gateway: true,
		})
		r := recorder(ctx, gateway)
		r.Max = 1
		done := begin(ctx, r)
		Eventually(func() int {
			post(ctx, gateway.URL+"/at-the-gate", "")
			return len(done)
		}).Should(Equal(1))
		got := <-done
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.Exchanges).To(HaveLen(1))
		Expect(got.Exchanges[0].Request.Target()).To(Equal("POST /at-the-gate"))
	})

	It("ends with its time", func(ctx SpecContext) {
		pod := startPod(ctx, meshtest.NewNamespace(ctx, admin), 0)
		r := recorder(ctx, pod)
		r.For = 10 * time.Millisecond
		got, err := r.Record(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Exchanges).To(BeEmpty())
	})

	It("is a file that the command line writes, without credentials", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		deploy(ctx, namespace, filters.Hello, "")
		meshtest.EventuallyAnswers(ctx, pod, "world")
		file := filepath.Join(GinkgoT().TempDir(), "recorded.har")
		GinkgoT().Setenv("KUBECONFIG", kubeconfig(ctx, pod))
		streams, _, stdout, stderr := genericiooptions.NewTestIOStreams()
		done := make(chan int, 1)
		go func() {
			done <- cli.Run(ctx, []string{"record", "deploy/app", "-n", namespace, "--max", "2", "-o", file}, streams)
		}()
		Eventually(func() int {
			post(ctx, pod.URL+"/?token=secret", "secret", "authorization", "Bearer secret")
			return len(done)
		}).Should(Equal(1))
		Expect(<-done).To(BeZero(), stderr.String())
		Expect(stdout.String()).To(BeEmpty())
		Expect(stderr.String()).To(And(
			HavePrefix("Inserting a tap into the proxy of pod "+pod.Pod+": its connections to clients are closed as they become idle.\n"+
				"If wasme is killed before it ends, remove the tap with: kubectl delete envoyfilter -n "+namespace+" wasme-record-"),
			HaveSuffix("Recording for 30s, or until 2 requests have come; Ctrl-C ends it and keeps what was recorded.\nRecorded 2 requests in "+file+".\n"),
		))
		content, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(content)).To(ContainSubstring(traffic.Redacted))
		Expect(string(content)).NotTo(ContainSubstring("secret"))
		exchanges, err := traffic.Read(bytes.NewReader(content))
		Expect(err).NotTo(HaveOccurred())
		Expect(exchanges).To(HaveLen(2))
		Expect(envoyFilters(ctx, namespace)).To(HaveLen(1), "the filter is there, and the taps are gone")
	})

	It("is kept by the command line at Ctrl-C", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		file := filepath.Join(GinkgoT().TempDir(), "recorded.har")
		GinkgoT().Setenv("KUBECONFIG", kubeconfig(ctx, pod))
		interrupted, interrupt := context.WithCancel(ctx)
		defer interrupt()
		stderr := gbytes.NewBuffer()
		streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: io.Discard, ErrOut: stderr}
		done := make(chan int, 1)
		go func() {
			done <- cli.Run(interrupted, []string{"record", "pod/" + pod.Pod, "-n", namespace, "--for", "10m", "-o", file}, streams)
		}()
		Eventually(stderr).Should(gbytes.Say("Recording for 10m0s"))
		eventuallyTapped(ctx, pod)
		postMany(ctx, pod)
		interrupt()
		Eventually(done).Should(Receive(Equal(130)))
		Expect(stderr).To(gbytes.Say("Recorded [0-9]+ requests in "))
		content, err := os.Open(file)
		Expect(err).NotTo(HaveOccurred())
		defer content.Close()
		exchanges, err := traffic.Read(content)
		Expect(err).NotTo(HaveOccurred())
		Expect(exchanges).NotTo(BeEmpty())
		Expect(envoyFilters(ctx, namespace)).To(BeEmpty())
	})

	It("takes a ready pod of a Deployment", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		pod := startPod(ctx, namespace, 0)
		c := user(ctx, namespace)
		app := client.ObjectKey{Namespace: namespace, Name: "app"}
		found, err := tap.FindPodOf(ctx, c, app)
		Expect(err).NotTo(HaveOccurred())
		Expect(found.Name).To(Equal(pod.Pod))

		live := found.DeepCopy()
		live.Status.Conditions = nil
		Expect(admin.Status().Update(ctx, live)).To(Succeed())
		_, err = tap.FindPodOf(ctx, c, app)
		Expect(err).To(MatchError(fmt.Sprintf("Deployment app has no pod that can be recorded: pod %s is not ready: wait until it is, or choose another one with pod/NAME", pod.Pod)))
	})
})
