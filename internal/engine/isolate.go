package engine

import (
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	isolateShare = 0.5 // of the work in sight, above which a tenant leaves
	isolateMost  = 16  // tenants that are out of a base lane at once by this rule
)

// isolated are the tenants that left a base lane because of their backlog, as far
// as its owner knows. Those that an operator took out do not count: however many
// they are, one that hurts the others must be able to leave.
type isolated map[string]bool

func (s *isolated) add(tenant string) {
	if *s == nil {
		*s = isolated{}
	}
	(*s)[tenant] = true
}

// full reports whether as many are out as may be, or about to be.
func (s isolated) full(base *store.Lane, leaving func(tenant string) bool) bool {
	n := 0
	for t := range s {
		if base.Exclusions[t] == event.Unbounded || leaving(t) {
			n++
		} else {
			delete(s, t) // it is back
		}
	}
	return n >= isolateMost
}

// isolate looks at the page that a base lane is to work on, and lets the tenant
// leave that has most of it, if the lane is so far behind that the others'
// objective is at risk. The tenant catches up at its fair share in a lane of
// its own and comes back by itself.
func (l *batchLane) isolate(page eventlog.Page) {
	if l.id.Tenant != "" || !l.live || l.p.NoIsolation || l.p.crossTenant() || l.row.Want != 0 || len(page.Events) == 0 {
		return
	}
	behind := l.cost.of(int(page.Head - l.at))
	// What was there before the lane was begun is late in any case, and for
	// everybody: there the longest wait counts, and a lane more for each
	// processor would make it longer.
	line := l.p.Freshness.P99
	if recorded(&page.Events[len(page.Events)-1]).Before(l.begun) {
		line = l.p.Freshness.Max
	}
	// The first batch says little of those that follow: it is small, and what it
	// does once is much of it.
	risk := behind >= line/2 && l.seq > 1
	if !risk && len(l.row.Exclusions) == 0 {
		return
	}
	shares, total := map[string]int{}, 0
	excluded := 0
	for i := range page.Events {
		e := &page.Events[i]
		if e.Position <= l.at {
			continue
		}
		if l.row.Excluded(e.Tenant, e.Position) {
			excluded++
			continue
		}
		shares[e.Tenant]++
		total++
	}
	if req := l.request(); req.Filter.All() {
		l.skipShare = float64(excluded) / float64(total+excluded+1)
	}
	l.tenants = len(shares)
	if !risk || len(shares) < 2 {
		return
	}
	if l.isolated.full(&l.row, func(t string) bool { _, ok := l.leave[t]; return ok }) {
		return
	}
	for t, n := range shares {
		if float64(n) > isolateShare*float64(total) && event.CheckTenant(t) == nil { // "" would be the base lane itself
			l.leave[t] = departure{after: l.at, state: store.Running, reason: backlog}
			l.isolated.add(t)
			l.logger.Info("tenant leaves its base lane", "lane", l.id.String(), "tenant", t, "behind", behind, "share", float64(n)/float64(total))
		}
	}
}
