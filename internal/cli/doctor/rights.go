package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// RightsCheck is about what the user may do.
const RightsCheck = "your rights"

// Right is what someone may do to objects of a resource.
type Right struct {
	Verb string
	// Group of the resource's API; empty for the core.
	Group string
	// Resource in the plural; a subresource is behind a slash.
	Resource string
	// Namespace of the objects; empty: in all, or those that are in none.
	Namespace string
}

// String returns the right as kubectl auth can-i takes it.
func (r Right) String() string {
	text := r.Verb + " " + r.Resource
	if r.Group != "" {
		resource, sub, has := strings.Cut(r.Resource, "/")
		text = r.Verb + " " + resource + "." + r.Group
		if has {
			text += "/" + sub
		}
	}
	if r.Namespace != "" {
		text += " in namespace " + r.Namespace
	}
	return text
}

// MissingRight is the error of reading without the right to.
type MissingRight struct{ Right }

// Error implements error.
func (m *MissingRight) Error() string { return fmt.Sprintf("the right to %s is missing", m.Right) }

// need is what a command of wasme needs in a namespace.
type need struct {
	commands string
	Right
}

// needs has what the commands of wasme need of the user, in their order.
var needs = []need{
	{"wasme status, undeploy, rollout and diff", Right{Verb: "get", Group: "wasme.io", Resource: "filterdeployments"}},
	{"wasme status, deploy and rollout", Right{Verb: "list", Group: "wasme.io", Resource: "filterdeployments"}},
	{"wasme status, deploy and rollout", Right{Verb: "watch", Group: "wasme.io", Resource: "filterdeployments"}},
	{"wasme deploy", Right{Verb: "create", Group: "wasme.io", Resource: "filterdeployments"}},
	{"wasme deploy and rollout", Right{Verb: "patch", Group: "wasme.io", Resource: "filterdeployments"}},
	{"wasme undeploy", Right{Verb: "delete", Group: "wasme.io", Resource: "filterdeployments"}},
	{"wasme diff", Right{Verb: "list", Group: "apps", Resource: "deployments"}},
	{"wasme rollout", Right{Verb: "list", Group: "apps", Resource: "controllerrevisions"}},
	{"wasme describe", Right{Verb: "list", Resource: "pods"}},
	{"wasme describe", Right{Verb: "list", Group: "networking.istio.io", Resource: "envoyfilters"}},
	{"wasme describe", Right{Verb: "create", Resource: "pods/portforward"}},
}

// UserNeeds returns the rights that the commands of wasme need in a namespace.
func UserNeeds(namespace string) []Right {
	var rights []Right
	for _, n := range needs {
		n.Namespace = namespace
		rights = append(rights, n.Right)
	}
	return rights
}

// UserRights judges what the user may do in a namespace: denied are those of UserNeeds that
// the user does not have. To miss some is a choice of whoever gives rights.
func UserRights(namespace string, denied []Right) Finding {
	var missing []string
	for _, n := range needs {
		command := n.commands
		n.Namespace = namespace
		if slices.Contains(denied, n.Right) {
			n.Namespace = ""
			missing = append(missing, fmt.Sprintf("%s (for %s)", n.Right, command))
		}
	}
	if len(missing) == 0 {
		return ok(RightsCheck, "you may do in namespace %s what wasme does", namespace)
	}
	return warn(RightsCheck, "ask for them if you need them, or choose another namespace with -n",
		"in namespace %s you may not %s", namespace, strings.Join(missing, ", "))
}

// where is the place that an operator needs a right for.
type where int

const (
	watchedNamespaces where = iota
	ownNamespace
	wholeCluster
)

// operatorRules are those of config/rbac, one for each resource.
var operatorRules = []struct {
	group, resource, verbs string
	where                  where
}{
	{"", "configmaps", "get", watchedNamespaces},
	{"", "namespaces", "get", watchedNamespaces},
	{"", "secrets", "get", watchedNamespaces},
	{"", "pods", "list watch", watchedNamespaces},
	{"", "services", "list watch", watchedNamespaces},
	{"apps", "controllerrevisions", "create delete get list update watch", watchedNamespaces},
	{"apps", "daemonsets", "list watch", watchedNamespaces},
	{"apps", "deployments", "list watch", watchedNamespaces},
	{"apps", "statefulsets", "list watch", watchedNamespaces},
	{"events.k8s.io", "events", "create patch", watchedNamespaces},
	{"extensions.istio.io", "trafficextensions", "create delete get list update watch", watchedNamespaces},
	{"extensions.istio.io", "wasmplugins", "create delete get list update watch", watchedNamespaces},
	{"gateway.networking.k8s.io", "gateways", "list watch", watchedNamespaces},
	{"networking.istio.io", "envoyfilters", "create delete get list update watch", watchedNamespaces},
	{"wasme.io", "clusterfilterpolicies", "list watch", wholeCluster},
	{"wasme.io", "filterpolicies", "list watch", watchedNamespaces},
	{"wasme.io", "filterdeployments", "get list watch", watchedNamespaces},
	{"wasme.io", "filterdeployments/finalizers", "update", watchedNamespaces},
	{"wasme.io", "filterdeployments/status", "patch", watchedNamespaces},
	{"", "events", "create", ownNamespace},
	{"coordination.k8s.io", "leases", "create get update", ownNamespace},
}

// OperatorNeeds returns the rights that config/rbac grants to an operator in a namespace that
// looks after others; none means all.
func OperatorNeeds(own string, watched []string) []Right {
	if len(watched) == 0 {
		watched = []string{""}
	}
	var rights []Right
	for _, rule := range operatorRules {
		in := map[where][]string{watchedNamespaces: watched, ownNamespace: {own}, wholeCluster: {""}}
		for _, namespace := range in[rule.where] {
			for verb := range strings.FieldsSeq(rule.verbs) {
				rights = append(rights, Right{verb, rule.group, rule.resource, namespace})
			}
		}
	}
	return rights
}

// RightsCheck names the check of the rights of an operator's account.
func (o Operator) RightsCheck() string { return "rights of " + o.Title() }

// AccountRights judges what the account of an operator may do: denied are those of
// OperatorNeeds that it does not have.
func (o Operator) AccountRights(denied []Right) Finding {
	check := o.RightsCheck()
	if len(denied) == 0 {
		return ok(check, "ServiceAccount %s may do what config/rbac grants", o.Account())
	}
	var names []string
	for _, right := range denied {
		names = append(names, right.String())
	}
	return fail(check, "apply config/rbac of the operator's version, with its ServiceAccount and namespace",
		"ServiceAccount %s may not %s", o.Account(), some(names))
}
