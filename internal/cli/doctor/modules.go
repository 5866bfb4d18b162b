package doctor

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/wasme-io/wasme-operator/internal/cli/view"
)

const (
	// ServiceCheck is about the Service that sidecars fetch modules from.
	ServiceCheck = "module server"
	answersCheck = "module server inside"
	fetchesCheck = "fetches by sidecars"
)

// ModuleServer is the address that an operator gives to sidecars.
type ModuleServer struct {
	URL string
	// Service is the one that the URL leads to; empty when its host is no name of a Service.
	Service types.NamespacedName
	Port    int32
}

// ModuleServer returns the address that the operator gives to sidecars.
func (o Operator) ModuleServer() ModuleServer {
	server := ModuleServer{URL: o.Flags["module-server-url"], Port: 80}
	if server.URL == "" {
		server.URL = DefaultServerURL
	}
	parsed, err := url.Parse(server.URL)
	if err != nil {
		return server
	}
	if parsed.Scheme == "https" {
		server.Port = 443
	}
	if port, err := strconv.ParseInt(parsed.Port(), 10, 32); err == nil {
		server.Port = int32(port)
	}
	parts := strings.Split(parsed.Hostname(), ".")
	if len(parts) >= 3 && parts[2] == "svc" {
		server.Service = types.NamespacedName{Namespace: parts[1], Name: parts[0]}
	}
	return server
}

// Endpoints judges the Service of a module server, nil when it is not there, and its
// EndpointSlices.
func (m ModuleServer) Endpoints(service *corev1.Service, slices []discoveryv1.EndpointSlice) Finding {
	fix := "apply config/manager, or set --module-server-url to the address of the module server"
	if service == nil {
		return fail(ServiceCheck, fix, "Service %s is not there, from which sidecars fetch modules", m.Service)
	}
	if !hasPort(service, m.Port) {
		return fail(ServiceCheck, fix, "Service %s has no port %d, at which sidecars fetch modules", m.Service, m.Port)
	}
	if ready := readyEndpoints(slices); ready > 0 {
		return ok(ServiceCheck, "Service %s has %s", m.Service, view.Count(ready, "Ready endpoint"))
	}
	return fail(ServiceCheck, fmt.Sprintf("look whether its selector fits the operator's pods, and whether they are Ready: kubectl get pods -n %s", m.Service.Namespace),
		"Service %s has no Ready endpoint: pods that start get no modules", m.Service)
}

func hasPort(service *corev1.Service, port int32) bool {
	return slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
}

// readyEndpoints counts addresses: one that is in slices of both families counts once, by the
// pod that it belongs to.
func readyEndpoints(all []discoveryv1.EndpointSlice) int {
	ready := map[string]bool{}
	for _, slice := range all {
		for _, endpoint := range slice.Endpoints {
			if !ptr.Deref(endpoint.Conditions.Ready, true) || len(endpoint.Addresses) == 0 {
				continue
			}
			name := endpoint.Addresses[0]
			if endpoint.TargetRef != nil {
				name = string(endpoint.TargetRef.UID)
			}
			ready[name] = true
		}
	}
	return len(ready)
}

// Answer is what a pod of the operator said through a port-forward.
type Answer struct {
	Pod string
	// Unreached says why the port-forward failed.
	Unreached error
	// Ready is what /readyz answered, and Module what the module server did; empty when that
	// is right.
	Ready, Module string
}

// Answers judges what the pods of an operator said. module names what was asked for: empty when
// nothing is served yet, and any answer will do.
func Answers(answers []Answer, module string) Finding {
	var good, unreached, bad []string
	for _, a := range answers {
		switch {
		case a.Unreached != nil:
			unreached = append(unreached, fmt.Sprintf("pod %s: %v", a.Pod, a.Unreached))
		case a.Ready != "":
			bad = append(bad, fmt.Sprintf("pod %s answers /readyz: %s", a.Pod, a.Ready))
		case a.Module != "":
			bad = append(bad, fmt.Sprintf("pod %s answers for %s: %s", a.Pod, cmp.Or(module, "what it does not have"), a.Module))
		default:
			good = append(good, a.Pod)
		}
	}
	what := "through a port-forward, the module server answers"
	if module != "" {
		what = "through a port-forward, the operator is Ready and has " + module
	}
	switch {
	case len(bad) > 0:
		return fail(answersCheck, "look at the log of that pod", "%s", some(bad))
	case len(unreached) > 0:
		return Unknown(answersCheck, "no port-forward to %s", some(unreached))
	case len(good) == 0:
		return Unknown(answersCheck, "no pod of the operator runs")
	}
	return ok(answersCheck, "%s (%s)", what, some(good))
}

// Fetches is what the agent of a sidecar counted since it started, for all Wasm modules.
type Fetches struct {
	Pod               string
	Unreached         error
	Succeeded, Failed int
}

// ParseFetches reads a sample of pilot-agent's counter of fetches, such as
//
//	istio_agent_wasm_remote_fetch_count{result="download_failure"} 1
//
// and adds it. Other lines count for nothing.
func (f *Fetches) ParseFetches(line string) {
	rest, is := strings.CutPrefix(line, `istio_agent_wasm_remote_fetch_count{result="`)
	result, value, found := strings.Cut(rest, `"} `)
	number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if !is || !found || err != nil {
		return
	}
	if result == "success" {
		f.Succeeded += int(number)
	} else {
		f.Failed += int(number)
	}
}

// SidecarFetches judges what the agents of sidecars counted.
func SidecarFetches(all []Fetches) Finding {
	const fix = "see https://github.com/wasme-io/wasme-operator/blob/main/docs/troubleshooting.md#403-on-every-request"
	var never, sometimes, unreached []string
	succeeded, asked := 0, 0
	for _, f := range all {
		switch {
		case f.Unreached != nil:
			unreached = append(unreached, fmt.Sprintf("pod %s: %v", f.Pod, f.Unreached))
			continue
		case f.Failed > 0 && f.Succeeded == 0:
			never = append(never, f.Pod)
		case f.Failed > 0:
			sometimes = append(sometimes, f.Pod)
		}
		asked++
		succeeded += f.Succeeded
	}
	switch {
	case len(never) > 0:
		return fail(fetchesCheck, fix, "the sidecars of %s could fetch no Wasm module since they started", some(never))
	case len(sometimes) > 0:
		return warn(fetchesCheck, fix, "sidecars of %s could not fetch a Wasm module at some time since they started", some(sometimes))
	case asked > 0:
		return ok(fetchesCheck, "%s asked, which fetched %s since they started; no fetch failed", view.Count(asked, "sidecar"), view.Count(succeeded, "module"))
	case len(unreached) > 0:
		return Unknown(fetchesCheck, "no port-forward to %s", some(unreached))
	}
	return Unknown(fetchesCheck, "no pod with a sidecar is selected by a FilterDeployment")
}
