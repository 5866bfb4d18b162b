package migrate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/overlap"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// maxPriority bounds spec.filter.priority, in both directions.
const maxPriority = 1000

// planner plans the steps of a migration.
type planner struct {
	*Inventory
	images Images
	used   map[string]bool
	// taken are the names of the FilterDeployments that were planned, behind their namespaces.
	taken map[string]bool
}

// Images are what the user says about modules that objects do not name.
type Images struct {
	// Of are the images of objects (Is), or of FilterDeployments by their names.
	Of map[string]string
	// Pull says how the operator reaches them.
	Pull wasmev1.ImagePullOptions
}

// Plan returns the steps of a migration, in the order in which their objects were created:
// among filters with the same place, age decides which one runs first. Of the images, unused
// are those that no step needed.
func Plan(found *Inventory, images Images) (steps []Step, unused []string) {
	p := &planner{Inventory: found, images: images, used: map[string]bool{}, taken: map[string]bool{}}
	for _, group := range p.groups() {
		steps = append(steps, p.step(group))
	}
	for _, text := range slices.Sorted(maps.Keys(images.Of)) {
		if !p.used[text] {
			unused = append(unused, text)
		}
	}
	return steps, unused
}

// group is objects that are replaced together.
type group struct {
	*reading
	objects []istio.Output
	// workloads are those that the objects were made for, if that is known.
	workloads []workload.Object
}

// groups returns the objects that have a Wasm filter: those that one call of wasme 0.0.33
// made for workloads of a kind together, and the others alone.
func (p *planner) groups() []*group {
	var all []*group
	made := map[string]*group{}
	for _, object := range slices.SortedFunc(slices.Values(p.Objects), byAge) {
		if IsOwned(object) {
			continue
		}
		r := read(object)
		if r == nil {
			continue
		}
		g := &group{reading: r, objects: []istio.Output{object}}
		key := p.madeFor(g)
		if known := made[key]; known != nil {
			known.objects, known.workloads = append(known.objects, object), append(known.workloads, g.workloads...)
			continue
		}
		if key != "" {
			made[key] = g
		}
		all = append(all, g)
	}
	return all
}

func byAge(a, b istio.Output) int {
	return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time),
		strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
}

// madeFor finds the workload that wasme 0.0.33 made an object for. It returns what objects
// of one call have in common; empty for other objects.
func (p *planner) madeFor(g *group) string {
	object := g.objects[0]
	if !g.inert || len(g.filters) != 1 || !g.filters[0].cached || !strings.HasSuffix(object.GetName(), "-"+g.filters[0].plugin) {
		return ""
	}
	w, err := p.named(object.GetNamespace(), object.GetName(), g.filters[0].plugin, g.selector)
	if err != nil {
		g.refuse("metadata.name", "%w", err)
		return ""
	}
	g.workloads = []workload.Object{w}
	spec, err := json.Marshal(g.filters[0].spec)
	if err != nil {
		return "" // strings and numbers always marshal
	}
	return strings.Join([]string{object.GetNamespace(), workload.TargetOf(w).Kind, g.filters[0].plugin, string(spec)}, "\n")
}

// step plans the replacement of a group.
func (p *planner) step(g *group) Step {
	first := g.objects[0]
	s := Step{Objects: g.objects, Err: g.err()}
	if owner := controllerOf(first); owner != "" {
		s.Err = errors.Join(fmt.Errorf("metadata.ownerReferences: %s made it and would make it again: change it there", owner), s.Err)
	}
	if g.inert {
		s.Notes = append(s.Notes, "no current proxy runs it, because it is for names that Envoy no longer has: its replacement will run")
	}
	if by := first.GetLabels()["app.kubernetes.io/managed-by"]; by != "" {
		s.Notes = append(s.Notes, by+" put it there and may put it back: remove it there, too")
	}
	if s.Err != nil {
		return s
	}
	for i := range g.filters {
		fds, err := p.replace(g, i, &s)
		s.Err = errors.Join(s.Err, err)
		s.FilterDeployments = append(s.FilterDeployments, fds...)
	}
	if s.Err == nil {
		s.Kept = p.keep(&s)
	}
	s.Workloads = distinctTexts(s.Workloads)
	s.Notes = distinctTexts(s.Notes)
	return s
}

