package doctor

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/version"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	// IstiodCheck is about the version of istiod.
	IstiodCheck = "istiod"
	// ProxiesCheck is about the versions of sidecars.
	ProxiesCheck = "proxies"
	kindsCheck   = "kinds of Istio"
)

var (
	// oldestIstio has failure policies, and replaces a filter whose fetch failed.
	oldestIstio = version.MajorMinor(1, 25)
	// firstTrafficExtension has the kind TrafficExtension.
	firstTrafficExtension = version.MajorMinor(1, 30)
)

const updateIstio = "update Istio to 1.25 or newer"

// Istiod judges the versions of the istiods in a cluster, and returns the oldest one; nil when
// none is known.
func Istiod(deployments []appsv1.Deployment) (Finding, *version.Version) {
	if len(deployments) == 0 {
		return Unknown(IstiodCheck, "no Deployment has the label app: istiod: it may run outside of this cluster"), nil
	}
	var oldest *version.Version
	var names []string
	for i := range deployments {
		found := istiodVersion(&deployments[i])
		oldest = workload.Older(oldest, found)
		names = append(names, fmt.Sprintf("%s/%s %s", deployments[i].Namespace, deployments[i].Name, shownVersion(found)))
	}
	slices.Sort(names)
	switch {
	case oldest == nil:
		return Unknown(IstiodCheck, "%s: neither label nor image tag is a version", some(names)), nil
	case oldest.LessThan(oldestIstio):
		return fail(IstiodCheck, updateIstio, "%s: it is older than 1.25, whose proxies know no failure policy", some(names)), oldest
	}
	return ok(IstiodCheck, "%s", some(names)), oldest
}

func shownVersion(v *version.Version) string {
	if v == nil {
		return "of an unknown version"
	}
	return v.String()
}

// istiodVersion reads the labels that Istio's charts set, or else the tag of the image.
func istiodVersion(d *appsv1.Deployment) *version.Version {
	for _, label := range []string{"app.kubernetes.io/version", "operator.istio.io/version"} {
		if found, err := version.ParseGeneric(d.Labels[label]); err == nil && found.Major() == 1 {
			return found
		}
	}
	for _, container := range d.Spec.Template.Spec.Containers {
		if found := workload.IstioVersion(container.Image); found != nil {
			return found
		}
	}
	return nil
}

// Proxy is a sidecar with the version of its Istio: that of its image's tag, or the one that
// it gives itself; nil when neither says.
type Proxy struct {
	Pod     string
	Version *version.Version
}

// Proxies judges the versions of the sidecars of workloads with filters.
func Proxies(proxies []Proxy) Finding {
	versions := map[string]int{}
	var old []string
	for _, p := range proxies {
		versions[shownVersion(p.Version)]++
		if p.Version != nil && p.Version.LessThan(oldestIstio) {
			old = append(old, p.Pod)
		}
	}
	var counts []string
	for text, number := range versions {
		counts = append(counts, fmt.Sprintf("%d %s", number, text))
	}
	slices.Sort(counts)
	slices.Sort(old)
	seen := view.Count(len(proxies), "sidecar") + " with filters: " + strings.Join(counts, ", ")
	switch {
	case len(proxies) == 0:
		return Unknown(ProxiesCheck, "no pod with a sidecar is selected by a FilterDeployment")
	case len(old) > 0:
		return fail(ProxiesCheck, updateIstio+", and restart the pods", "%s: those of %s are older than 1.25 and refuse filters", seen, some(old))
	case versions[shownVersion(nil)] == len(proxies):
		return Unknown(ProxiesCheck, "%s: neither the tags of their images nor the proxies that were asked say more", seen)
	}
	return ok(ProxiesCheck, "%s", seen)
}

// Kinds judges which kinds of Istio's objects a cluster lacks, with what FilterDeployments ask
// for and the oldest istiod, nil when that is not known.
func Kinds(lacking, wanted []wasmev1.Output, oldest *version.Version) Finding {
	var needed, others []string
	for _, kind := range lacking {
		switch {
		case kind == wasmev1.OutputEnvoyFilter || slices.Contains(wanted, kind):
			needed = append(needed, string(kind))
		case kind == wasmev1.OutputWasmPlugin || oldest != nil && !oldest.LessThan(firstTrafficExtension):
			others = append(others, string(kind))
		}
	}
	const fix = "install the CRDs of Istio's version"
	switch {
	case len(needed) > 0:
		return fail(kindsCheck, fix, "the cluster has no %s, which filters need", strings.Join(needed, ", "))
	case len(others) > 0:
		return warn(kindsCheck, fix, "the cluster has no %s", strings.Join(others, ", "))
	case len(lacking) > 0:
		return ok(kindsCheck, "EnvoyFilter and WasmPlugin; TrafficExtension comes with Istio 1.30")
	}
	return ok(kindsCheck, "EnvoyFilter, WasmPlugin, TrafficExtension")
}
