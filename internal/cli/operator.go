package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// The operator's own defaults (docs/flags.md).
var operatorDefaults = render.Mesh{
	ModuleServerURL: doctor.DefaultServerURL,
	ClusterID:       doctor.DefaultClusterID,
	RootNamespace:   "istio-system",
}

// The operator's flags that say how it renders.
const (
	moduleServerURLFlag = "module-server-url"
	clusterIDFlag       = "cluster-id"
	rootNamespaceFlag   = "istio-root-namespace"
)

// meshFlags are the flags of a command that stand for those of the operator.
type meshFlags struct {
	app   *app
	flags *pflag.FlagSet
	given render.Mesh
	// told are the notes that were printed.
	told sets.Set[string]
}

// newMeshFlags adds all of them.
func newMeshFlags(a *app, c *cobra.Command) *meshFlags {
	m := &meshFlags{app: a, flags: c.Flags(), told: sets.New[string]()}
	const usage = "the operator's flag of this name; default: that of the operator in the cluster, or else its default"
	m.flags.StringVar(&m.given.ModuleServerURL, moduleServerURLFlag, "", usage)
	m.flags.StringVar(&m.given.ClusterID, clusterIDFlag, "", usage)
	m.flags.StringVar(&m.given.RootNamespace, rootNamespaceFlag, "", usage)
	return m
}

// newRootFlag adds only that of the root namespace.
func newRootFlag(a *app, c *cobra.Command) *meshFlags {
	m := &meshFlags{app: a, flags: c.Flags(), told: sets.New[string]()}
	m.flags.StringVar(&m.given.RootNamespace, rootNamespaceFlag, "", "the mesh's root namespace; default: that of the operator in the cluster, or else "+operatorDefaults.RootNamespace)
	return m
}

// find returns how the operator that looks after a FilterDeployment renders, and whether it
// asks pods what they run. Without one, its defaults are used, and a note says so.
func (m *meshFlags) find(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment) (mesh render.Mesh, verifies bool) {
	class := fd.Labels[wasmev1.ClassLabel]
	operators, err := findOperators(ctx, c)
	found, known := flagsOf(operators, class)
	if !known && ctx.Err() == nil {
		m.noteDefaults(class, err)
	}
	return render.Mesh{
		ModuleServerURL: cmp.Or(m.given.ModuleServerURL, found[moduleServerURLFlag], operatorDefaults.ModuleServerURL),
		ClusterID:       cmp.Or(m.given.ClusterID, found[clusterIDFlag], operatorDefaults.ClusterID),
		RootNamespace:   cmp.Or(m.given.RootNamespace, found[rootNamespaceFlag], operatorDefaults.RootNamespace),
	}, verifiesPods(found, fd)
}

// noteDefaults says once which of the operator's flags are taken to have their defaults, and
// why.
func (m *meshFlags) noteDefaults(class string, err error) {
	var assumed []string
	for flag, value := range map[string]string{
		moduleServerURLFlag: operatorDefaults.ModuleServerURL, clusterIDFlag: operatorDefaults.ClusterID, rootNamespaceFlag: operatorDefaults.RootNamespace,
	} {
		if m.flags.Lookup(flag) != nil && !m.flags.Changed(flag) {
			assumed = append(assumed, fmt.Sprintf("--%s=%s", flag, value))
		}
	}
	if len(assumed) == 0 {
		return
	}
	slices.Sort(assumed)
	why := "no operator was found"
	if class != "" {
		why = "no operator with --class=" + class + " was found"
	}
	if err != nil {
		why += fmt.Sprintf(" (%v)", err)
	}
	if note := why + ": if it has other flags than " + strings.Join(assumed, " ") + ", set them"; !m.told.Has(note) {
		m.told.Insert(note)
		m.app.note("%s", note)
	}
}

// findOperators returns the installations of the operator in all namespaces, or in its usual
// one when the user has no right to list all. With an error, it returns those that it found.
func findOperators(ctx context.Context, c client.Reader) ([]doctor.Operator, error) {
	var deployments appsv1.DeploymentList
	var statefulSets appsv1.StatefulSetList
	label := client.MatchingLabels{"app.kubernetes.io/name": "wasme-operator"}
	err := cmp.Or(listAnywhere(ctx, c, &deployments, installedIn, label), listAnywhere(ctx, c, &statefulSets, installedIn, label))
	var operators []doctor.Operator
	for i := range deployments.Items {
		d := &deployments.Items[i]
		operators = append(operators, operatorOf(d, "Deployment", d.Spec.Replicas, d.Status.ReadyReplicas, d.Spec.Template))
	}
	for i := range statefulSets.Items {
		s := &statefulSets.Items[i]
		operators = append(operators, operatorOf(s, "StatefulSet", s.Spec.Replicas, s.Status.ReadyReplicas, s.Spec.Template))
	}
	return operators, err
}

func operatorOf(object client.Object, kind string, asked *int32, ready int32, pods corev1.PodTemplateSpec) doctor.Operator {
	o := doctor.Operator{Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName(), Asked: ptr.Deref(asked, 1), Ready: ready, Pods: pods}
	container := o.Container()
	o.Flags = parseFlags(slices.Concat(container.Command, container.Args))
	return o
}

// flagsOf returns the flags of the operator of a class by their names, and whether there is one.
func flagsOf(operators []doctor.Operator, class string) (flags map[string]string, known bool) {
	for _, o := range operators {
		if o.Flags["class"] == class {
			return o.Flags, true
		}
	}
	return nil, false
}

// verifiesPods reports whether an operator with such flags asks the pods of a
// FilterDeployment what they run. If it does not, rollouts are not staged.
func verifiesPods(flags map[string]string, fd *wasmev1.FilterDeployment) bool {
	return flags["verify-pods"] != "false" &&
		!slices.Contains(strings.Split(flags["unverified-namespaces"], ","), fd.Namespace) &&
		fd.Annotations[wasmev1.VerifyPodsAnnotation] != "false"
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
