package upgrade

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/mesh/service"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var (
	theMesh *mesh.Mesh
	admin   client.WithWatch
	// former is the folder with the former version's source, and formerBinary its manager.
	former, formerBinary string
)

func TestUpgrade(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Upgrades")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	former = GinkgoT().TempDir()
	Expect(unpackFormer(former)).To(Succeed())
	formerBinary, err = buildFormer(ctx, former)
	Expect(err).NotTo(HaveOccurred())
	theMesh = meshtest.Start(ctx, "")
	SetDefaultEventuallyTimeout(patience)
	admin = theMesh.Client()
}, NodeTimeout(meshtest.StartTimeout))

// patience bounds each wait here. Two replicas and the sidecars of several workloads start within the first ones,
// which takes long on a loaded machine.
const patience = 5 * time.Minute

// installation is two replicas of the operator behind a Service, as config/manager runs them.
type installation struct {
	modules *service.Service
	places  []string // addresses (host:port) of module servers, and so of peers
	next    int
	running []*mesh.Operator
}

// mostReplicas is how many replicas an installation starts, one after another.
const mostReplicas = 8

// newInstallation returns one without replicas. Those that still run are stopped at the end of what calls it: of
// the container for a BeforeAll, of the spec for an It.
func newInstallation() *installation {
	GinkgoHelper()
	i := &installation{}
	for range mostReplicas {
		i.places = append(i.places, freeAddress())
	}
	var err error
	i.modules, err = service.Start(freeAddress())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		for _, replica := range slices.Clone(i.running) {
			i.stop(replica)
		}
		Expect(i.modules.Stop()).To(Succeed())
	})
	return i
}

func freeAddress() string {
	GinkgoHelper()
	address, err := theMesh.FreeAddress()
	Expect(err).NotTo(HaveOccurred())
	return address
}

// start starts a replica of a binary; of this source for an empty one.
func (i *installation) start(ctx context.Context, binary string) *mesh.Operator {
	GinkgoHelper()
	peers := make([]string, 0, len(i.places))
	for _, place := range i.places {
		peers = append(peers, "http://"+place)
	}
	replica, err := theMesh.StartOperator(ctx, mesh.OperatorOptions{
		Name: fmt.Sprint("replica-", i.next), ModuleServer: i.places[i.next], Binary: binary, Preflight: wasmev1.PreflightEnforce,
		Args: []string{
			"--leader-elect", "--image-poll-interval=2s", "--module-server-url=" + i.modules.URL(), "--peers=" + strings.Join(peers, ","),
		},
	})
	Expect(err).NotTo(HaveOccurred())
	i.next++
	i.running = append(i.running, replica)
	i.serve()
	return replica
}

// serve has sidecars sent to the replicas that run.
func (i *installation) serve() {
	var endpoints []string
	for _, replica := range i.running {
		endpoints = append(endpoints, strings.TrimPrefix(replica.ModuleServerURL, "http://"))
	}
	i.modules.SetEndpoints(endpoints...)
}

// stop ends a replica as a Deployment's controller does: it gets no requests any more before it ends.
func (i *installation) stop(replica *mesh.Operator) {
	GinkgoHelper()
	i.running = slices.DeleteFunc(i.running, func(one *mesh.Operator) bool { return one == replica })
	i.serve()
	Expect(replica.Stop()).To(Succeed())
}

// leader waits until one of the replicas leads, and returns it.
func (i *installation) leader(ctx context.Context) (leader *mesh.Operator) {
	GinkgoHelper()
	Eventually(func() bool {
		place := slices.IndexFunc(i.running, func(replica *mesh.Operator) bool { return leads(ctx, replica) })
		if place >= 0 {
			leader = i.running[place]
		}
		return place >= 0
	}).Should(BeTrue(), "a replica leads")
	return leader
}

