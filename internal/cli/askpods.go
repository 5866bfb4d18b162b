package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic/tap"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// What follows asks pods through port-forwards, with the right of the user to create them.

const (
	// podTime bounds what a pod may take. The module server holds a request for 2 s.
	podTime = 10 * time.Second
	// maxSidecars is how many sidecars are asked.
	maxSidecars = 8
	// maxPage bounds what is read of a sidecar's page; those of large applications have a few
	// megabytes.
	maxPage = 16 << 20
)

// forward returns the URL that leads to a port of a pod until the context ends.
func (e *examiner) forward(ctx context.Context, pod *corev1.Pod, port int) (string, error) {
	right := doctor.Right{Verb: "create", Resource: "pods/portforward", Namespace: pod.Namespace}
	lacks, err := e.lacks(ctx, right, "")
	if err == nil && lacks {
		err = &doctor.MissingRight{Right: right}
	}
	if err != nil {
		return "", err
	}
	address, err := e.ports.Forward(ctx, client.ObjectKeyFromObject(pod), port)
	return "http://" + address, err
}

// askOperator asks the pods of an operator whether they are Ready, and for a module of a
// FilterDeployment, which it names.
func (e *examiner) askOperator(ctx context.Context, o doctor.Operator, pods []corev1.Pod, filters []wasmev1.FilterDeployment) (answers []doctor.Answer, asked string) {
	path, want := "/", http.StatusNotFound
	if fd := servedFilter(filters); fd != nil {
		path, want = module.Path(fd.Status.Module.SHA256), http.StatusOK
		asked = fmt.Sprintf("the module of FilterDeployment %s/%s", fd.Namespace, fd.Name)
	}
	pods = slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning })
	answers = make([]doctor.Answer, len(pods))
	var asking errgroup.Group
	asking.SetLimit(askedAtOnce)
	for i := range pods {
		asking.Go(func() error {
			answers[i] = e.askReplica(ctx, &pods[i], o, path, want)
			return nil
		})
	}
	_ = asking.Wait() // each answer has its own error
	return answers, asked
}

// servedFilter returns a FilterDeployment whose module the operator serves; nil when there is
// none.
func servedFilter(filters []wasmev1.FilterDeployment) *wasmev1.FilterDeployment {
	for i := range filters {
		fd := &filters[i]
		if fd.Status.Module != nil && fd.Status.Module.SHA256 != "" && fd.Status.Revision != "" && workload.IstioSpec(fd).Distribution != wasmev1.DistributionRegistry {
			return fd
		}
	}
	return nil
}

func (e *examiner) askReplica(ctx context.Context, pod *corev1.Pod, o doctor.Operator, path string, want int) doctor.Answer {
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	answer := doctor.Answer{Pod: nameOf(pod)}
	health, err := e.forward(ctx, pod, int(o.HealthPort()))
	if err != nil {
		answer.Unreached = err
		return answer
	}
	modules, err := e.forward(ctx, pod, int(o.ModulePort()))
	if err != nil {
		answer.Unreached = err
		return answer
	}
	answer.Ready, answer.Module = unexpected(ctx, health+"/readyz", http.StatusOK), unexpected(ctx, modules+path, want)
	return answer
}

// unexpected returns what came in place of a status; empty when that came.
func unexpected(ctx context.Context, url string, want int) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, http.NoBody)
	if err != nil {
		return err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	switch {
	case err != nil:
		return "no answer: " + errors.Unwrap(err).Error() // without the URL, which is this machine's
	case response.Body.Close() != nil, response.StatusCode != want:
		return response.Status
	}
	return ""
}

// sidecars judges the versions of sidecars, and asks some what they could fetch.
func (e *examiner) sidecars(ctx context.Context, pods []*corev1.Pod) {
	proxies := make([]doctor.Proxy, len(pods))
	for i, pod := range pods {
		proxies[i] = doctor.Proxy{Pod: nameOf(pod), Version: workload.IstioVersion(workload.Sidecar(pod).Image)}
	}
	step := max(1, (len(pods)+maxSidecars-1)/maxSidecars)
	fetches := make([]doctor.Fetches, (len(pods)+step-1)/step)
	var asking errgroup.Group
	for i := range fetches {
		asking.Go(func() error {
			fetches[i] = e.askAgent(ctx, pods[i*step])
			if proxy := &proxies[i*step]; proxy.Version == nil && fetches[i].Unreached == nil {
				proxy.Version = e.askVersion(ctx, pods[i*step])
			}
			return nil
		})
	}
	_ = asking.Wait() // each answer has its own error
	e.add(doctor.Proxies(proxies), doctor.SidecarFetches(fetches))
}

// askAgent asks the pilot-agent of a pod, whose page has Envoy's metrics and those of the
// application, too.
func (e *examiner) askAgent(ctx context.Context, pod *corev1.Pod) doctor.Fetches {
	found := doctor.Fetches{Pod: nameOf(pod)}
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	page, err := e.page(ctx, pod, agentPort(pod), "/stats/prometheus")
	if err != nil {
		found.Unreached = err
		return found
	}
	defer page.Close()
	lines := bufio.NewScanner(io.LimitReader(page, maxPage))
	for lines.Scan() {
		found.ParseFetches(lines.Text())
	}
	found.Unreached = lines.Err()
	return found
}

// agentPort is where the pilot-agent of a pod serves metrics.
func agentPort(pod *corev1.Pod) int {
	if port, err := strconv.Atoi(pod.Annotations[workload.AgentPortAnnotation]); err == nil {
		return port
	}
	return dataplane.DefaultAgentPort
}

// askVersion asks a sidecar which Istio it is of; nil when it does not say.
func (e *examiner) askVersion(ctx context.Context, pod *corev1.Pod) *version.Version {
	ctx, cancel := context.WithTimeout(ctx, podTime)
	defer cancel()
	page, err := e.page(ctx, pod, tap.AdminPort, "/server_info")
	if err != nil {
		return nil
	}
	defer page.Close()
	var info struct {
		Node struct {
			Metadata struct {
				Version string `json:"ISTIO_VERSION"`
			} `json:"metadata"`
		} `json:"node"`
	}
	if err := json.NewDecoder(io.LimitReader(page, maxPage)).Decode(&info); err != nil {
		return nil
	}
	found, _ := version.ParseGeneric(info.Node.Metadata.Version) // builds of one's own have none
	return found
}

func (e *examiner) page(ctx context.Context, pod *corev1.Pod, port int, path string) (io.ReadCloser, error) {
	url, err := e.forward(ctx, pod, port)
	if err != nil {
		return nil, err
	}
	return get(ctx, url+path)
}
