package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// NetworkCheck is about NetworkPolicies between sidecars and the module server.
const NetworkCheck = "NetworkPolicies"

// End is one end of a connection, as NetworkPolicies see it.
type End struct {
	Namespace       string
	NamespaceLabels map[string]string
	Labels          map[string]string
	// Address of the pod; the zero value when it is not known.
	Address netip.Addr
	// HostNetwork says that it has the node's address: no policy selects it, and no selector
	// admits it.
	HostNetwork bool
}

// EndOf returns a pod as an end of connections.
func EndOf(pod *corev1.Pod, namespaceLabels map[string]string) End {
	address, _ := netip.ParseAddr(pod.Status.PodIP) // without one, no block of addresses admits it
	return End{pod.Namespace, namespaceLabels, pod.Labels, address, pod.Spec.HostNetwork}
}

// Port is a TCP port of a pod.
type Port struct {
	Number int32
	// Name that the pod's containers give it, if any.
	Name string
}

// ServedPort is the port of an operator's module server.
func (o Operator) ServedPort() Port {
	port := Port{Number: o.ModulePort()}
	for _, p := range o.Container().Ports {
		if p.ContainerPort == port.Number {
			port.Name = p.Name
		}
	}
	return port
}

// Network judges whether NetworkPolicies let sidecars fetch modules: those of the operator's
// namespace, ingress, and those of each workload's, egress. policies are by namespace. Ends of
// workloads whose namespace is not in there are judged as far as the operator's policies go.
func Network(policies map[string][]networkingv1.NetworkPolicy, operator End, port Port, workloads []End) []Finding {
	if len(workloads) == 0 {
		return []Finding{Unknown(NetworkCheck, "no pod with a sidecar is selected by a FilterDeployment")}
	}
	shut := map[string][]string{}
	for _, end := range workloads {
		if by := blocking(policies[operator.Namespace], networkingv1.PolicyTypeIngress, operator, end, port); by != nil {
			shut[end.Namespace] = append(shut[end.Namespace], ingressText(by, end.Namespace, port))
		}
		if by := blocking(policies[end.Namespace], networkingv1.PolicyTypeEgress, end, operator, port); by != nil {
			shut[end.Namespace] = append(shut[end.Namespace], egressText(by, end.Namespace, port))
		}
	}
	if len(shut) == 0 {
		return []Finding{ok(NetworkCheck, "none keeps sidecars with filters from port %d of the operator's pods; policies of other kinds (of Calico, Cilium, for the whole cluster) were not looked at", port.Number)}
	}
	var findings []Finding
	for _, namespace := range slices.Sorted(maps.Keys(shut)) {
		slices.Sort(shut[namespace])
		for _, text := range slices.Compact(shut[namespace]) {
			findings = append(findings, fail(NetworkCheck, "allow it as in docs/getting-started.md#networkpolicies; until then, pods that start deny every request", "%s", text))
		}
	}
	return findings
}

func ingressText(by []string, namespace string, port Port) string {
	return fmt.Sprintf("NetworkPolicy %s does not admit pods of namespace %s to port %d of the operator's pods", some(by), namespace, port.Number)
}

func egressText(by []string, namespace string, port Port) string {
	return fmt.Sprintf("NetworkPolicy %s does not let pods of namespace %s reach port %d of the operator's pods", some(by), namespace, port.Number)
}

// blocking returns the policies that select an end for a direction, when none of them allows
// the other end; nil when the connection is allowed. The port is that of the operator.
func blocking(policies []networkingv1.NetworkPolicy, direction networkingv1.PolicyType, selected, other End, port Port) []string {
	var by []string
	for i := range policies {
		policy := &policies[i]
		if selected.HostNetwork || !applies(policy, direction) || !matches(&policy.Spec.PodSelector, selected.Labels) {
			continue
		}
		if allows(policy, direction, other, port) {
			return nil
		}
		by = append(by, policy.Namespace+"/"+policy.Name)
	}
	slices.Sort(by)
	return by
}

// applies reports whether a policy is about a direction: without types, it is about ingress,
// and about egress if it has rules for it.
func applies(policy *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) bool {
	if len(policy.Spec.PolicyTypes) > 0 {
		return slices.Contains(policy.Spec.PolicyTypes, direction)
	}
	return direction == networkingv1.PolicyTypeIngress || len(policy.Spec.Egress) > 0
}

func allows(policy *networkingv1.NetworkPolicy, direction networkingv1.PolicyType, other End, port Port) bool {
	admits := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) bool {
		return (len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return isPeer(p, policy.Namespace, other) })) &&
			(len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return isPort(p, port) }))
	}
	if direction == networkingv1.PolicyTypeIngress {
		return slices.ContainsFunc(policy.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return admits(r.From, r.Ports) })
	}
	return slices.ContainsFunc(policy.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return admits(r.To, r.Ports) })
}

func isPeer(peer networkingv1.NetworkPolicyPeer, namespace string, end End) bool {
	if peer.IPBlock != nil {
		return inBlock(peer.IPBlock, end.Address)
	}
	if end.HostNetwork {
		return false
	}
	if peer.NamespaceSelector == nil && end.Namespace != namespace || peer.NamespaceSelector != nil && !matches(peer.NamespaceSelector, end.NamespaceLabels) {
		return false
	}
	return peer.PodSelector == nil || matches(peer.PodSelector, end.Labels)
}

func inBlock(block *networkingv1.IPBlock, address netip.Addr) bool {
	contains := func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Contains(address)
	}
	return contains(block.CIDR) && !slices.ContainsFunc(block.Except, contains)
}

func isPort(allowed networkingv1.NetworkPolicyPort, port Port) bool {
	switch {
	case ptr.Deref(allowed.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP:
		return false
	case allowed.Port == nil:
		return true
	case allowed.Port.Type == intstr.String:
		return allowed.Port.StrVal == port.Name
	}
	return port.Number >= allowed.Port.IntVal && port.Number <= ptr.Deref(allowed.EndPort, allowed.Port.IntVal)
}

// matches reports whether a selector that the API server has admitted selects a set of labels.
func matches(selector *metav1.LabelSelector, set map[string]string) bool {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(labels.Set(set))
}
