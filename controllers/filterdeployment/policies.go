package filterdeployment

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/policy"
)

// +kubebuilder:rbac:groups=wasme.io,resources=filterpolicies,verbs=list;watch
// ClusterFilterPolicies are read with the ClusterRole of config/rbac/policies_role.yaml,
// which an operator without cluster-wide rights has, too.

// policies are those that apply in a namespace, ordered by name.
type policies struct {
	applying []*policy.Policy
	// byLabels says that the labels of the namespace, which are not watched, decide about
	// some policies.
	byLabels bool
}

// policiesFor returns the policies that apply in a namespace.
func (r *Reconciler) policiesFor(ctx context.Context, namespace string) (policies, error) {
	var cluster wasmev1.ClusterFilterPolicyList
	if err := r.Client.List(ctx, &cluster, client.UnsafeDisableDeepCopy); err != nil { // they are only read
		return policies{}, fmt.Errorf("listing ClusterFilterPolicies: %w", err)
	}
	var local wasmev1.FilterPolicyList
	if err := r.Client.List(ctx, &local, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return policies{}, fmt.Errorf("listing FilterPolicies: %w", err)
	}
	var found policies
	labelsOf := sync.OnceValues(func() (labels.Set, error) { return r.labelsOf(ctx, namespace) })
	for i := range cluster.Items {
		one := &cluster.Items[i]
		read := r.readPolicies.of(one, func() *policy.Policy { return policy.ReadCluster("ClusterFilterPolicy "+one.Name, one.Spec) })
		var namespaceLabels labels.Set
		if read.SelectsNamespaces() {
			found.byLabels = true
			var err error
			if namespaceLabels, err = labelsOf(); err != nil {
				return policies{}, err
			}
		}
		if read.AppliesTo(namespaceLabels) {
			found.applying = append(found.applying, read)
		}
	}
	for i := range local.Items {
		one := &local.Items[i]
		found.applying = append(found.applying, r.readPolicies.of(one, func() *policy.Policy { return policy.Read("FilterPolicy "+one.Name, one.Spec) }))
	}
	slices.SortFunc(found.applying, func(a, b *policy.Policy) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

func (r *Reconciler) labelsOf(ctx context.Context, namespace string) (labels.Set, error) {
	var found corev1.Namespace
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: namespace}, &found); err != nil {
		return nil, fmt.Errorf("reading namespace %s: %w", namespace, err)
	}
	return found.Labels, nil
}

// maxPolicies is the number of policies that are remembered.
const maxPolicies = 1024

// readPolicies remember policies as they were read: that takes longer than using them.
type readPolicies struct {
	once  sync.Once
	known *lru.Cache
}

// policyVersion is the spec of a policy.
type policyVersion struct {
	uid        types.UID
	generation int64
}

// of returns what a policy reads as.
func (p *readPolicies) of(object metav1.Object, read func() *policy.Policy) *policy.Policy {
	p.once.Do(func() { p.known = lru.New(maxPolicies) })
	version := policyVersion{object.GetUID(), object.GetGeneration()}
	if known, found := p.known.Get(version); found {
		return known.(*policy.Policy)
	}
	made := read()
	p.known.Add(version, made)
	return made
}
