package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	// OperatorCheck is about the operator's pods.
	OperatorCheck = "operator"
	// PredecessorCheck is about the operator of solo-io's wasme.
	PredecessorCheck = "wasme's operator"
	// MeshCheck is about the operator's place outside of the mesh.
	MeshCheck = "outside the mesh"
)

// Operator is an installation: a Deployment or, with config/storage, a StatefulSet.
type Operator struct {
	Kind, Namespace, Name string
	// Asked and Ready count replicas.
	Asked, Ready int32
	Pods         corev1.PodTemplateSpec
	// Flags are those of its container, by name.
	Flags map[string]string
}

// Title names the installation: it is the only one in most clusters.
func (o Operator) Title() string { return o.Namespace + "/" + o.Name }

// Container is the one of the operator itself.
func (o Operator) Container() corev1.Container {
	containers := o.Pods.Spec.Containers
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == "manager" })
	if len(containers) == 0 {
		return corev1.Container{}
	}
	return containers[max(i, 0)]
}

// Account is the name of its ServiceAccount.
func (o Operator) Account() string { return cmp.Or(o.Pods.Spec.ServiceAccountName, "default") }

// User is its account as a user of the API server.
func (o Operator) User() string { return "system:serviceaccount:" + o.Namespace + ":" + o.Account() }

// LooksAfter reports whether a FilterDeployment is this operator's.
func (o Operator) LooksAfter(fd *wasmev1.FilterDeployment) bool {
	watched := o.Watched()
	return fd.Labels[wasmev1.ClassLabel] == o.Flags["class"] && (len(watched) == 0 || slices.Contains(watched, fd.Namespace))
}

// Watched are the namespaces that it looks after; none means all.
func (o Operator) Watched() []string { return splitList(o.Flags["watch-namespaces"]) }

