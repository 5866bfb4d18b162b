// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

// The ports of Istio's sidecars, which are the same in every pod.
const (
	statusPort  = 15021
	metricsPort = 15090
)

// plaintextCAPort is the port at which pilot-agent asks for certificates
// without a root certificate. Nobody answers: nothing here needs certificates,
// and pilot-agent says so in its log forever.
const plaintextCAPort = 15010

// agentPortAnnotation is the port of pilot-agent's status server, which serves
// its metrics; 0: there is none.
const agentPortAnnotation = "status.sidecar.istio.io/port"

// OutboundPort is where a sidecar takes the requests of its own app: send them
// to the workload's address at this port with OutboundHost as Host.
const OutboundPort = 15080

// OutboundHost is the host that every workload can reach through its sidecar,
// and to which every gateway leads: an app of the mesh's own, named echo.
const OutboundHost = "echo.mesh.internal"

// Kind of a workload object.
type Kind string

// The kinds of workload that own pods.
const (
	Deployment  Kind = "Deployment"
	DaemonSet   Kind = "DaemonSet"
	StatefulSet Kind = "StatefulSet"
)

// Workload says what to run.
type Workload struct {
	// Kind of the workload object; empty: Deployment.
	Kind Kind
	// Namespace and Name of the workload object. A namespace that is missing is created.
	Namespace, Name string
	// Labels of the pod template, and of the workload object when ObjectLabels is nil.
	Labels map[string]string
	// ObjectLabels of the workload object itself.
	ObjectLabels map[string]string
	// Port at which the pod serves HTTP.
	Port int
	// AppPort is the loopback port of an app that runs already, which answers GET /
	// with 200; 0: one of the mesh's own.
	AppPort int
	// Service that selects the pods by their label app; empty: none.
	Service string
	// ServicePort of the Service; 0: Port.
	ServicePort int
	// NativeSidecar lists istio-proxy as an init container that always restarts,
	// today's form of injection; otherwise as an ordinary container.
	NativeSidecar bool
	// Gateway makes the pod a gateway: an Envoy without an app, that leads from
	// Port to OutboundHost.
	Gateway bool
	// Replica tells the pods of one workload apart: 0 for the first.
	Replica int
	// Envoy is the version that the sidecar runs, one that hack/build/envoy pins;
	// empty: binaries.DefaultEnvoy.
	Envoy string
	// AgentMetrics has pilot-agent serve its own metrics, at a port that the pod's
	// annotation names, and at every address of the machine: it cannot be told
	// otherwise.
	AgentMetrics bool
	// Metadata replaces what the proxy reports of itself, such as its OWNER; an
	// empty value leaves it out.
	Metadata map[string]string
}

// Running is one pod of a workload: its app and its sidecar.
type Running struct {
	// Workload as it was started.
	Workload Workload
	// Pod is the name of the Pod object.
	Pod string
	// Address is the pod's own loopback address: its status.podIP.
	Address string
	// URL of the app, through the sidecar's inbound listener.
	URL string
	// OutboundURL reaches OutboundHost through the sidecar's outbound listener;
	// requests must carry that Host.
	OutboundURL string
	// StatsURL is where the sidecar's Envoy serves its metrics as Prometheus text.
	StatsURL string
	// AdminURL of the sidecar's Envoy.
	AdminURL string

	mesh      *Mesh
	appPort   int
	agentPort int // 0: none
	command   process.Command
	app       *process.Process
	sidecar   *process.Process
}

// StartWorkload creates a workload's objects, where they are missing, and one
// pod of it; it returns once the app answers through its sidecar, and removes
// the pod if it does not. Start the same workload with another Replica for another
// pod.
func (m *Mesh) StartWorkload(ctx context.Context, workload Workload) (*Running, error) {
	if workload.Kind == "" {
		workload.Kind = Deployment
	}
	r, err := m.place(workload)
	if err != nil {
		return nil, fmt.Errorf("starting %s/%s: %w", workload.Namespace, workload.Name, err)
	}
	for _, step := range []func(context.Context) error{r.startApp, r.prepareSidecar, r.createObjects, r.StartSidecar} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("starting %s/%s: %w", workload.Namespace, workload.Name, err), r.Stop(ctx))
		}
	}
	return r, nil
}

