// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package mesh runs a real Kubernetes control plane and a real Istio mesh as
// plain processes on loopback: no containers, no nodes, no root.
//
// What a kubelet, a scheduler and the workload controllers would do is done
// here: a workload's Pod object is created with its owners and set Ready, and
// beside it run an app and a sidecar (pilot-agent with Envoy) that carries the
// metadata of Istio's injection. controller-runtime's envtest stops short of
// this: it has no controller manager (so no garbage collection), and its
// processes outlive a test that is killed.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/pki"
	"github.com/wasme-io/wasme-operator/test/mesh/ports"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

const (
	readyTimeout  = time.Minute
	tokenLifetime = 24 * time.Hour
	issuer        = "https://kubernetes.default.svc.cluster.local"
	// etcdBytes is what a cluster with thousands of large objects needs; etcd's default is 2 GiB.
	etcdBytes = 16 << 30
	// probeTimeout bounds one request that asks whether something is ready.
	probeTimeout = 2 * time.Second
	// Many tests in parallel share one identity: the limits that clients set
	// themselves would only slow them down.
	clientQPS   = 1000
	clientBurst = 2000
)

// controllers are those that hold without nodes and leave pods alone: pods
// here are made by StartWorkload, not by the workload controllers.
const controllers = "garbage-collector-controller,namespace-controller,serviceaccount-controller," +
	"serviceaccount-token-controller,root-ca-certificate-publisher-controller,clusterrole-aggregation-controller," +
	"resourcequota-controller,validatingadmissionpolicy-status-controller"

// Options say where a control plane or a mesh lives.
type Options struct {
	// Folder for everything it writes: data, keys, logs, records of processes.
	// What an earlier run left there is removed. Empty: a temporary one, which
	// Stop removes.
	Folder string
	// Log receives a line for each program that is built; nil: standard error.
	Log io.Writer
	// Programs is where the programs of the control plane come from; nil: all are
	// built in their pinned versions.
	Programs *binaries.Source
	// Audited is a user whose requests the API server records in AuditLog; empty: none.
	Audited string
	// Detached processes stay when this process ends: Down(Folder) ends them.
	// Otherwise nothing is left behind, even when this process is killed.
	Detached bool
}

// ControlPlane is a running etcd, kube-apiserver and kube-controller-manager.
type ControlPlane struct {
	folder    string
	temporary bool
	log       io.Writer
	programs  *binaries.Source
	group     process.Group
	ports     ports.Pool
	audited   string
	building  sync.Mutex // one build of the operator at a time

	admin      *rest.Config
	kubeconfig string
	etcd       string // its client URL
	apiServer  *process.Process
	start      func() (*process.Process, error) // of the API server
}

// StartControlPlane starts a control plane and waits until it is ready:
// authorization by RBAC, owner references checked on admission
// (OwnerReferencesPermissionEnforcement), tokens by TokenRequest, owned objects
// garbage-collected. When it fails, nothing is left running.
func StartControlPlane(ctx context.Context, options Options) (_ *ControlPlane, err error) {
	c, err := newControlPlane(options)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.abandon())
		}
	}()
	if err := c.startAll(ctx); err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", err)
	}
	return c, nil
}

func newControlPlane(options Options) (*ControlPlane, error) {
	c := &ControlPlane{folder: options.Folder, log: options.Log, programs: options.Programs, audited: options.Audited}
	if c.log == nil {
		c.log = os.Stderr
	}
	if c.programs == nil {
		c.programs = &binaries.Source{Log: c.log}
	}
	var err error
	if c.folder == "" {
		c.temporary = true
		c.folder, err = os.MkdirTemp("", "mesh-")
	} else {
		c.folder, err = filepath.Abs(c.folder)
	}
	if err != nil {
		return nil, fmt.Errorf("choosing a folder: %w", err)
	}
	c.group = process.Group{Folder: c.folder, Detached: options.Detached}
	running, err := c.group.Running()
	if err != nil {
		return nil, err
	}
	if len(running) > 0 {
		return nil, fmt.Errorf("starting in %s: %d processes still run there; end them first", c.folder, len(running))
	}
	return c, clearFolder(c.folder)
}

// marker is a file that says that a folder is a control plane's.
const marker = "mesh"

// clearFolder removes what an earlier run left in the folder. It refuses a
// folder with other things in it.
func clearFolder(folder string) error {
	present, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking into %s: %w", folder, err)
	}
	if len(present) > 0 {
		if _, err := os.Stat(filepath.Join(folder, marker)); err != nil {
			return fmt.Errorf("starting in %s: the folder holds other things", folder)
		}
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("clearing %s: %w", folder, err)
		}
	}
	return writeFiles(map[string][]byte{filepath.Join(folder, marker): nil})
}