func splitList(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// The operator's own defaults (docs/flags.md).
const (
	defaultModulePort = 8082
	defaultHealthPort = 8081
	DefaultServerURL  = "http://wasme-modules.wasme-system.svc.cluster.local"
	DefaultClusterID  = "Kubernetes"
	defaultPreflight  = "Enforce"
)

// ModulePort is where its pods serve modules.
func (o Operator) ModulePort() int32 {
	return portOf(o.Flags["module-server-bind-address"], defaultModulePort)
}

// HealthPort is where its pods answer /readyz.
func (o Operator) HealthPort() int32 {
	return portOf(o.Flags["health-probe-bind-address"], defaultHealthPort)
}

func portOf(address string, otherwise int32) int32 {
	_, text, _ := strings.Cut(address[strings.LastIndex(address, "]")+1:], ":")
	if port, err := strconv.ParseInt(text, 10, 32); err == nil {
		return int32(port)
	}
	return otherwise
}

// NoOperator is the finding for a cluster without any.
func NoOperator() Finding {
	return fail(OperatorCheck, "install it with kubectl apply -k config/default",
		"no Deployment or StatefulSet has the label app.kubernetes.io/name: wasme-operator")
}

// Replicas judges the pods of an operator, and shows what it runs with.
func (o Operator) Replicas() Finding {
	look := fmt.Sprintf("look at kubectl describe pods -n %s -l app.kubernetes.io/name=wasme-operator", o.Namespace)
	what := fmt.Sprintf("%s %s", o.Kind, o.Title())
	switch {
	case o.Asked == 0:
		return fail(OperatorCheck, fmt.Sprintf("kubectl scale -n %s %s %s --replicas=2", o.Namespace, strings.ToLower(o.Kind), o.Name),
			"%s has 0 replicas: pods that start get no modules", what)
	case o.Ready == 0:
		return fail(OperatorCheck, look, "%s: none of its %s is Ready: pods that start get no modules", what, view.Count(int(o.Asked), "replica"))
	case o.Ready < o.Asked:
		return warn(OperatorCheck, look, "%s: %d of %d replicas are Ready", what, o.Ready, o.Asked)
	}
	return ok(OperatorCheck, "%s: %d of %d replicas are Ready, image %s", what, o.Ready, o.Asked, o.Container().Image)
}

// Settings shows the flags that decide what an operator sees and refuses.
func (o Operator) Settings() Finding {
	check := "flags of " + o.Title()
	text := fmt.Sprintf("--cluster-id=%s --preflight=%s", cmp.Or(o.Flags["cluster-id"], DefaultClusterID), cmp.Or(o.Flags["preflight"], defaultPreflight))
	if class := o.Flags["class"]; class != "" {
		text += " --class=" + class
	}
	if watched := o.Watched(); len(watched) > 0 {
		text += " --watch-namespaces=" + strings.Join(watched, ",")
	}
	if o.Flags["verify-pods"] == "false" {
		return warn(check, "remove that flag where the operator can reach the metrics ports of sidecars",
			"%s --verify-pods=false: nobody asks pods whether they run their filters, and rollouts are not staged", text)
	}
	return ok(check, "%s --verify-pods", text)
}

// Elects reports whether its replicas choose a leader.
func (o Operator) Elects() bool {
	value, given := o.Flags["leader-elect"]
	return given && value != "false"
}

// LeaseNamespace is where its leader's Lease is.
func (o Operator) LeaseNamespace() string {
	return cmp.Or(o.Flags["leader-election-namespace"], o.Namespace)
}

// LeaseName is the name of its leader's Lease.
func (o Operator) LeaseName() string { return ownership.ManagedBy(o.Flags["class"]) }

// LeaderCheck names the check of the leader among an operator's replicas.
func (o Operator) LeaderCheck() string { return "leader of " + o.Title() }

// WithoutElection judges an operator whose replicas choose no leader.
func (o Operator) WithoutElection() Finding {
	if o.Asked > 1 {
		return fail(o.LeaderCheck(), "add the flag --leader-elect", "%d replicas reconcile at once", o.Asked)
	}
	return ok(o.LeaderCheck(), "one replica, which needs no election")
}

// Lease judges the Lease of an operator's leader, nil when it is not there, at a time of the
// API server's clock. renewed says that it was renewed while someone looked, so that a time
// that does not fit is the fault of a clock.
func (o Operator) Lease(lease *coordinationv1.Lease, now time.Time, renewed bool) Finding {
	logs := fmt.Sprintf("look at kubectl logs -n %s -l app.kubernetes.io/name=wasme-operator --tail=-1", o.Namespace)
	if lease == nil || ptr.Deref(lease.Spec.HolderIdentity, "") == "" || lease.Spec.RenewTime == nil {
		return fail(o.LeaderCheck(), logs, "no replica leads: nothing acts on changes of FilterDeployments")
	}
	holder, age := *lease.Spec.HolderIdentity, now.Sub(lease.Spec.RenewTime.Time)
	fresh := IsFresh(lease, now)
	switch {
	case !fresh && renewed:
		return warn(o.LeaderCheck(), "synchronise that node's clock by NTP",
			"the clock of %s is %v %s the API server's", holder, age.Abs().Round(time.Second), aheadOrBehind(-age))
	case !fresh:
		return fail(o.LeaderCheck(), logs, "%s has not renewed its lease for %v: nothing acts on changes of FilterDeployments", holder, age.Round(time.Second))
	}
	return ok(o.LeaderCheck(), "%s, renewed %v ago", holder, max(age, 0).Round(time.Second))
}

// leaseTime is how long the operator's leases hold (cmd/manager).
const leaseTime = 12 * time.Second

// LeaseTime is how long a Lease holds.
func LeaseTime(lease *coordinationv1.Lease) time.Duration {
	if seconds := ptr.Deref(lease.Spec.LeaseDurationSeconds, 0); seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return leaseTime
}

// IsFresh reports whether a Lease was renewed at a time that fits the API server's clock.
func IsFresh(lease *coordinationv1.Lease, now time.Time) bool {
	if lease.Spec.RenewTime == nil {
		return false
	}
	age := now.Sub(lease.Spec.RenewTime.Time)
	return age <= LeaseTime(lease) && age >= -maxOffset
}

// Predecessor judges which Deployments are those of solo-io's wasme that run.
func Predecessor(deployments []appsv1.Deployment) Finding {
	for i := range deployments {
		if d := &deployments[i]; legacy.IsRunning(d) {
			return fail(PredecessorCheck, fmt.Sprintf("kubectl scale -n %s deployment %s --replicas=0", d.Namespace, d.Name),
				"Deployment %s/%s is the operator of solo-io's wasme, which changes the same FilterDeployments", d.Namespace, d.Name)
		}
	}
	return ok(PredecessorCheck, "none of solo-io's wasme runs")
}

// What brings pods into a mesh, or keeps them out of it.
const (
	injectionLabel = "istio-injection"
	revisionLabel  = "istio.io/rev"
	injectLabel    = "sidecar.istio.io/inject"
	ambientLabel   = "istio.io/dataplane-mode"
)

// OutsideMesh judges whether the pods of an operator are outside of the mesh. Proxies that
// start fetch modules before they have any certificate.
func (o Operator) OutsideMesh(namespaceLabels map[string]string, pods []corev1.Pod) Finding {
	fix := fmt.Sprintf("label its namespace and pods as config/manager does, and restart them: kubectl label namespace %s istio-injection=disabled istio.io/dataplane-mode=none --overwrite", o.Namespace)
	for i := range pods {
		if workload.Sidecar(&pods[i]) != nil {
			return fail(MeshCheck, fix, "pod %s/%s has a sidecar: proxies that start cannot fetch modules", o.Namespace, pods[i].Name)
		}
	}
	labels := o.Pods.Labels
	injected := namespaceLabels[injectionLabel] == "enabled" || namespaceLabels[revisionLabel] != ""
	switch {
	case cmp.Or(labels[ambientLabel], namespaceLabels[ambientLabel]) == "ambient":
		return fail(MeshCheck, fix, "the pods of %s are in the ambient mesh: proxies that start cannot fetch modules", o.Title())
	case injected && labels[injectLabel] != "false", namespaceLabels[injectionLabel] != "disabled" && labels[injectLabel] == "true":
		return fail(MeshCheck, fix, "the pods of %s get a sidecar when they start: proxies cannot fetch modules then", o.Title())
	case namespaceLabels[injectionLabel] != "disabled" && labels[injectLabel] != "false":
		return warn(MeshCheck, fix, "nothing keeps sidecars out of namespace %s, if Istio injects them by default", o.Namespace)
	}
	return ok(MeshCheck, "the pods of %s have no sidecar and are not in the ambient mesh", o.Title())
}
