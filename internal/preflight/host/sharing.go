package host

func (c *call) key(text string) sharedKey { return sharedKey{c.vm.options.VMID, text} }

func (c *call) getSharedData() uint32 {
	name, inBounds := c.text(0)
	if !inBounds {
		return invalidMemoryAccess
	}
	known, found := c.vm.world.data[c.key(name)]
	if !found {
		return notFound
	}
	if given := c.give(known.value, 2); given != ok {
		return given
	}
	return stored(c.vm.writeU32(c.word(4), known.cas))
}

func (c *call) setSharedData() uint32 {
	texts, inBounds := c.texts(0, 2)
	if !inBounds {
		return invalidMemoryAccess
	}
	return c.vm.world.set(c.key(texts[0]), texts[1], c.word(4))
}

func (c *call) registerQueue() uint32 {
	name, inBounds := c.text(0)
	if !inBounds {
		return invalidMemoryAccess
	}
	q := c.vm.world.register(c.key(name), c.vm, c.vm.scope().root.id)
	return stored(c.vm.writeU32(c.word(2), q.token))
}

func (c *call) resolveQueue() uint32 {
	texts, inBounds := c.texts(0, 2)
	if !inBounds {
		return invalidMemoryAccess
	}
	key := c.key(texts[1])
	if texts[0] != "" {
		key.vmID = texts[0]
	}
	q := c.vm.world.queues[key]
	if q == nil {
		return notFound
	}
	return stored(c.vm.writeU32(c.word(4), q.token))
}

func (c *call) enqueue() uint32 {
	item, inBounds := c.text(1)
	if !inBounds {
		return invalidMemoryAccess
	}
	q := c.vm.world.tokens[c.word(0)]
	if q == nil {
		return notFound
	}
	return q.push(c.vm.world, item)
}

func (c *call) dequeue() uint32 {
	q := c.vm.world.tokens[c.word(0)]
	if q == nil {
		return notFound
	}
	item, result := q.pop(c.vm.world)
	if result != ok {
		return result
	}
	return c.give(item, 1)
}
