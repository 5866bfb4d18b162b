package doctor

import (
	"net/netip"
	"testing"

	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

func nameIn(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func typesUID(text string) types.UID { return types.UID(text) }

// policyIn returns a NetworkPolicy with a spec in YAML.
func policyIn(t *testing.T, namespace, spec string) networkingv1.NetworkPolicy {
	t.Helper()
	policy := networkingv1.NetworkPolicy{}
	policy.Namespace, policy.Name = namespace, "policy"
	if err := yaml.UnmarshalStrict([]byte(spec), &policy.Spec); err != nil {
		t.Fatal(err)
	}
	return policy
}

func TestNetworkPolicies(t *testing.T) {
	const operatorNamespace, app = "wasme-system", "bookinfo"
	operator := operatorOf(t)
	served := End{Namespace: operatorNamespace, NamespaceLabels: map[string]string{"kubernetes.io/metadata.name": operatorNamespace}, Labels: operator.Pods.Labels, Address: netip.MustParseAddr("10.0.0.1")}
	details := End{Namespace: app, NamespaceLabels: map[string]string{"kubernetes.io/metadata.name": app}, Labels: map[string]string{"app": "details"}, Address: netip.MustParseAddr("10.1.0.1")}
	onHost := details
	onHost.HostNetwork, onHost.Address = true, netip.MustParseAddr("192.168.0.1")
	open := saying(OK, "none keeps sidecars with filters from port 8082")
	noIngress := saying(Fail, "NetworkPolicy wasme-system/policy does not admit pods of namespace bookinfo to port 8082 of the operator's pods: allow it")
	noEgress := saying(Fail, "NetworkPolicy bookinfo/policy does not let pods of namespace bookinfo reach port 8082 of the operator's pods")
	for _, row := range []struct {
		name, namespace, spec string
		workload              End
		want                  gomegatypes.GomegaMatcher
	}{
		{"for other pods", operatorNamespace, `{podSelector: {matchLabels: {app: other}}}`, details, open},
		{"that admits nobody", operatorNamespace, `{podSelector: {}}`, details, noIngress},
		{"that admits everybody to the named port", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{port: modules}]}]}`, details, open},
		{"that admits everybody to another port", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{port: metrics}]}]}`, details, noIngress},
		{"that admits to the Service's port", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`, details, noIngress},
		{"that admits by UDP", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{port: 8082, protocol: UDP}]}]}`, details, noIngress},
		{"that admits to a range of ports", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8082}]}]}`, details, open},
		{"that admits to a range before it", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8081}]}]}`, details, noIngress},
		{"that admits to all ports by TCP", operatorNamespace, `{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}`, details, open},
		{"that admits the namespace", operatorNamespace, `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bookinfo}}}]}]}`, details, open},
		{"that admits another namespace", operatorNamespace, `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}]}]}`, details, noIngress},
		{"that admits pods of its own namespace", operatorNamespace, `{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, details, noIngress},
		{"that admits some pods of all namespaces", operatorNamespace, `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [details]}]}}]}]}`, details, open},
		{"that admits other pods of all namespaces", operatorNamespace, `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: other}}}]}]}`, details, noIngress},
		{"that admits its address", operatorNamespace, `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`, details, open},
		{"that leaves its address out", operatorNamespace, `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}`, details, noIngress},
		{"that admits all namespaces, but no node", operatorNamespace, `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`, onHost, noIngress},
		{"that admits nodes", operatorNamespace, `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.168.0.0/16}}]}]}`, onHost, open},
		{"for the operator's egress", operatorNamespace, `{podSelector: {}, policyTypes: [Egress]}`, details, open},
		{"that lets nothing out", app, `{podSelector: {}, policyTypes: [Egress]}`, details, noEgress},
		{"that lets nothing out of other pods", app, `{podSelector: {matchLabels: {app: other}}, policyTypes: [Egress]}`, details, open},
		{"that lets nothing out, but not of the node", app, `{podSelector: {}, policyTypes: [Egress]}`, onHost, open},
		{"that lets DNS out", app, `{podSelector: {}, egress: [{ports: [{port: 53, protocol: UDP}]}]}`, details, noEgress},
		{"that lets the operator's port out", app, `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: wasme-system}}}], ports: [{port: 8082}]}]}`, details, open},
		{"for the workload's ingress", app, `{podSelector: {}}`, details, open},
	} {
		t.Run(row.name, func(t *testing.T) {
			policies := map[string][]networkingv1.NetworkPolicy{row.namespace: {policyIn(t, row.namespace, row.spec)}}
			NewWithT(t).Expect(Network(policies, served, operator.ServedPort(), []End{row.workload})).To(ConsistOf(row.want))
		})
	}
}

func TestNetworkPoliciesAddUp(t *testing.T) {
	g := NewWithT(t)
	var installed networkingv1.NetworkPolicy
	read(t, "config/manager/network_policy.yaml", &installed)
	operator := operatorOf(t)
	shut := policyIn(t, operator.Namespace, `{podSelector: {}}`)
	served, details := End{Namespace: operator.Namespace, Labels: operator.Pods.Labels}, End{Namespace: "bookinfo"}
	judge := func(policies ...networkingv1.NetworkPolicy) []Finding {
		return Network(map[string][]networkingv1.NetworkPolicy{operator.Namespace: policies}, served, operator.ServedPort(), []End{details, details})
	}
	g.Expect(judge(shut, installed)).To(ConsistOf(saying(OK, "none keeps")), "one that allows is enough")
	g.Expect(judge(shut, shut)).To(HaveLen(1), "one line for all pods of a namespace")
	g.Expect(Network(nil, served, operator.ServedPort(), nil)).To(ConsistOf(saying(NotChecked, "no pod with a sidecar is selected")))
}
