// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	istionetworking "istio.io/api/networking/v1alpha3"
	istiosecurity "istio.io/api/security/v1beta1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

// RootNamespace is the mesh's root namespace, in which istiod runs.
const RootNamespace = "istio-system"

// ClusterID is the name that istiod and every sidecar give this cluster:
// Istio's default.
const ClusterID = "Kubernetes"

// Revision is that of istiod, which Istio's charts give to every istiod that has
// no other.
const Revision = "default"

// meshConfig keeps istiod from what an Envoy without Istio's own extensions,
// or without certificates, cannot do.
const meshConfig = `enableAutoMtls: false
rootNamespace: ` + RootNamespace + `
defaultProviders: {}
`

// DefaultFolder is that of a mesh started by hand: one per user and machine.
func DefaultFolder() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("wasme-mesh-%d", os.Getuid()))
}

// Mesh is a control plane with Istio's CRDs, an istiod and a registry. Its
// methods may be called concurrently, save those that stop or start istiod.
type Mesh struct {
	*ControlPlane

	client   client.WithWatch
	part     string // path of the harness's own program
	registry string
	xds      string // istiod's host:port for sidecars
	istiod   *process.Process
	run      func() (*process.Process, error) // starts istiod
	ready    string                           // URL that answers 200 when istiod is ready
	echo     int                              // port of the app that stands for OutboundHost
}

// Start starts a mesh and waits until istiod is ready. When it fails, nothing
// is left running.
func Start(ctx context.Context, options Options) (_ *Mesh, err error) {
	c, err := StartControlPlane(ctx, options)
	if err != nil {
		return nil, err
	}
	m := &Mesh{ControlPlane: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.abandon())
		}
	}()
	for _, step := range []func(context.Context) error{m.startOwn, m.installIstio, m.prepareIstiod, m.StartIstiod} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("starting the mesh: %w", err)
		}
	}
	return m, nil
}

// Client is a client with every right, for the types of Scheme.
func (m *Mesh) Client() client.WithWatch { return m.client }

// Registry is the host:port of an OCI registry, over plain http, without
// credentials and empty at the start.
func (m *Mesh) Registry() string { return m.registry }

// startOwn starts what the harness itself provides: the registry, and the app
// that every workload can reach through its sidecar or gateway.
func (m *Mesh) startOwn(ctx context.Context) error {
	m.part = filepath.Join(m.folder, "meshpart")
	if err := binaries.Own(ctx, "./test/mesh/cmd/meshpart", m.part); err != nil {
		return err
	}
	address, err := m.localAddress()
	if err != nil {
		return err
	}
	m.registry = address
	registry, err := m.group.Start(process.Command{
		Name: "registry", Path: m.part, Args: []string{"registry", "--address", address}, KillOnStop: true,
	})
	if err != nil {
		return err
	}
	if m.echo, err = m.ports.Port(); err != nil {
		return err
	}
	if _, err := m.startApp(ctx, "echo", "echo", m.echo); err != nil {
		return err
	}
	return registry.WaitReady(ctx, readyTimeout, answers("http://"+address+"/v2/"))
}

// startApp starts an app under the name of its process; it answers with its own name.
func (m *Mesh) startApp(ctx context.Context, as, name string, port int) (*process.Process, error) {
	address := fmt.Sprintf("127.0.0.1:%d", port)
	app, err := m.group.Start(process.Command{
		Name: as, Path: m.part, Args: []string{"app", "--address", address, "--name", name}, KillOnStop: true,
	})
	if err != nil {
		return nil, err
	}
	return app, app.WaitReady(ctx, readyTimeout, answers("http://"+address))
}

func (c *ControlPlane) localAddress() (string, error) {
	port, err := c.ports.Port()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("127.0.0.1:%d", port), nil
}

func (m *Mesh) installIstio(ctx context.Context) error {
	// Built first: that downloads the source in which the CRDs are.
	if _, err := binaries.Istiod.Path(ctx, m.log); err != nil {
		return err
	}
	crds, err := binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
	if err != nil {
		return err
	}
	if err := m.InstallCRDs(crds); err != nil {
		return err
	}
	if m.client, err = NewClient(m.Admin()); err != nil {
		return err
	}
	return m.createMissing(ctx, m.meshWideObjects()...)
}

