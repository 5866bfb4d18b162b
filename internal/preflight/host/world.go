package host

import "context"

// World is what the VMs of a proxy share, by their vm_id.
type World struct {
	ctx    context.Context
	data   map[sharedKey]sharedValue
	queues map[sharedKey]*queue
	tokens map[uint32]*queue
	bytes  int
	cas    uint32
}

type sharedKey struct{ vmID, name string }

type sharedValue struct {
	value string
	cas   uint32
}

type queue struct {
	token  uint32
	owner  *VM
	root   uint32
	items  []string
	queued int // items that no callback was told of
}

// maxShared bounds the bytes of all shared data and queues. A proxy has no bound.
const maxShared = 64 << 20

// NewWorld returns a world without data. The context ends what its VMs do when they
// are called back.
func NewWorld(ctx context.Context) *World {
	return &World{ctx: ctx, data: map[sharedKey]sharedValue{}, queues: map[sharedKey]*queue{}, tokens: map[uint32]*queue{}}
}

// room takes bytes, or gives them back; false when there are none left.
func (w *World) room(bytes int) bool {
	if w.bytes+bytes > maxShared {
		return false
	}
	w.bytes += bytes
	return true
}

func (w *World) set(key sharedKey, value string, cas uint32) uint32 {
	known, found := w.data[key]
	if found && cas != 0 && cas != known.cas {
		return casMismatch
	}
	more := len(value) - len(known.value)
	if !found {
		more += len(key.name)
	}
	if !w.room(more) {
		return internalFailure
	}
	w.cas++
	if w.cas == 0 {
		w.cas++
	}
	w.data[key] = sharedValue{value, w.cas}
	return ok
}

// register returns the queue of that name, which from now on wakes a plugin of a VM.
func (w *World) register(key sharedKey, owner *VM, root uint32) *queue {
	q := w.queues[key]
	if q == nil {
		q = &queue{token: uint32(len(w.tokens)) + 1} //nolint:gosec // each costs a call of the module
		w.queues[key], w.tokens[q.token] = q, q
	}
	q.owner, q.root = owner, root
	return q
}

func (q *queue) push(w *World, item string) uint32 {
	if !w.room(len(item)) {
		return internalFailure
	}
	q.items = append(q.items, item)
	q.queued++
	return ok
}

func (q *queue) pop(w *World) (string, uint32) {
	if len(q.items) == 0 {
		return "", empty
	}
	item := q.items[0]
	q.items = q.items[1:]
	w.bytes -= len(item)
	return item, ok
}

// DeliverQueues calls proxy_on_queue_ready once for each item that was queued since the
// last time, at most a thousand times, and reports whether there were any.
func (w *World) DeliverQueues() bool {
	const most = 1000
	delivered := 0
	for token := uint32(1); token <= uint32(len(w.tokens)); token++ { //nolint:gosec // see register
		q := w.tokens[token]
		for ; q.queued > 0 && delivered < most; delivered++ {
			q.queued--
			if root := q.owner.contexts[q.root]; root != nil {
				q.owner.invoke(root, "proxy_on_queue_ready", uint64(q.root), uint64(token))
			}
		}
	}
	return delivered > 0
}