func (c *ControlPlane) startAll(ctx context.Context) error {
	var err error
	if c.etcd, err = c.startEtcd(ctx); err != nil {
		return err
	}
	keys, err := c.makeKeys()
	if err != nil {
		return err
	}
	if err := c.prepareAPIServer(ctx, keys); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	return c.startControllerManager(ctx, keys)
}

// startEtcd returns its client URL.
func (c *ControlPlane) startEtcd(ctx context.Context) (string, error) {
	path, err := c.programs.Path(ctx, binaries.Etcd)
	if err != nil {
		return "", err
	}
	client, peer, err := c.twoURLs()
	if err != nil {
		return "", err
	}
	etcd, err := c.group.Start(process.Command{Name: "etcd", Path: path, KillOnStop: true, Args: []string{
		"--data-dir=" + filepath.Join(c.folder, "etcd"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
		"--unsafe-no-fsync", "--log-level=warn", "--quota-backend-bytes=" + strconv.Itoa(etcdBytes),
	}})
	if err != nil {
		return "", err
	}
	return client, etcd.WaitReady(ctx, readyTimeout, answers(client+"/health"))
}

func (c *ControlPlane) twoURLs() (string, string, error) {
	first, err := c.ports.Port()
	if err != nil {
		return "", "", err
	}
	second, err := c.ports.Port()
	if err != nil {
		return "", "", err
	}
	return fmt.Sprintf("http://127.0.0.1:%d", first), fmt.Sprintf("http://127.0.0.1:%d", second), nil
}

// keys are the paths of what the control plane identifies itself with.
type keys struct {
	authority  string
	serverCert string
	serverKey  string
	tokenKey   string
	ca         *pki.Authority
}

func (c *ControlPlane) makeKeys() (keys, error) {
	ca, err := pki.NewAuthority()
	if err != nil {
		return keys{}, err
	}
	server, err := ca.Server("kube-apiserver")
	if err != nil {
		return keys{}, err
	}
	token, err := pki.TokenKey()
	if err != nil {
		return keys{}, err
	}
	folder := filepath.Join(c.folder, "pki")
	k := keys{
		ca:         ca,
		authority:  filepath.Join(folder, "ca.crt"),
		serverCert: filepath.Join(folder, "apiserver.crt"),
		serverKey:  filepath.Join(folder, "apiserver.key"),
		tokenKey:   filepath.Join(folder, "service-accounts.key"),
	}
	return k, writeFiles(map[string][]byte{
		k.authority: ca.Certificate(), k.serverCert: server.Cert, k.serverKey: server.Key, k.tokenKey: token,
	})
}

func writeFiles(files map[string][]byte) error {
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}

// prepareAPIServer decides everything that stays the same over its restarts.
func (c *ControlPlane) prepareAPIServer(ctx context.Context, k keys) error {
	path, err := c.programs.Path(ctx, binaries.APIServer)
	if err != nil {
		return err
	}
	port, err := c.ports.Port()
	if err != nil {
		return err
	}
	admin, err := k.ca.Client("mesh-admin", "system:masters")
	if err != nil {
		return err
	}
	c.admin = &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", port),
		TLSClientConfig: rest.TLSClientConfig{CAData: k.ca.Certificate(), CertData: admin.Cert, KeyData: admin.Key},
		QPS:             clientQPS,
		Burst:           clientBurst,
	}
	c.kubeconfig = filepath.Join(c.folder, "kubeconfig")
	if err := writeKubeconfig(c.kubeconfig, c.admin); err != nil {
		return err
	}
	command := process.Command{Name: "kube-apiserver", Path: path, KillOnStop: true, Args: apiServerArgs(c.folder, c.etcd, port, k)}
	if c.audited != "" {
		if err := writeFiles(map[string][]byte{c.auditPolicy(): fmt.Appendf(nil, auditPolicy, c.audited)}); err != nil {
			return err
		}
		command.Args = append(command.Args, "--audit-policy-file="+c.auditPolicy(), "--audit-log-path="+c.AuditLog(), "--audit-log-mode=blocking")
	}
	c.start = func() (*process.Process, error) { return c.group.Start(command) }
	return nil
}

func apiServerArgs(folder, etcd string, port int, k keys) []string {
	return []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir=" + filepath.Join(folder, "pki"),
		"--tls-cert-file=" + k.serverCert, "--tls-private-key-file=" + k.serverKey, "--client-ca-file=" + k.authority,
		"--authorization-mode=RBAC",
		"--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
		"--service-account-issuer=" + issuer,
		"--service-account-key-file=" + k.tokenKey, "--service-account-signing-key-file=" + k.tokenKey,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--endpoint-reconciler-type=none", // there is no address of its own to publish
		"--allow-privileged",
		"--shutdown-delay-duration=0s",
	}
}

