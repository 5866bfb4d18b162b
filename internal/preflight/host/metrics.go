package host

// Metrics (specification, proxy_metric_type_t). The lower two bits of a metric's id
// are its type.
const (
	counter = iota
	gauge
	histogram
	maxMetric  = histogram
	metricBits = 2
	metricMask = 1<<metricBits - 1
)

// maxDefined bounds the metrics of a VM. A proxy has no bound.
const maxDefined = 100_000

// metrics are those that a VM has defined, by id, and their values, by name.
type metrics struct {
	names  map[uint32]string
	values map[string]uint64
	next   [maxMetric + 1]uint32
}

func (c *call) defineMetric() uint32 {
	kind := c.word(0)
	name, inBounds := c.text(1)
	switch m := &c.vm.metrics; {
	case !inBounds:
		return invalidMemoryAccess
	case kind > maxMetric:
		return badArgument
	case len(m.names) == maxDefined:
		return internalFailure
	default:
		if m.names == nil {
			m.names, m.values = map[uint32]string{}, map[string]uint64{}
		}
		m.next[kind]++
		id := m.next[kind]<<metricBits | kind
		m.names[id] = name
		return stored(c.vm.writeU32(c.word(3), id))
	}
}

func (c *call) incrementMetric() uint32 {
	id, offset := c.word(0), int64(c.stack[1]) //nolint:gosec // an i64
	m := &c.vm.metrics
	name, found := m.names[id]
	switch kind := id & metricMask; {
	case kind > gauge:
		return badArgument
	case !found:
		return notFound
	case kind == counter && offset <= 0:
		return badArgument
	default:
		m.values[name] += uint64(offset) //nolint:gosec // as Envoy: modulo 2^64
		return ok
	}
}

func (c *call) recordMetric() uint32 {
	id, value := c.word(0), c.stack[1]
	m := &c.vm.metrics
	name, found := m.names[id]
	if !found {
		return notFound
	}
	switch id & metricMask {
	case counter:
		m.values[name] += value
	case gauge:
		m.values[name] = value
	}
	return ok
}

func (c *call) getMetric() uint32 {
	id := c.word(0)
	name, found := c.vm.metrics.names[id]
	switch {
	case id&metricMask > gauge:
		return badArgument
	case !found:
		return notFound
	default:
		return stored(c.vm.writeU64(c.word(1), c.vm.metrics.values[name]))
	}
}
