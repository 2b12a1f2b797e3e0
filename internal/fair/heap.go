package fair

// flowHeap is a binary heap of flows by (tag, seq). It is written out, and not
// container/heap, because a flow must know its slot and a call through an
// interface costs more than the comparison.
type flowHeap struct{ flows []*flow }

func (h *flowHeap) add(f *flow) {
	f.heap, f.slot = h, len(h.flows)
	h.flows = append(h.flows, f)
	h.up(f.slot)
}

func (h *flowHeap) remove(f *flow) {
	slot, last := f.slot, len(h.flows)-1
	h.swap(slot, last)
	h.flows[last] = nil
	h.flows = h.flows[:last]
	f.heap = nil
	if slot < last && !h.down(slot) {
		h.up(slot)
	}
}

// fix puts f where it belongs after its tag has changed.
func (h *flowHeap) fix(f *flow) {
	if !h.down(f.slot) {
		h.up(f.slot)
	}
}

func (h *flowHeap) less(i, j int) bool {
	a, b := h.flows[i], h.flows[j]
	return a.tag < b.tag || a.tag == b.tag && a.seq < b.seq
}

func (h *flowHeap) swap(i, j int) {
	h.flows[i], h.flows[j] = h.flows[j], h.flows[i]
	h.flows[i].slot, h.flows[j].slot = i, j
}

func (h *flowHeap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *flowHeap) down(i int) (moved bool) {
	for {
		child := 2*i + 1
		if child >= len(h.flows) {
			return moved
		}
		if child+1 < len(h.flows) && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			return moved
		}
		h.swap(i, child)
		i, moved = child, true
	}
}
