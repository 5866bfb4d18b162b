// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import "fmt"

// Samples returns the workloads of one of Istio's samples by its name:
// bookinfo or httpbin.
func Samples(name string) ([]Workload, error) {
	switch name {
	case "bookinfo":
		return Bookinfo(), nil
	case "httpbin":
		return []Workload{HTTPBin()}, nil
	default:
		return nil, fmt.Errorf("no sample workloads %q: there are bookinfo and httpbin", name)
	}
}

// HTTPBin is the workload of Istio's sample of that name, serving 8080.
func HTTPBin() Workload {
	return Workload{
		Namespace: "httpbin", Name: "httpbin", Port: 8080, Service: "httpbin", ServicePort: 8000,
		Labels: map[string]string{"app": "httpbin", "version": "v1"}, NativeSidecar: true,
	}
}

// Bookinfo are the six workloads of Istio's sample of that name, each serving 9080.
func Bookinfo() []Workload {
	var all []Workload
	for _, w := range []struct{ app, version string }{
		{"details", "v1"}, {"productpage", "v1"}, {"ratings", "v1"},
		{"reviews", "v1"}, {"reviews", "v2"}, {"reviews", "v3"},
	} {
		all = append(all, Workload{
			Namespace: "bookinfo", Name: w.app + "-" + w.version, Port: 9080, Service: w.app,
			Labels: map[string]string{"app": w.app, "version": w.version},
			// Both forms of injection occur in one mesh: after an upgrade, until
			// every pod was restarted.
			NativeSidecar: len(all)%2 == 0,
		})
	}
	return all
}
