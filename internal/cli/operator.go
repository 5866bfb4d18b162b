package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// The operator's own defaults (docs/flags.md).
var operatorDefaults = render.Mesh{
	ModuleServerURL: "http://wasme-modules.wasme-system.svc.cluster.local",
	ClusterID:       "Kubernetes",
	RootNamespace:   "istio-system",
}

// The operator's flags that say how it renders.
const (
	moduleServerURLFlag = "module-server-url"
	clusterIDFlag       = "cluster-id"
	rootNamespaceFlag   = "istio-root-namespace"
)

// meshFlags are the flags of a command that stand for those of the operator.
type meshFlags struct{ given render.Mesh }

func newMeshFlags(c *cobra.Command) *meshFlags {
	m := &meshFlags{}
	const like = "; default: that of the operator in the cluster, or else its default"
	c.Flags().StringVar(&m.given.ModuleServerURL, moduleServerURLFlag, "", "the operator's flag of this name"+like)
	c.Flags().StringVar(&m.given.ClusterID, clusterIDFlag, "", "the operator's flag of this name"+like)
	c.Flags().StringVar(&m.given.RootNamespace, rootNamespaceFlag, "", "the operator's flag of this name"+like)
	return m
}

// find returns how the operator that looks after a FilterDeployment renders, and whether it
// asks pods what they run.
func (m *meshFlags) find(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment) (mesh render.Mesh, verifies bool) {
	var list appsv1.DeploymentList
	// Those who may not look into all namespaces get the defaults.
	_ = c.List(ctx, &list, client.MatchingLabels{"app.kubernetes.io/name": "wasme-operator"})
	found := argumentsOf(list.Items, fd.Labels[wasmev1.ClassLabel])
	return render.Mesh{
		ModuleServerURL: cmp.Or(m.given.ModuleServerURL, found[moduleServerURLFlag], operatorDefaults.ModuleServerURL),
		ClusterID:       cmp.Or(m.given.ClusterID, found[clusterIDFlag], operatorDefaults.ClusterID),
		RootNamespace:   cmp.Or(m.given.RootNamespace, found[rootNamespaceFlag], operatorDefaults.RootNamespace),
	}, verifiesPods(found, fd)
}

// verifiesPods reports whether an operator with such flags asks the pods of a
// FilterDeployment what they run. If it does not, rollouts are not staged.
func verifiesPods(flags map[string]string, fd *wasmev1.FilterDeployment) bool {
	return flags["verify-pods"] != "false" &&
		!slices.Contains(strings.Split(flags["unverified-namespaces"], ","), fd.Namespace) &&
		fd.Annotations[wasmev1.VerifyPodsAnnotation] != "false"
}

// argumentsOf returns the flags of the operator of a class by their names; nil for none.
func argumentsOf(operators []appsv1.Deployment, class string) map[string]string {
	for i := range operators {
		for _, container := range operators[i].Spec.Template.Spec.Containers {
			flags := parseFlags(slices.Concat(container.Command, container.Args))
			if flags["class"] == class {
				return flags
			}
		}
	}
	return nil
}

// parseFlags reads flags in both of their forms, --name=value and --name value.
func parseFlags(args []string) map[string]string {
	flags := map[string]string{}
	for i, arg := range args {
		name, isFlag := strings.CutPrefix(arg, "-")
		if !isFlag {
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		if !given && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			value = args[i+1]
		}
		flags[name] = value
	}
	return flags
}
