package migrate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// nameOf returns the name of a FilterDeployment: that of the filter where wasme 0.0.33
// deployed it, and that of the object otherwise.
func nameOf(g *group, f *filter, namespace string) string {
	name := g.objects[0].GetName()
	if len(g.workloads) > 0 {
		name = strings.TrimSuffix(f.plugin, "."+namespace)
	}
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return g.objects[0].GetName()
	}
	return name
}

// freeName returns a name that no other FilterDeployment has. One that replaces these objects
// is what an earlier migration made of them.
func (p *planner) freeName(g *group, namespace, base string) string {
	keys := keysOf(g.objects)
	isFree := func(name string) bool {
		if p.taken[namespace+"/"+name] {
			return false
		}
		known := p.existing(namespace, name)
		return known == nil || slices.ContainsFunc(replaced(known), func(key string) bool { return slices.Contains(keys, key) })
	}
	name := base
	for n := 2; !isFree(name); n++ {
		name = fmt.Sprintf("%s-migrated-%d", base, n)
		if n == 2 {
			name = base + "-migrated"
		}
	}
	p.taken[namespace+"/"+name] = true
	return name
}

func (p *planner) existing(namespace, name string) *wasmev1.FilterDeployment {
	for i := range p.FilterDeployments {
		if fd := &p.FilterDeployments[i]; fd.Namespace == namespace && fd.Name == name {
			return fd
		}
	}
	return nil
}

// freeID returns an id with which the names of outputs are free: the objects that are
// replaced stay while the FilterDeployment is rolled out. It is empty for the default.
func (p *planner) freeID(fd *wasmev1.FilterDeployment, targets []workload.Target) string {
	kind := cmp.Or(fd.Spec.Deployment.Istio.Output, wasmev1.OutputEnvoyFilter)
	isFree := func(id string) bool {
		return !slices.ContainsFunc(targets, func(target workload.Target) bool {
			name := render.Name(target, id)
			return slices.ContainsFunc(p.Objects, func(object istio.Output) bool {
				return object.GetNamespace() == fd.Namespace && object.GetName() == name && istio.KindOf(object) == kind && !IsOwned(object)
			})
		})
	}
	if isFree(fd.Name + "." + fd.Namespace) {
		return ""
	}
	id := fd.Name
	for n := 2; !isFree(id); n++ {
		id = fmt.Sprintf("%s-%d", fd.Name, n)
	}
	return id
}
