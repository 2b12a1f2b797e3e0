package fair

import (
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/slo"
)

// A Picker says which processor gets the next slot (a batch): the one with the
// least slack, which is how long its oldest unprocessed event can still wait
// before the freshness objective is missed.
//
//   - Before P99: the slack is P99 - age.
//   - Between P99 and Max: that line is broken for this event, and no speed mends
//     it. What can still be kept is Max, and P99 for the events that come now. So
//     the slack is that of an event that has just come, P99, or Max - age where
//     that is less.
//   - Beyond Max: P99. A processor that is hours behind, as in a rebuild, so goes
//     before those with laxer objectives, and does not make those late that are
//     still on time.
//
// Of equal slack, the one that had no slot for longest goes first. And whatever
// the slacks, a ready processor is never without a slot for long: each gets at
// least one in 20 ([NewPicker] may set another floor), or one in 2n where n
// processors are ready and that is less: half of the slots is left to the slack.
//
// Ready, Idle and Pick take time in proportion to the number of ready processors,
// of which a process has few. The zero Picker is not usable. Not safe for use by
// several goroutines at once.
type Picker[K comparable] struct {
	every int64 // a ready processor waits for no more than so many slots
	slot  int64 // of the last Pick
	ready []candidate[K]
}

type candidate[K comparable] struct {
	id        K
	oldest    time.Time
	objective slo.Objective
	since     int64 // the slot of its last turn, or in which it became ready
}

// DefaultFloor is the share of slots that every ready processor gets.
const DefaultFloor = 0.05

// NewPicker returns a Picker that gives each ready processor at least the share
// floor of the slots, see [Picker]; 0 stands for [DefaultFloor].
func NewPicker[K comparable](floor float64) *Picker[K] {
	if !(floor > 0) {
		floor = DefaultFloor
	}
	return &Picker[K]{every: max(int64(1/floor), 1)}
}

// Ready says that a processor has work, of which the oldest event occurred (or
// was recorded, as the caller measures freshness) at oldest. It stays ready, also
// after Pick, until Idle; a new call replaces what it said.
func (p *Picker[K]) Ready(id K, oldest time.Time, o slo.Objective) {
	c := candidate[K]{id: id, oldest: oldest, objective: o.WithDefaults(), since: p.slot}
	if i := p.index(id); i >= 0 {
		c.since = p.ready[i].since
		p.ready[i] = c
		return
	}
	p.ready = append(p.ready, c)
}

// Idle says that a processor has no work now.
func (p *Picker[K]) Idle(id K) {
	if i := p.index(id); i >= 0 {
		p.ready = slices.Delete(p.ready, i, i+1)
	}
}

// Len returns how many processors are ready.
func (p *Picker[K]) Len() int { return len(p.ready) }

// Pick returns the processor that gets the next slot, or false if none is ready.
func (p *Picker[K]) Pick(now time.Time) (id K, ok bool) {
	if len(p.ready) == 0 {
		return id, false
	}
	p.slot++
	longest := 0 // without a slot
	best, least := 0, p.ready[0].slack(now)
	for i := 1; i < len(p.ready); i++ {
		c := &p.ready[i]
		if c.since < p.ready[longest].since {
			longest = i
		}
		if s := c.slack(now); s < least || s == least && c.since < p.ready[best].since {
			best, least = i, s
		}
	}
	// No two have their turn in one slot, so turns fall due one by one; only those
	// that became ready together are due together.
	if p.slot-p.ready[longest].since >= max(p.every, 2*int64(len(p.ready))) {
		best = longest
	}
	p.ready[best].since = p.slot
	return p.ready[best].id, true
}

func (p *Picker[K]) index(id K) int {
	return slices.IndexFunc(p.ready, func(c candidate[K]) bool { return c.id == id })
}

func (c *candidate[K]) slack(now time.Time) time.Duration {
	return Slack(now.Sub(c.oldest), c.objective)
}

// Slack returns how long an event of some age can still wait; see [Picker].
func Slack(age time.Duration, o slo.Objective) time.Duration {
	o = o.WithDefaults()
	switch {
	case age < o.P99:
		return o.P99 - age
	case age < o.Max:
		return min(o.P99, o.Max-age)
	}
	return o.P99
}