// place gives a pod its name, address and ports.
func (m *Mesh) place(workload Workload) (*Running, error) {
	address, err := m.ports.Address(workload.Port, statusPort, metricsPort, OutboundPort)
	if err != nil {
		return nil, err
	}
	appPort := workload.AppPort
	if appPort == 0 {
		if appPort, err = m.ports.Port(); err != nil {
			return nil, err
		}
	}
	adminPort, err := m.ports.Port()
	if err != nil {
		return nil, err
	}
	agentPort := 0
	if workload.AgentMetrics {
		if agentPort, err = m.ports.Port(); err != nil {
			return nil, err
		}
	}
	return &Running{
		Workload: workload, mesh: m, appPort: appPort, agentPort: agentPort, Address: address,
		Pod:         workload.podName(),
		URL:         fmt.Sprintf("http://%s:%d", address, workload.Port),
		OutboundURL: fmt.Sprintf("http://%s:%d", address, OutboundPort),
		StatsURL:    fmt.Sprintf("http://%s:%d/stats/prometheus", address, metricsPort),
		AdminURL:    fmt.Sprintf("http://127.0.0.1:%d", adminPort),
	}, nil
}

// hash stands for the pod-template-hash or controller revision.
func (w Workload) hash() string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s/%s", w.Kind, w.Namespace, w.Name)
	return fmt.Sprintf("%08x", h.Sum32())
}

func (w Workload) podName() string {
	switch w.Kind {
	case StatefulSet, DaemonSet:
		return fmt.Sprintf("%s-%d", w.Name, w.Replica)
	default:
		return fmt.Sprintf("%s-%s-%d", w.Name, w.hash(), w.Replica)
	}
}

// podLabels are the template's and, as on a real pod, one of its owner's revision.
func (w Workload) podLabels() map[string]string {
	labels := maps.Clone(w.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, w.podIdentity())
	if w.Kind == Deployment {
		labels["pod-template-hash"] = w.hash()
	}
	return labels
}

// podIdentity is a label that only this pod carries: what a Sidecar resource
// selects it by. Its key is Kubernetes' own.
func (w Workload) podIdentity() map[string]string {
	return map[string]string{"controller-uid": fmt.Sprintf("%s-%d", w.hash(), w.Replica)}
}

// proxyType is how pilot-agent introduces itself to istiod.
func (w Workload) proxyType() string {
	if w.Gateway {
		return "router"
	}
	return "sidecar"
}

// owner is the metadata that Istio's injection gives a sidecar.
func (w Workload) owner() string {
	return fmt.Sprintf("kubernetes://apis/apps/v1/namespaces/%s/%ss/%s", w.Namespace, strings.ToLower(string(w.Kind)), w.Name)
}

func (r *Running) processName(part string) string {
	return fmt.Sprintf("%s.%s.%s", part, r.Workload.Namespace, r.Pod)
}

func (r *Running) startApp(ctx context.Context) error {
	if r.Workload.Gateway || r.Workload.AppPort != 0 {
		return nil
	}
	app, err := r.mesh.startApp(ctx, r.processName("app"), r.Workload.Name, r.appPort)
	r.app = app
	return err
}

func (r *Running) prepareSidecar(ctx context.Context) error {
	agent, err := binaries.PilotAgent.Path(ctx, r.mesh.log)
	if err != nil {
		return err
	}
	envoy, err := binaries.Envoy(ctx, r.mesh.log, r.Workload.Envoy)
	if err != nil {
		return err
	}
	folder := filepath.Join(r.mesh.folder, "pods", r.Workload.Namespace+"."+r.Pod)
	template := filepath.Join(folder, "bootstrap.json")
	if err := r.mesh.bootstrapTemplate(ctx, r.Address, template); err != nil {
		return err
	}
	annotations := filepath.Join(folder, "etc", "istio", "pod", "annotations")
	if err := writeFiles(map[string][]byte{annotations: fmt.Appendf(nil, "%s=%q\n", agentPortAnnotation, strconv.Itoa(r.agentPort))}); err != nil {
		return err
	}
	env, err := r.sidecarEnv(folder, envoy)
	if err != nil {
		return err
	}
	r.command = process.Command{
		Name: r.processName("sidecar"), Path: r.mesh.part, Dir: folder, Env: env, Isolated: true, KillOnStop: true,
		Args: []string{
			"sidecar", agent, "proxy", r.Workload.proxyType(), "--domain", r.Workload.Namespace + ".svc.cluster.local",
			"--templateFile", template, "--proxyLogLevel", "warning",
		},
	}
	return nil
}

