package filterdeployment

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// memory has what this process remembers of each FilterDeployment. One pass at a time
// is over a FilterDeployment, so no other pass changes between two calls what is
// remembered of it.
type memory[V any] struct {
	mu    sync.Mutex
	known map[types.NamespacedName]V
}

// of returns what is remembered of a FilterDeployment; the zero value for nothing.
func (m *memory[V]) of(name types.NamespacedName) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[name]
}

func (m *memory[V]) keep(name types.NamespacedName, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[types.NamespacedName]V{}
	}
	m.known[name] = value
}

// update replaces what is remembered of a FilterDeployment, if anything is.
func (m *memory[V]) update(name types.NamespacedName, change func(V) V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, found := m.known[name]; found {
		m.known[name] = change(known)
	}
}

func (m *memory[V]) forget(name types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, name)
}

// outputMemory has what this process remembers of the outputs of each FilterDeployment.
type outputMemory[V any] struct {
	mu    sync.Mutex
	known map[types.NamespacedName]map[rollout.OutputKey]V
}

// of returns what is remembered of an output, and whether anything is.
func (m *outputMemory[V]) of(name types.NamespacedName, key rollout.OutputKey) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, found := m.known[name][key]
	return value, found
}

// update replaces what is remembered of an output, the zero value for nothing.
func (m *outputMemory[V]) update(name types.NamespacedName, key rollout.OutputKey, change func(V) V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[types.NamespacedName]map[rollout.OutputKey]V{}
	}
	if m.known[name] == nil {
		m.known[name] = map[rollout.OutputKey]V{}
	}
	m.known[name][key] = change(m.known[name][key])
}

// retain forgets the outputs of a FilterDeployment for which keep returns false, and
// reports whether any are left.
func (m *outputMemory[V]) retain(name types.NamespacedName, keep func(rollout.OutputKey, V) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, value := range m.known[name] {
		if !keep(key, value) {
			delete(m.known[name], key)
		}
	}
	if len(m.known[name]) == 0 {
		delete(m.known, name)
	}
	return len(m.known[name]) > 0
}

// forget drops what is remembered of these outputs, or of all when there are none.
func (m *outputMemory[V]) forget(name types.NamespacedName, keys ...rollout.OutputKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(keys) == 0 {
		delete(m.known, name)
	}
	for _, key := range keys {
		delete(m.known[name], key)
	}
}