// leads reports whether a replica holds the lease, by its own metrics.
func leads(ctx context.Context, replica *mesh.Operator) bool {
	return bytes.Contains(mesh.Fetch(ctx, replica.MetricsURL), []byte("\nleader_election_master_status{name=\"wasme-operator\"} 1\n"))
}

// replace replaces both replicas by others: first the one that follows, then the one that leads, so that the lease
// goes from one version to the other. It calls between while there is one of each.
func (i *installation) replace(ctx context.Context, binary string, between func()) {
	GinkgoHelper()
	Expect(i.running).To(HaveLen(2))
	leader := i.leader(ctx)
	follower := i.running[0]
	if follower == leader {
		follower = i.running[1]
	}
	i.start(ctx, binary)
	i.stop(follower)
	between()
	Expect(leads(ctx, leader)).To(BeTrue(), "the version that is replaced led until now")
	i.start(ctx, binary)
	i.stop(leader)
	i.leader(ctx)
}

func push(ctx context.Context) string {
	GinkgoHelper()
	reference := theMesh.Registry() + "/filters/hello:v1"
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: meshtest.Build(ctx, filters.Hello), RootIDs: []string{filters.RootID}})
	Expect(err).NotTo(HaveOccurred())
	Expect(registry.Push(ctx, reference, image)).To(Succeed())
	return reference
}

// run starts a pod of a workload whose object has the label filter.
func run(ctx context.Context, namespace, name, filter string, replica int) *mesh.Running {
	GinkgoHelper()
	return meshtest.Run(ctx, theMesh, mesh.Workload{
		Namespace: namespace, Name: name, Labels: map[string]string{"app": name}, ObjectLabels: map[string]string{"filter": filter},
		Port: 9080, Replica: replica, NativeSidecar: true, AgentMetrics: true,
	})
}

// create creates a FilterDeployment for the workloads with its name in the label filter.
func create(ctx context.Context, namespace, name, image string, output wasmev1.Output) *wasmev1.FilterDeployment {
	GinkgoHelper()
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: wasmev1.FilterDeploymentSpec{
			Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{
				Output: output, Labels: map[string]wasmev1.LabelValue{"filter": wasmev1.LabelValue(name)},
			}},
			Filter:  wasmev1.FilterSpec{Image: image, ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true}, Config: object("first")},
			Rollout: &wasmev1.RolloutSpec{BakeTime: &metav1.Duration{Duration: 2 * time.Second}},
		},
	}
	Expect(admin.Create(ctx, fd)).To(Succeed())
	return fd
}

// object is a configuration that each kind of output can carry, and answer what the filter says
// with it.
func object(value string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: []byte(answer(value))}
}

func answer(value string) string { return fmt.Sprintf(`{"value":%q}`, value) }

func configure(ctx context.Context, fd *wasmev1.FilterDeployment, value string) {
	GinkgoHelper()
	Eventually(func() error {
		now := live(ctx, fd)
		now.Spec.Filter.Config = object(value)
		return admin.Update(ctx, now)
	}).Should(Succeed())
}

func live(ctx context.Context, fd *wasmev1.FilterDeployment) *wasmev1.FilterDeployment {
	GinkgoHelper()
	var now wasmev1.FilterDeployment
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &now)).To(Succeed())
	return &now
}

// condition is the status of one of the newest spec; empty: there is none.
func condition(ctx context.Context, fd *wasmev1.FilterDeployment, name string) func() string {
	return func() string {
		now := live(ctx, fd)
		found := apimeta.FindStatusCondition(now.Status.Conditions, name)
		if found == nil || found.ObservedGeneration != now.Generation {
			return ""
		}
		return string(found.Status)
	}
}

// What is reported helps to see why a spec has failed.
var _ = AfterEach(func(ctx SpecContext) {
	if CurrentSpecReport().Failed() {
		status, err := theMesh.Kubectl(ctx, "get", "filterdeployments", "-A", "-o", "yaml")
		GinkgoWriter.Println(status, err)
	}
})
