package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	k8s "sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// namespace has everything that the soak runs.
const namespace = "soak"

// latest is the tag that moves. The others are those of the variants.
const latest = "latest"

// variants are modules that do the same and have different digests.
type variants struct {
	names   []string
	modules map[string][]byte
	// broken is a module that imports a function that proxies do not offer.
	broken []byte
}

func buildVariants(ctx context.Context) (*variants, error) {
	hello, err := filters.Build(ctx, filters.Hello)
	if err != nil {
		return nil, err
	}
	v := &variants{modules: map[string][]byte{}}
	if v.broken, err = filters.Build(ctx, filters.Import); err != nil {
		return nil, err
	}
	for _, name := range []string{"a", "b", "c"} {
		section := append([]byte{byte(len("salt"))}, "salt"+name...)
		custom := append([]byte{0, byte(len(section))}, section...)
		v.names, v.modules[name] = append(v.names, name), append(slices.Clip(hello), custom...)
	}
	return v, nil
}

func (v *variants) sha256(name string) string {
	sum := sha256.Sum256(v.modules[name])
	return hex.EncodeToString(sum[:])
}

// filter is a FilterDeployment, and what its user has asked for.
type filter struct {
	name      string
	workloads []string // the names of those that always run
	reaches   []string // those, and others that come and go
	output    wasmev1.Output
	rollout   *wasmev1.RolloutSpec

	admin    k8s.Client
	registry *registry.Registry
	variants *variants

	mu      sync.Mutex
	state   state
	refusal string    // the reason that Ready is to have while the state is refused
	newest  int       // number of the newest good configuration
	proved  int       // that of the last quiet point
	tag     string    // of its image
	variant string    // behind that tag
	moved   string    // variant behind latest
	modules []string  // variants behind the image since the last quiet point
	asked   time.Time // when the image or the configuration changed last
	retried rejection // the last one that was tried again
	earned  rejection // the last one of a revision that was to be rolled back
	retries int
}

// rejection is a revision that was rolled back, and when, by the clock of the replica.
type rejection struct {
	revision string
	at       time.Time
}

// bounds returns the configurations that it may answer with now.
func (f *filter) bounds() (proved, newest int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proved, f.newest
}

func (f *filter) expect(workloads int) expectation {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := expectation{
		Name: f.name, State: f.state, Refusal: f.refusal, Newest: f.newest, Proved: f.proved, SHA256: f.variants.sha256(f.variant),
		Workloads: workloads, Rows: f.output == wasmev1.OutputEnvoyFilter,
	}
	for _, variant := range f.modules {
		want.Modules = append(want.Modules, f.variants.sha256(variant))
	}
	return want
}

// prove notes that pods run the newest configuration.
func (f *filter) prove() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == good {
		f.proved, f.modules = f.newest, []string{f.variant}
	}
}

// follow does something to the tag latest, which the image has from then on.
func (f *filter) follow(ctx context.Context, do func(context.Context) error) error {
	if f.tag != latest {
		if err := f.configure(ctx, latest); err != nil {
			return err
		}
	}
	return do(ctx)
}

// await waits until the status says something of the newest spec.
func (f *filter) await(ctx context.Context, what func(reported) bool) error {
	for {
		if says, err := f.read(ctx); err == nil && what(says) {
			return nil
		}
		if err := pause(ctx, userPause); err != nil {
			return err
		}
	}
}

// change notes that the image or the configuration is about to change. The caller holds mu.
func (f *filter) change(variant string) {
	f.variant, f.modules = variant, append(f.modules, variant)
}

// changed notes that it has changed: what the status says from now on is of that.
func (f *filter) changed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.retried = time.Now(), rejection{}
}

func (f *filter) key() k8s.ObjectKey { return k8s.ObjectKey{Namespace: namespace, Name: f.name} }

func (f *filter) reference(tag string) string {
	return fmt.Sprintf("%s/%s:%s", f.registry.Host(), f.name, tag)
}

// push stores a module under a tag of the filter's own repository.
func (f *filter) push(ctx context.Context, tag string, module []byte) error {
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: module, RootIDs: []string{filters.RootID}})
	if err != nil {
		return err
	}
	_, err = f.registry.Push(ctx, f.name+":"+tag, image)
	return err
}

// publish stores all variants, and the first of them as latest.
func (f *filter) publish(ctx context.Context) error {
	for _, name := range f.variants.names {
		if err := f.push(ctx, name, f.variants.modules[name]); err != nil {
			return err
		}
	}
	f.moved, f.tag = f.variants.names[0], latest
	f.change(f.moved)
	return f.push(ctx, latest, f.variants.modules[f.moved])
}

// configuration returns the one with a value: an object, as a WasmPlugin needs one.
func (f *filter) configuration(value string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: fmt.Appendf(nil, `{"value":%q}`, value)}
}

// object returns the FilterDeployment of a good state.
func (f *filter) object() *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: f.name},
		Spec: wasmev1.FilterDeploymentSpec{
			Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{
				Labels: map[string]wasmev1.LabelValue{"filter": wasmev1.LabelValue(f.name)}, Output: f.output,
			}},
			Filter: wasmev1.FilterSpec{
				Image: f.reference(f.tag), ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
				Config: f.configuration(configured(f.name, f.newest)),
			},
			Rollout: f.rollout,
		},
	}
}