// meshWideObjects switch certificates off, which are not issued here, and keep
// a sidecar whose own Sidecar resource istiod has not seen yet from listening
// for every service there is. OutboundHost is the one service that can be
// reached: an EndpointSlice may not name loopback addresses, a ServiceEntry may.
func (m *Mesh) meshWideObjects() []client.Object {
	meta := metav1.ObjectMeta{Namespace: RootNamespace, Name: "default"}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: RootNamespace}},
		&securityv1.PeerAuthentication{ObjectMeta: meta, Spec: istiosecurity.PeerAuthentication{
			Mtls: &istiosecurity.PeerAuthentication_MutualTLS{Mode: istiosecurity.PeerAuthentication_MutualTLS_DISABLE},
		}},
		&networkingv1.Sidecar{ObjectMeta: meta, Spec: istionetworking.Sidecar{
			Egress: []*istionetworking.IstioEgressListener{{Hosts: []string{"~/*"}}},
		}},
		&networkingv1.ServiceEntry{
			ObjectMeta: metav1.ObjectMeta{Namespace: RootNamespace, Name: "echo"},
			Spec: istionetworking.ServiceEntry{
				Hosts:      []string{OutboundHost},
				Location:   istionetworking.ServiceEntry_MESH_EXTERNAL,
				Resolution: istionetworking.ServiceEntry_STATIC,
				Ports:      []*istionetworking.ServicePort{{Number: OutboundPort, Protocol: "HTTP", Name: "http", TargetPort: uint32(m.echo)}},
				Endpoints:  []*istionetworking.WorkloadEntry{{Address: "127.0.0.1"}},
			},
		},
	}
}

// createMissing creates objects in this order; those that exist stay as they are.
func (m *Mesh) createMissing(ctx context.Context, objects ...client.Object) error {
	for _, object := range objects {
		if err := m.client.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating %T %s: %w", object, client.ObjectKeyFromObject(object), err)
		}
	}
	return nil
}

// prepareIstiod decides everything that stays the same over its restarts.
func (m *Mesh) prepareIstiod(ctx context.Context) error {
	path, err := binaries.Istiod.Path(ctx, m.log)
	if err != nil {
		return err
	}
	config := filepath.Join(m.folder, "mesh.yaml")
	if err := writeFiles(map[string][]byte{config: []byte(meshConfig)}); err != nil {
		return err
	}
	addresses := make([]string, 3)
	for i := range addresses {
		if addresses[i], err = m.localAddress(); err != nil {
			return err
		}
	}
	m.xds, m.ready = addresses[0], "http://"+addresses[1]+"/ready"
	command := process.Command{
		Name: "istiod", Path: path, KillOnStop: true, Dir: m.folder,
		Args: []string{
			"discovery", "--kubeconfig=" + m.kubeconfig, "--meshConfig=" + config,
			"--grpcAddr=" + addresses[0], "--httpAddr=" + addresses[1], "--monitoringAddr=" + addresses[2],
			"--secureGRPCAddr=", "--httpsAddr=", "--ctrlz_port=0",
		},
		Env: []string{
			"POD_NAMESPACE=" + RootNamespace, "CLUSTER_ID=" + ClusterID, "REVISION=" + Revision,
			"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_CERT_PROVIDER=none",
			"ENABLE_CA_SERVER=false", "INJECT_ENABLED=false",
		},
	}
	m.run = func() (*process.Process, error) { return m.group.Start(command) }
	return nil
}

// StartIstiod starts istiod again after StopIstiod, at the same address, and
// waits until it is ready. Sidecars connect again by themselves.
func (m *Mesh) StartIstiod(ctx context.Context) error {
	istiod, err := m.run()
	if err != nil {
		return err
	}
	m.istiod = istiod
	return istiod.WaitReady(ctx, readyTimeout, answers(m.ready))
}

// StopIstiod ends istiod at once, like a crash. Sidecars keep what they have.
func (m *Mesh) StopIstiod() error { return m.istiod.Kill() }

// PauseIstiod has istiod do nothing until ResumeIstiod.
func (m *Mesh) PauseIstiod() error { return m.istiod.Pause() }

// ResumeIstiod has it continue.
func (m *Mesh) ResumeIstiod() error { return m.istiod.Resume() }

// bootstrapTemplate writes Istio's template for Envoy's bootstrap with one
// change: Envoy's own listeners open at the workload's address instead of at
// every address of the machine.
func (m *Mesh) bootstrapTemplate(ctx context.Context, address, target string) error {
	source, err := binaries.IstioFile(ctx, "tools/packaging/common/envoy_bootstrap.json")
	if err != nil {
		return err
	}
	content, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("reading the bootstrap template: %w", err)
	}
	return writeFiles(map[string][]byte{target: []byte(strings.ReplaceAll(string(content), "{{ .wildcard }}", address))})
}
