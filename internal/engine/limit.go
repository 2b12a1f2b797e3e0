package engine

import "time"

// limit returns how many events may be added to b; nil: to a new batch. All of a
// batch is estimated to take one quantum at most, and its documents, if each event
// has one of its own, to need no more than a slot's share of the memory. They are
// about as many as a page has events at most, so that the commit does not keep the
// store from others for long: as many events are taken to be about documents that
// b has not changed yet as were of its last part.
func (r *batchRunner) limit(b *batch) int {
	if r.l.p.Batch != nil {
		return pageEvents // its time is the commit's
	}
	events, docs, work := firstEvents, pageEvents, quantum
	if b != nil && len(b.changed) > 0 {
		docs = int(float64(docs-len(b.changed))/max(b.fresh, 1.0/16)) + len(b.changed)
	}
	if r.l.small > 0 {
		docs, work = r.e.gently.most(), gentleWork
	}
	if r.l.cost.things > 0 { // else it is not known what an event costs
		workers := float64(r.l.workers(time.Hour))
		events = int(min(100*pageEvents, workers*work.Seconds()/r.l.cost.seconds()))
	}
	if size := r.l.cache.average(); size > 0 {
		docs = min(docs, r.e.cfg.Memory/4/r.e.cfg.Slots/size)
	}
	if most := r.l.limit; most > 0 {
		events = min(events, max(1, int(most/paceOver)))
	}
	if b == nil {
		return max(1, min(events, docs))
	}
	return min(events-b.events, docs-len(b.changed))
}