// sidecarEnv is the environment that injection gives istio-proxy. INSTANCE_IP
// must not be a loopback address: istiod would not have it. The statistics that
// show whether Envoy refused an update, which Istio leaves out, are included. The
// labels are those of the test filter telemetry.
func (r *Running) sidecarEnv(folder, envoy string) ([]string, error) {
	w := r.Workload
	labels, err := json.Marshal(w.podLabels())
	if err != nil {
		return nil, fmt.Errorf("writing the sidecar's labels: %w", err)
	}
	_, adminPort, _ := strings.Cut(strings.TrimPrefix(r.AdminURL, "http://"), ":")
	config := fmt.Sprintf(`{"binaryPath": %q, "configPath": %q, "discoveryAddress": %q, "proxyAdminPort": %s, `+
		`"concurrency": 1, "controlPlaneAuthPolicy": "NONE", "interceptionMode": "NONE", `+
		`"extraStatTags": ["reporter", "response_code"], `+
		`"proxyStatsMatcher": {"inclusionRegexps": [".*extension_config_discovery.*"]}}`,
		envoy, filepath.Join(folder, "envoy"), r.mesh.xds, adminPort)
	env := []string{
		"PROXY_CONFIG=" + config,
		"POD_NAME=" + r.Pod, "POD_NAMESPACE=" + w.Namespace, "SERVICE_ACCOUNT=default",
		"INSTANCE_IP=10" + strings.TrimPrefix(r.Address, "127"), "HOST_IP=10.0.0.1",
		fmt.Sprintf("ENVOY_STATUS_PORT=%d", statusPort), fmt.Sprintf("ENVOY_PROMETHEUS_PORT=%d", metricsPort),
		"ISTIO_META_INTERCEPTION_MODE=NONE", "ISTIO_METAJSON_LABELS=" + string(labels),
		"PILOT_CERT_PROVIDER=none", fmt.Sprintf("CA_ADDR=%s:%d", r.Address, plaintextCAPort),
	}
	for key, value := range w.metadata() {
		env = append(env, "ISTIO_META_"+key+"="+value)
	}
	return env, nil
}

// metadata is what a proxy reports of whose it is.
func (w Workload) metadata() map[string]string {
	metadata := map[string]string{"WORKLOAD_NAME": w.Name, "OWNER": w.owner(), "CLUSTER_ID": ClusterID}
	for key, value := range w.Metadata {
		if value == "" {
			delete(metadata, key)
			continue
		}
		metadata[key] = value
	}
	return metadata
}

// StartSidecar starts pilot-agent and Envoy again after StopSidecar and waits
// until the app answers through them.
func (r *Running) StartSidecar(ctx context.Context) error {
	sidecar, err := r.mesh.group.Start(r.command)
	if err != nil {
		return err
	}
	r.sidecar = sidecar
	return sidecar.WaitReady(ctx, readyTimeout, answers(r.URL))
}

// StopSidecar ends pilot-agent and Envoy at once; what pilot-agent had fetched is lost.
func (r *Running) StopSidecar() error { return r.sidecar.Kill() }

// SidecarLog is the path of what pilot-agent and Envoy have printed.
func (r *Running) SidecarLog() string { return r.sidecar.Log() }

// Stop ends the pod: its processes, its Pod object and those that tell Envoy
// where to listen. The workload object stays.
func (r *Running) Stop(ctx context.Context) error {
	failed := []error{r.end()}
	for _, object := range append([]client.Object{r.pod(nil)}, r.listeners()...) {
		if err := r.mesh.client.Delete(ctx, object, client.GracePeriodSeconds(0)); err != nil && !apierrors.IsNotFound(err) {
			failed = append(failed, fmt.Errorf("deleting %T %s: %w", object, client.ObjectKeyFromObject(object), err))
		}
	}
	return errors.Join(failed...)
}

// end ends the processes that were started.
func (r *Running) end() error {
	var failed []error
	for _, p := range []*process.Process{r.sidecar, r.app} {
		if p != nil {
			failed = append(failed, p.Stop())
		}
	}
	return errors.Join(failed...)
}