func distinctTexts(texts []string) []string {
	var all []string
	for _, text := range texts {
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// replace returns the FilterDeployments that replace one filter of a group: one for each
// kind of workload. Without an image, it returns them with an error.
func (p *planner) replace(g *group, index int, s *Step) ([]*wasmev1.FilterDeployment, error) {
	f := &g.filters[index]
	namespace := g.objects[0].GetNamespace()
	s.Notes = append(s.Notes, f.notes...)
	deployments, err := p.deployments(g, f, s)
	if err != nil {
		return nil, err
	}
	base := nameOf(g, f, namespace)
	if len(g.filters) > 1 {
		base = fmt.Sprintf("%s-%d", base, index+1)
	}
	var fds []*wasmev1.FilterDeployment
	var failures []error
	for i, deployment := range deployments {
		name := base
		if i > 0 {
			name += "-" + strings.ToLower(deployment.spec.Kind)
		}
		s.Notes = append(s.Notes, p.avoidOverlaps(f, &deployment)...)
		fd, err := p.filterDeployment(g, f, name, deployment)
		fds, failures = append(fds, fd), append(failures, err)
	}
	return fds, errors.Join(failures...)
}

// deployment is the workloads of one kind, or the targetRefs, that get a filter.
type deployment struct {
	spec    wasmev1.IstioDeploymentSpec
	targets []workload.Target
}

// deployments returns what gets a filter.
func (p *planner) deployments(g *group, f *filter, s *Step) ([]deployment, error) {
	if len(g.references) > 0 {
		return p.referenced(g, f, s), nil
	}
	namespace := g.objects[0].GetNamespace()
	r := p.reachOfGroup(g, f)
	if len(r.kinds) == 0 {
		return nil, fmt.Errorf("it reaches the pods of no workload in namespace %s: delete it if nothing needs it", namespace)
	}
	adjustTraffic(f, r.all())
	if err := p.checkRoot(g, f); err != nil {
		return nil, err
	}
	s.Notes, s.Differs = append(s.Notes, r.notes...), s.Differs || r.differs
	var all []deployment
	for _, kind := range workload.Kinds {
		if chosen := r.kinds[kind.Name]; len(chosen) > 0 {
			all = append(all, p.selecting(g, f, kind, chosen, s))
		}
	}
	return all, nil
}

func (p *planner) referenced(g *group, f *filter, s *Step) []deployment {
	if f.client {
		f.spec.PatchContext = wasmev1.PatchContextGateway // a waypoint has no such traffic
	}
	d := deployment{spec: wasmev1.IstioDeploymentSpec{TargetRefs: g.references, Output: outputOf(g)}}
	for _, reference := range g.references {
		target := workload.Target{Kind: reference.Kind, Namespace: g.objects[0].GetNamespace(), Name: reference.Name}
		d.targets = append(d.targets, target)
		s.Workloads = append(s.Workloads, target.Key())
	}
	return []deployment{d}
}

// outputOf returns what spec.deployment.istio.output has to say.
func outputOf(g *group) wasmev1.Output {
	if g.output == wasmev1.OutputEnvoyFilter {
		return "" // the default
	}
	return g.output
}

func (p *planner) reachOfGroup(g *group, f *filter) reach {
	if len(g.workloads) > 0 {
		r := reach{kinds: map[string][]workload.Object{}}
		for _, w := range g.workloads {
			kind := workload.TargetOf(w).Kind
			r.kinds[kind] = append(r.kinds[kind], w)
		}
		return r
	}
	traffic := f.spec.PatchContext
	if f.client {
		traffic = wasmev1.PatchContextAny // sidecars and gateways have it
	}
	return p.reachOf(g.objects[0].GetNamespace(), g.selector, traffic)
}

// adjustTraffic chooses among patch contexts that mean the same to Istio: a gateway has no
// other traffic than its own.
func adjustTraffic(f *filter, chosen []workload.Object) {
	gateways := 0
	for _, w := range chosen {
		if isGateway(w) {
			gateways++
		}
	}
	all := gateways == len(chosen)
	if f.client && gateways > 0 || all && f.spec.PatchContext == wasmev1.PatchContextAny {
		f.spec.PatchContext = wasmev1.PatchContextGateway
	}
}

// checkRoot refuses what reaches more than a namespace: a FilterDeployment is for its own.
func (p *planner) checkRoot(g *group, f *filter) error {
	namespace := g.objects[0].GetNamespace()
	if namespace != p.RootNamespace {
		return nil
	}
	var outside []workload.Object
	for _, w := range p.Workloads {
		if w.GetNamespace() != namespace && labels.SelectorFromSet(g.selector).Matches(labels.Set(workload.TargetOf(w).PodLabels)) {
			outside = append(outside, w)
		}
	}
	if len(outside) > 0 {
		names := condition.Enumerate(outside, ", ", func(w workload.Object) string { return w.GetNamespace() + "/" + w.GetName() })
		return fmt.Errorf("metadata.namespace: in the mesh's root namespace it reaches all namespaces (%s), and a FilterDeployment only its own: write one for each of them", names)
	}
	if len(g.selector) == 0 || f.spec.PatchContext != wasmev1.PatchContextGateway {
		return errors.New("metadata.namespace: in the mesh's root namespace, the operator runs filters only on gateways that labels select: move the object to the namespaces of the workloads first")
	}
	return nil
}

// selecting returns what selects workloads of a kind.
func (p *planner) selecting(g *group, f *filter, kind workload.Kind, chosen []workload.Object, s *Step) deployment {
	d := deployment{spec: wasmev1.IstioDeploymentSpec{Kind: kind.Name, Output: outputOf(g)}}
	var others []workload.Object
	for _, w := range p.Workloads {
		target := workload.TargetOf(w)
		selection := workload.Selection{Traffic: f.spec.PatchContext}
		if target.Namespace == chosen[0].GetNamespace() && target.Kind == kind.Name && !selection.LeavesOut(w) && !slices.Contains(chosen, w) {
			others = append(others, w)
		}
	}
	selector, more := metav1.LabelSelector{}, others
	if len(g.selector) > 0 || len(others) > 0 {
		selector, more = selectorFor(chosen, others, g.selector)
	}
	setSelector(&d.spec, selector)
	for _, w := range chosen {
		d.targets = append(d.targets, workload.TargetOf(w))
		s.Workloads = append(s.Workloads, w.GetName())
	}
	if len(more) > 0 {
		names := condition.Enumerate(more, ", ", func(w workload.Object) string { return w.GetName() })
		s.Differs = true
		s.Notes = append(s.Notes, fmt.Sprintf("%s would get the filter, too, because no label of the %s tells them apart: give those that need it a label of their own", names, kind.Resource))
	}
	return d
}

// setSelector writes a selector as labels where that is enough. Selecting everything is
// written out, because the schema asks for that with another output.
func setSelector(spec *wasmev1.IstioDeploymentSpec, selector metav1.LabelSelector) {
	if len(selector.MatchExpressions) > 0 || len(selector.MatchLabels) == 0 {
		spec.Selector = &selector
		return
	}
	spec.Labels = map[string]wasmev1.LabelValue{}
	for key, value := range selector.MatchLabels {
		spec.Labels[key] = wasmev1.LabelValue(value)
	}
}

// filterDeployment returns the FilterDeployment with a name, or one that is free. With the
// error, it lacks what the error says.
func (p *planner) filterDeployment(g *group, f *filter, name string, d deployment) (*wasmev1.FilterDeployment, error) {
	namespace := g.objects[0].GetNamespace()
	fd := &wasmev1.FilterDeployment{
		TypeMeta: metav1.TypeMeta{APIVersion: wasmev1.GroupVersion.String(), Kind: wasmev1.FilterDeploymentKind},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: p.freeName(g, namespace, name),
			Annotations: map[string]string{ReplacesAnnotation: strings.Join(keysOf(g.objects), ",")},
		},
		Spec: wasmev1.FilterDeploymentSpec{Filter: f.spec, Deployment: wasmev1.DeploymentSpec{Istio: &d.spec}},
	}
	fd.Spec.Filter.ID = p.freeID(fd, d.targets)
	if err := p.addImage(g, fd, f); err != nil {
		return fd, err
	}
	if overlaps := p.overlaps(d); len(overlaps) > 0 {
		return fd, fmt.Errorf("spec.phase: only a WasmPlugin has phases, but with one for each workload %s", overlap.Verdict(overlaps, namespace).Message)
	}
	return fd, check(fd)
}

// avoidOverlaps chooses EnvoyFilters where WasmPlugins, one for each workload, would also
// reach pods of other workloads, and returns what to know about that.
func (p *planner) avoidOverlaps(f *filter, d *deployment) []string {
	if f.spec.Position != nil || len(p.overlaps(*d)) == 0 {
		return nil
	}
	d.spec.Output = "" // EnvoyFilter
	return []string{"its output is an EnvoyFilter, and so it runs right before the router: WasmPlugins, one for each workload, would also reach the pods of other workloads"}
}

// overlaps returns the workloads that outputs, one for each target, would reach beside.
func (p *planner) overlaps(d deployment) []overlap.Overlap {
	if !overlap.SelectsByLabels(d.spec.Output) || len(d.spec.TargetRefs) > 0 {
		return nil
	}
	made := make([]overlap.Made, 0, len(d.targets))
	for _, target := range d.targets {
		made = append(made, overlap.Made{Output: rollout.OutputKey{Kind: d.spec.Output, Name: target.Name}, For: target})
	}
	var all []workload.Target
	for _, w := range p.Workloads {
		if w.GetNamespace() == d.targets[0].Namespace {
			all = append(all, workload.TargetOf(w))
		}
	}
	return overlap.Find(made, all)
}

// addImage sets the image that the user named.
func (p *planner) addImage(g *group, fd *wasmev1.FilterDeployment, f *filter) error {
	for text, image := range p.images.Of {
		named := text == fd.Name || slices.ContainsFunc(g.objects, func(object istio.Output) bool { return Is(object, text) })
		if named && f.unknown != "" {
			p.used[text] = true
			fd.Spec.Filter.Image = image
			if pull := p.images.Pull; pull.PullSecret != "" || pull.PlainHTTP || pull.InsecureSkipVerify {
				fd.Spec.Filter.ImagePullOptions = &pull
			}
			return nil
		}
	}
	if f.unknown == "" {
		return nil
	}
	unknown := strings.ReplaceAll(f.unknown, "OBJECT=", fd.Name+"=")
	if f.cached && len(p.CachedImages) > 0 {
		unknown += "; wasme deployed " + condition.Enumerate(p.CachedImages, ", ", strings.Clone)
	}
	return errors.New(unknown)
}

// check returns what the operator would refuse.
func check(fd *wasmev1.FilterDeployment) error {
	filter := fd.Spec.Filter
	if filter.Priority != nil && (*filter.Priority > maxPriority || *filter.Priority < -maxPriority) {
		return fmt.Errorf("spec.priority: it becomes the priority %d, and a FilterDeployment has -%d to %d: choose another", *filter.Priority, maxPriority, maxPriority)
	}
	if filter.URL != "" && filter.RootID == "" {
		return errors.New("the root id of the plugin is empty, and a module behind a URL does not list any: set it in the object (pluginName, root_id)")
	}
	if err := render.Check(fd.Spec); err != nil {
		return fmt.Errorf("its FilterDeployment cannot work: %w", err)
	}
	return nil
}

// keep finds FilterDeployments that have begun to replace objects: those that are gone were
// deleted because the FilterDeployments were Ready. What would be planned from the rest
// reaches fewer workloads.
func (p *planner) keep(s *Step) bool {
	live := map[string]bool{}
	for _, object := range p.Objects {
		live[object.GetNamespace()+"/"+KeyOf(object)] = true
	}
	kept := false
	for i, fd := range s.FilterDeployments {
		known := p.existing(fd.Namespace, fd.Name)
		if known == nil {
			continue
		}
		for _, key := range replaced(known) {
			if !live[fd.Namespace+"/"+key] {
				s.FilterDeployments[i], kept = known, true
			}
		}
	}
	return kept
}
