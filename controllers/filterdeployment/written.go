package filterdeployment

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// writtenMemory is how long a write is believed that the cache does not show. After
// an outage of the API server, a cache can be behind for about as long.
const writtenMemory = time.Minute

// Written remembers outputs that were written, and revisions that were created, that the
// cache does not show yet. Without it, a pass with a cache that is behind would create all
// of them again, and read each that exists. The cache tells it what comes in (CacheOptions).
type Written struct {
	outputs outputMemory[writtenOutput]
	// revisions are those that were created last.
	revisions memory[createdRevision]
}

// writtenOutput is an output as the cache will show it.
type writtenOutput struct {
	// before is the resourceVersion that it replaced; empty when it was created.
	before string
	object istio.Output
	at     time.Time
}

// createdRevision is a ControllerRevision as the cache will show it; without a version
// while it is being created.
type createdRevision struct {
	object *appsv1.ControllerRevision
	at     time.Time
}

// expectRevision says that a revision is about to be created. The cache may show it before
// the creation returns.
func (w *Written) expectRevision(fd *wasmev1.FilterDeployment, object *appsv1.ControllerRevision) {
	w.revisions.keep(client.ObjectKeyFromObject(fd), createdRevision{object: object.DeepCopy()})
}

// keepRevision remembers a revision that was created, unless the cache shows it.
func (w *Written) keepRevision(fd *wasmev1.FilterDeployment, object *appsv1.ControllerRevision, now time.Time) {
	w.revisions.update(client.ObjectKeyFromObject(fd), func(createdRevision) createdRevision {
		trimmed, err := revision.Trim(object.DeepCopy())
		if err != nil {
			return createdRevision{} // then the cache has to show it
		}
		return createdRevision{trimmed.(*appsv1.ControllerRevision), now}
	})
}

// addRevision adds the revision that was created last to those of the cache, if it does
// not show it yet.
func (w *Written) addRevision(known *appsv1.ControllerRevisionList, fd *wasmev1.FilterDeployment, now time.Time) {
	name := client.ObjectKeyFromObject(fd)
	created := w.revisions.of(name)
	if created.object == nil || created.object.ResourceVersion == "" {
		return
	}
	shown := slices.ContainsFunc(known.Items, func(object appsv1.ControllerRevision) bool { return object.Name == created.object.Name })
	if shown || now.Sub(created.at) >= writtenMemory {
		w.revisions.forget(name)
		return
	}
	known.Items = append(known.Items, *created.object.DeepCopy())
}

// keep remembers a write.
func (w *Written) keep(fd *wasmev1.FilterDeployment, key rollout.OutputKey, before string, object istio.Output, now time.Time) {
	trimmed, err := istio.Trim(object)
	if err != nil {
		return // then the cache has to show it
	}
	w.outputs.update(client.ObjectKeyFromObject(fd), key, func(last writtenOutput) writtenOutput {
		if last.object != nil && last.object.GetResourceVersion() == before {
			before = last.before // the cache shows what was there before the last write
		}
		return writtenOutput{before, trimmed.(istio.Output), now}
	})
}

// addTo adds to the outputs of the cache those that it does not show yet, and reports
// whether there are any. It forgets the others.
func (w *Written) addTo(existing outputs, fd *wasmev1.FilterDeployment, now time.Time) bool {
	return w.outputs.retain(client.ObjectKeyFromObject(fd), func(key rollout.OutputKey, written writtenOutput) bool {
		shown := ""
		if cached := existing[key]; cached != nil {
			shown = cached.GetResourceVersion()
		}
		if shown != written.before || now.Sub(written.at) >= writtenMemory || !ownership.MayTake(written.object, fd) {
			return false
		}
		existing[key] = written.object
		return true
	})
}

// Seen drops what is remembered of an output or a revision, of which the cache gets a
// newer version or the deletion.
func (w *Written) Seen(item any) {
	object, ok := item.(client.Object)
	if !ok {
		return
	}
	name, made := ownership.FilterDeploymentOf(object)
	if !made {
		return
	}
	switch object := object.(type) {
	case istio.Output:
		w.outputs.forget(name, rollout.OutputKey{Kind: istio.KindOf(object), Name: object.GetName()})
	case *appsv1.ControllerRevision:
		if created := w.revisions.of(name); created.object != nil && created.object.Name == object.Name {
			w.revisions.forget(name)
		}
	}
}

// forget drops what is remembered of a FilterDeployment.
func (w *Written) forget(name types.NamespacedName) {
	w.outputs.forget(name)
	w.revisions.forget(name)
}
