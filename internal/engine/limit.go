package engine

import "time"

// limit returns how many events the next batch may have: what is estimated to
// take one quantum, and to need no more than a slot's share of the memory for
// documents, if each event has one of its own.
func (r *batchRunner) limit() int {
	limit := pageEvents
	switch {
	case r.l.p.Batch != nil:
		return limit // its time is the commit's
	case r.l.cost <= 0:
		limit = firstEvents // until it is known what an event costs
	default:
		workers := float64(r.l.workers(time.Hour))
		limit = int(min(float64(limit), workers*quantum.Seconds()/r.l.cost))
	}
	if c := r.l.cache; len(c.docs) > 0 {
		limit = min(limit, r.e.cfg.Memory/4/r.e.cfg.Slots/max(1, c.size/len(c.docs)))
	}
	return max(1, limit)
}

// learn updates the estimate of what an event costs.
func (l *batchLane) learn(seconds float64) {
	if l.cost == 0 {
		l.cost = seconds
		return
	}
	l.cost += 0.2 * (seconds - l.cost)
}