// auditPolicy records what one user asks for, without the content.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, users: [%q]}
- {level: None}
`

func (c *ControlPlane) auditPolicy() string { return filepath.Join(c.folder, "audit-policy.yaml") }

// AuditLog is the path of the API server's record of the requests of the user
// in Options.Audited: an audit.k8s.io/v1 Event in JSON a line.
func (c *ControlPlane) AuditLog() string { return filepath.Join(c.folder, "logs", "audit.log") }

// StartAPIServer starts the API server again after StopAPIServer, at the same
// address and with the same data, and waits until it is ready.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	apiServer, err := c.start()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	c.apiServer = apiServer
	return apiServer.WaitReady(ctx, readyTimeout, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		_, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// StopAPIServer ends the API server at once, like a crash: its port refuses
// connections until StartAPIServer.
func (c *ControlPlane) StopAPIServer() error { return c.apiServer.Kill() }

// PauseAPIServer has the API server answer nothing until ResumeAPIServer.
func (c *ControlPlane) PauseAPIServer() error { return c.apiServer.Pause() }

// ResumeAPIServer has it continue.
func (c *ControlPlane) ResumeAPIServer() error { return c.apiServer.Resume() }

func (c *ControlPlane) startControllerManager(ctx context.Context, k keys) error {
	path, err := c.programs.Path(ctx, binaries.ControllerManager)
	if err != nil {
		return err
	}
	port, err := c.ports.Port()
	if err != nil {
		return err
	}
	kubeconfig, err := c.clientKubeconfig(k, "system:kube-controller-manager")
	if err != nil {
		return err
	}
	manager, err := c.group.Start(process.Command{Name: "kube-controller-manager", Path: path, KillOnStop: true, Args: []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--authorization-always-allow-paths=/healthz",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir=" + filepath.Join(c.folder, "pki", "kube-controller-manager"),
		"--leader-elect=false",
		"--use-service-account-credentials",
		"--service-account-private-key-file=" + k.tokenKey,
		"--root-ca-file=" + k.authority,
		"--controllers=" + controllers,
	}})
	if err != nil {
		return err
	}
	return manager.WaitReady(ctx, readyTimeout, c.defaultServiceAccountExists)
}

// defaultServiceAccountExists fails until the controllers have done their
// first work: pods need this account.
func (c *ControlPlane) defaultServiceAccountExists(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	_, err = client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	return err
}

// Folder is where the control plane keeps its data; logs are in its folder logs.
func (c *ControlPlane) Folder() string { return c.folder }

// Admin is a client configuration with every right.
func (c *ControlPlane) Admin() *rest.Config { return rest.CopyConfig(c.admin) }

// Kubeconfig is the path of a kubeconfig with every right.
func (c *ControlPlane) Kubeconfig() string { return c.kubeconfig }

// crdTimeout bounds how long an API server may take to serve new resources; several that
// start side by side on a small machine take longer than envtest's 10 s.
const crdTimeout = time.Minute

// InstallCRDs installs the CustomResourceDefinitions in these files or folders
// and waits until they are served.
func (c *ControlPlane) InstallCRDs(paths ...string) error {
	options := envtest.CRDInstallOptions{Paths: paths, ErrorIfPathMissing: true, MaxTime: crdTimeout}
	if _, err := envtest.InstallCRDs(c.Admin(), options); err != nil {
		return fmt.Errorf("installing CRDs: %w", err)
	}
	return nil
}

// InstallGatewayAPI installs the CRDs of the Gateway API, as Istio's own source has them: all
// of them, because an istiod that starts where some are missing is not ready.
func (c *ControlPlane) InstallGatewayAPI(ctx context.Context) error {
	path, err := binaries.IstioFile(ctx, "tests/integration/pilot/testdata/gateway-api-crd.yaml")
	if err != nil {
		return err
	}
	return c.InstallCRDs(path)
}

// Stop ends every process and removes the folder if it is a temporary one.
func (c *ControlPlane) Stop() error {
	defer c.ports.Release()
	if err := c.group.StopAll(); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	if !c.temporary {
		return nil
	}
	return os.RemoveAll(c.folder)
}

// abandon stops what a failed start leaves; its logs stay, to find the cause.
func (c *ControlPlane) abandon() error {
	defer c.ports.Release()
	return c.group.StopAll()
}

// Down ends every process of the mesh or control plane in a folder, started by
// this process or an earlier one. It may be called again.
func Down(folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return fmt.Errorf("finding %s: %w", folder, err)
	}
	return process.Group{Folder: folder}.StopAll()
}
