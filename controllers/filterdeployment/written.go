package filterdeployment

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// writtenMemory is how long a write is believed that the cache does not show. After
// an outage of the API server, a cache can be behind for about as long.
const writtenMemory = time.Minute

// Written remembers outputs that were written and that the cache does not show yet.
// Without it, a pass with a cache that is behind would create all of them again, and
// read each that exists. The cache tells it what comes in (CacheOptions).
type Written struct {
	mu    sync.Mutex
	known map[types.NamespacedName]map[rollout.OutputKey]writtenOutput
}

// writtenOutput is an output as the cache will show it.
type writtenOutput struct {
	// before is the resourceVersion that it replaced; empty when it was created.
	before string
	object istio.Output
	at     time.Time
}

// keep remembers a write.
func (w *Written) keep(fd *wasmev1.FilterDeployment, key rollout.OutputKey, before string, object istio.Output, now time.Time) {
	trimmed, err := istio.Trim(object)
	if err != nil {
		return // then the cache has to show it
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := client.ObjectKeyFromObject(fd)
	if w.known == nil {
		w.known = map[types.NamespacedName]map[rollout.OutputKey]writtenOutput{}
	}
	if w.known[name] == nil {
		w.known[name] = map[rollout.OutputKey]writtenOutput{}
	}
	if last, found := w.known[name][key]; found && last.object.GetResourceVersion() == before {
		before = last.before // the cache shows what was there before the last write
	}
	w.known[name][key] = writtenOutput{before, trimmed.(istio.Output), now}
}

// addTo adds to the outputs of the cache those that it does not show yet, and reports
// whether there are any. It forgets the others.
func (w *Written) addTo(existing outputs, fd *wasmev1.FilterDeployment, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := client.ObjectKeyFromObject(fd)
	for key, written := range w.known[name] {
		shown := ""
		if cached := existing[key]; cached != nil {
			shown = cached.GetResourceVersion()
		}
		if shown == written.before && now.Sub(written.at) < writtenMemory && ownership.MayTake(written.object, fd) {
			existing[key] = written.object
			continue
		}
		delete(w.known[name], key)
	}
	if len(w.known[name]) == 0 {
		delete(w.known, name)
		return false
	}
	return true
}

// Seen drops what is remembered of an output, of which the cache gets a newer version
// or the deletion.
func (w *Written) Seen(item any) {
	object, ok := item.(istio.Output)
	if !ok {
		return
	}
	if name, made := ownership.FilterDeploymentOf(object); made {
		w.forget(name, rollout.OutputKey{Kind: istio.KindOf(object), Name: object.GetName()})
	}
}

// forget drops what is remembered of one output, or of all when there is no key.
func (w *Written) forget(name types.NamespacedName, keys ...rollout.OutputKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(keys) == 0 {
		delete(w.known, name)
	}
	for _, key := range keys {
		delete(w.known[name], key)
	}
}