const (
	// userPatience is how long a user tries to reach an API server that is away.
	userPatience = 2 * time.Minute
	userPause    = 200 * time.Millisecond
	userTime     = 5 * time.Second // for one request
)

// try does what a user does until the API server has taken it.
func try(ctx context.Context, what string, do func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, userPause, userPatience, true, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, userTime)
		defer cancel()
		last = do(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, err, last)
	}
	return nil
}

// create creates the FilterDeployment with a new configuration.
func (f *filter) create(ctx context.Context) error {
	f.mu.Lock()
	f.newest++
	f.state = good
	f.change(f.variant)
	object := f.object()
	f.mu.Unlock()
	defer f.changed()
	return try(ctx, "creating "+f.name, func(ctx context.Context) error {
		err := f.admin.Create(ctx, object.DeepCopy())
		if apierrors.IsAlreadyExists(err) {
			return nil // the answer to the try before was lost
		}
		return err
	})
}

// edit changes the FilterDeployment.
func (f *filter) edit(ctx context.Context, change func(*wasmev1.FilterDeployment)) error {
	return try(ctx, "editing "+f.name, func(ctx context.Context) error {
		var fd wasmev1.FilterDeployment
		if err := f.admin.Get(ctx, f.key(), &fd); err != nil {
			return err
		}
		change(&fd)
		return f.admin.Update(ctx, &fd)
	})
}

// configure gives it a new good configuration and the image with a tag, and changes more with it.
func (f *filter) configure(ctx context.Context, tag string, more ...func(*wasmev1.FilterDeployment)) error {
	f.mu.Lock()
	f.newest++ // before the first pod can have it
	f.tag = tag
	if tag == latest {
		tag = f.moved
	}
	f.change(tag)
	value, image := configured(f.name, f.newest), f.reference(f.tag)
	f.mu.Unlock()
	defer f.changed()
	return f.edit(ctx, func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter.Config, fd.Spec.Filter.Image, fd.Spec.Filter.Preflight = f.configuration(value), image, ""
		for _, change := range more {
			change(fd)
		}
	})
}

func (f *filter) become(s state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
}

// becomeRefused notes that the preflight is to refuse the spec, with this reason.
func (f *filter) becomeRefused(reason string) {
	f.become(refused)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = reason
}

// move has the tag latest be the next variant.
func (f *filter) move(ctx context.Context) error {
	f.mu.Lock()
	f.moved = f.next(f.moved)
	if f.tag == latest {
		f.change(f.moved)
	}
	module := f.variants.modules[f.moved]
	f.mu.Unlock()
	defer f.changed()
	return f.push(ctx, latest, module)
}

// next returns the variant that follows another.
func (f *filter) next(variant string) string {
	names := f.variants.names
	return names[(slices.Index(names, variant)+1)%len(names)]
}

// retry tries a revision again that was rolled back, as the status says.
func (f *filter) retry(ctx context.Context, what rejection) error {
	f.mu.Lock()
	f.retries++
	f.retried, f.asked = what, time.Now()
	value := fmt.Sprintf("%s/%d", what.revision, f.retries)
	f.mu.Unlock()
	return f.edit(ctx, func(fd *wasmev1.FilterDeployment) {
		metav1.SetMetaDataAnnotation(&fd.ObjectMeta, wasmev1.RetryAnnotation, value)
	})
}

// earn notes that a revision was to be rolled back. The status of a later spec may still have it,
// until its preflight is over.
func (f *filter) earn(what rejection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.earned = what
}

// hasEarned reports whether a rejection is that of a revision that was to be rolled back.
func (f *filter) hasEarned(what rejection) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.earned == what
}

// history returns the state, when the image or the configuration changed last, and the last
// rejection that was tried again.
func (f *filter) history() (s state, asked time.Time, retried rejection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.asked, f.retried
}

// read returns what the status says of the newest spec.
func (f *filter) read(ctx context.Context) (reported, error) {
	var fd wasmev1.FilterDeployment
	ctx, cancel := context.WithTimeout(ctx, userTime)
	defer cancel()
	if err := f.admin.Get(ctx, f.key(), &fd); err != nil {
		return reported{}, fmt.Errorf("reading %s: %w", f.name, err)
	}
	says := reported{Revision: fd.Status.Revision}
	if fd.Status.Module != nil {
		says.SHA256 = fd.Status.Module.SHA256
	}
	if s := fd.Status.Summary; s != nil {
		says.Pods, says.Workloads = s.PodsReady, s.WorkloadsReady
	}
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if ready == nil || ready.ObservedGeneration != fd.Generation {
		return says, nil
	}
	says.Ready, says.Reason, says.Message = string(ready.Status), ready.Reason, ready.Message
	if rollout := fd.Status.Rollout; rollout != nil {
		says.Phase, says.From, says.To = rollout.Phase, rollout.From, rollout.To
		if rollout.Phase == wasmev1.RolloutRolledBack && rollout.Rejected != nil {
			says.Rejected, says.RejectedAt = rollout.Rejected.Revision, rollout.Rejected.At.UTC()
		}
	}
	return says, nil
}
