// Package compare compares two builds of a read model: what an operator looks at
// before the new one is served. It reads both in the order of their keys, so it
// keeps no more of them than a page of each.
package compare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// Options bounds a report. The zero Options is ready to use.
type Options struct {
	Samples int // differing documents that are shown; default 20
	Tenants int // tenants that are shown, those with most differences; default 20
	Fields  int // fields that are shown of a document; default 10
}

func (o Options) withDefaults() Options {
	o.Samples, o.Tenants, o.Fields = cmp.Or(o.Samples, 20), cmp.Or(o.Tenants, 20), cmp.Or(o.Fields, 10)
	return o
}

// Counts are numbers of documents.
type Counts struct {
	Equal     int64 `json:"equal"`
	Different int64 `json:"different"`
	OnlyOld   int64 `json:"only_old"`
	OnlyNew   int64 `json:"only_new"`
	// InMotion: one of the builds has applied an event of the document that the
	// other has not come to, so they cannot be compared yet.
	InMotion int64 `json:"in_motion"`
}

// Differences returns how many documents differ.
func (c *Counts) Differences() int64 { return c.Different + c.OnlyOld + c.OnlyNew }

func (c *Counts) add(k Kind) {
	switch k {
	case Equal:
		c.Equal++
	case Different:
		c.Different++
	case OnlyOld:
		c.OnlyOld++
	case OnlyNew:
		c.OnlyNew++
	case InMotion:
		c.InMotion++
	}
}

// A Kind says what became of a document.
type Kind string

// The kinds, as [Counts] has them.
const (
	Equal     Kind = "equal"
	Different Kind = "different"
	OnlyOld   Kind = "only in old"
	OnlyNew   Kind = "only in new"
	InMotion  Kind = "in motion"
)

// A Side is one of the two builds.
type Side struct {
	Build   int64  `json:"build"`
	Version string `json:"version,omitempty"`
	Parked  int    `json:"parked_keys"` // ordering keys in the dead letters: their documents may be behind
}

// A Report says how two builds differ.
type Report struct {
	Processor string `json:"processor"`
	Tenant    string `json:"tenant,omitempty"` // they hold, or are compared for, this tenant only
	Old       Side   `json:"old"`
	New       Side   `json:"new"`
	Counts
	Tenants []Tenant `json:"tenants"` // with most differences first
	Samples []Sample `json:"samples"` // by tenant and id
}

// A Tenant is a tenant whose documents differ.
type Tenant struct {
	Tenant string `json:"tenant"`
	Counts
}

// A Sample is a document that differs.
type Sample struct {
	Tenant string  `json:"tenant"`
	ID     string  `json:"id"`
	Kind   Kind    `json:"kind"`
	Fields []Field `json:"fields,omitempty"` // of a different one
	More   int     `json:"more,omitempty"`   // fields that are not shown
}

const (
	pageBytes    = 1 << 20 // of a page, about
	pageMost     = 500     // documents of a page
	samplesEach  = 3       // of one tenant
	secondLooks  = 1000    // documents in motion that are looked at again
	looks        = 5       // how often
	betweenLooks = 100 * time.Millisecond
)

// Builds compares the build of a processor that is being made with the live one,
// or, where none is made, the live one with the one that is kept. Tenant "" means
// all tenants.
func Builds(ctx context.Context, s store.Store, processor, tenant string, o Options) (*Report, error) {
	c := comparison{s: s, o: o.withDefaults()}
	if err := c.begin(ctx, processor, tenant); err != nil {
		return nil, err
	}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("compare builds %d and %d of processor %q: %w", c.r.Old.Build, c.r.New.Build, processor, err)
	}
	return &c.r, nil
}

type comparison struct {
	s        store.Store
	o        Options
	r        Report
	old, new store.Build

	tenant  Tenant // of which documents are being compared
	top     []Tenant
	sampled int // of that tenant
	moving  []store.Key
}

func (c *comparison) begin(ctx context.Context, processor, tenant string) error {
	return c.s.View(ctx, func(tx store.Tx) error {
		p, err := tx.Processor(processor)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("processor %q: %w", processor, lane.ErrUnknown)
		}
		if err != nil {
			return err
		}
		k, only := p.Builds.Kept, ""
		c.r = Report{Processor: processor, Tenants: []Tenant{}, Samples: []Sample{}}
		switch {
		case p.Rebuild != 0:
			c.r.Old, c.r.New = Side{Build: p.Live, Version: p.Version}, Side{Build: p.Rebuild, Version: p.Builds.Making.Version}
			if only = p.RebuildTenant; only != "" {
				c.r.New.Version = p.Version
			}
		case k.Number != 0:
			c.r.Old, c.r.New = Side{Build: k.Number, Version: k.Version}, Side{Build: p.Live, Version: p.Version}
			only = k.Tenant
		default:
			return fmt.Errorf("processor %q is not being rebuilt, and keeps no build of before: there is nothing to compare: %w", processor, lane.ErrUnknown)
		}
		if only != "" && tenant != "" && tenant != only {
			return fmt.Errorf("processor %q: the rebuild is of tenant %q only: %w", processor, only, lane.ErrUnknown)
		}
		c.r.Tenant = cmp.Or(tenant, only)
		c.old, c.new = store.Build{Processor: processor, Number: c.r.Old.Build}, store.Build{Processor: processor, Number: c.r.New.Build}
		for _, side := range []*Side{&c.r.Old, &c.r.New} {
			parked, err := tx.Parked(store.Build{Processor: processor, Number: side.Build}, c.r.Tenant)
			if err != nil {
				return err
			}
			side.Parked = len(parked)
		}
		return nil
	})
}

// reach is how far both builds are, at one moment.
type reach struct{ lanes []store.Lane }

func (c *comparison) reach(ctx context.Context) (r reach, err error) {
	err = c.s.View(ctx, func(tx store.Tx) (err error) {
		p, err := tx.Processor(c.r.Processor)
		if err != nil {
			return err
		}
		if p.Live != c.old.Number && p.Live != c.new.Number {
			return fmt.Errorf("another build became live meanwhile: %w", lane.ErrState)
		}
		r.lanes, err = tx.Lanes(c.r.Processor)
		return err
	})
	return r, err
}

// span returns how far a build is with a tenant: the partition that is behind all
// others, and the one before all others.
func (r reach) span(build int64, tenant string) (low, high event.Position) {
	low = event.Unbounded
	seen := map[int]bool{}
	for i := range r.lanes {
		l := &r.lanes[i]
		if l.Number != build || seen[l.Partition] || l.Tenant != "" && l.Tenant != tenant {
			continue
		}
		seen[l.Partition] = true
		at := lane.Covered(r.lanes, build, l.Partition, tenant)
		low, high = min(low, at), max(high, at)
	}
	if len(seen) == 0 {
		return 0, 0
	}
	return low, high
}

// still reports whether both builds are equally far with a tenant, and were so
// before.
func still(before, after reach, a, b int64, tenant string) bool {
	for i := range after.lanes {
		p := after.lanes[i].Partition
		at := lane.Covered(after.lanes, a, p, tenant)
		if at != lane.Covered(after.lanes, b, p, tenant) || at != lane.Covered(before.lanes, a, p, tenant) || at != lane.Covered(before.lanes, b, p, tenant) {
			return false
		}
	}
	return len(after.lanes) > 0
}

// A side is a document as it was read, nil where there is none, between two
// looks at how far its build was.
type side struct {
	d             *store.Document
	before, after reach
	build         int64
}

// between returns positions between which there is one, at the least, up to which
// the document is the fold of the events.
func (s *side) between(tenant string) (low, high event.Position, exact bool) {
	from, _ := s.before.span(s.build, tenant)
	if s.d != nil { // nothing changed it from its last event to where its build was before it was read
		return s.d.Position, max(s.d.Position, from), true
	}
	_, to := s.after.span(s.build, tenant)
	return from, to, from == to
}

// judge compares a document of the old build with that of the new one.
func (c *comparison) judge(k store.Key, old, new side) Kind {
	if old.d != nil && new.d != nil {
		if _, n := Diff(old.d.Data, new.d.Data, 0); n == 0 {
			return Equal
		}
	}
	kind := Different
	switch {
	case old.d == nil && new.d == nil:
		return Equal // it was there, and is not any more
	case old.d == nil:
		kind = OnlyNew
	case new.d == nil:
		kind = OnlyOld
	}
	if still(old.before, new.after, c.old.Number, c.new.Number, k.Tenant) && still(new.before, old.after, c.old.Number, c.new.Number, k.Tenant) {
		return kind
	}
	// There must be a position up to which both are folds of the same events. Of
	// one that is not there it is not known which event took it away: it is like
	// that somewhere in its span, so all of that must be in the other one's.
	lowO, highO, exactO := old.between(k.Tenant)
	lowN, highN, exactN := new.between(k.Tenant)
	switch {
	case exactO && exactN && max(lowO, lowN) <= min(highO, highN):
	case !exactO && lowN <= lowO && highO <= highN:
	case !exactN && lowO <= lowN && highN <= highO:
	default:
		return InMotion
	}
	return kind
}

// note counts a document, and shows it if it is among the first that differ.
func (c *comparison) note(k store.Key, kind Kind, old, new *store.Document) {
	if k.Tenant != c.tenant.Tenant {
		c.closeTenant()
		c.tenant, c.sampled = Tenant{Tenant: k.Tenant}, 0
	}
	c.tenant.add(kind)
	c.r.add(kind)
	if kind == Equal || kind == InMotion || len(c.r.Samples) >= c.o.Samples || c.sampled >= samplesEach {
		return
	}
	c.sampled++
	x := Sample{Tenant: k.Tenant, ID: k.ID, Kind: kind}
	if old != nil && new != nil {
		var n int
		x.Fields, n = Diff(old.Data, new.Data, c.o.Fields)
		x.More = n - len(x.Fields)
	}
	c.r.Samples = append(c.r.Samples, x)
}

// closeTenant keeps the tenant that is through, if it has more differences than
// those that are kept.
func (c *comparison) closeTenant() {
	if c.tenant.Differences() > 0 {
		c.top = append(c.top, c.tenant)
		if len(c.top) > 4*c.o.Tenants {
			c.cutTop()
		}
	}
	c.tenant = Tenant{}
}

func (c *comparison) cutTop() {
	// What was looked at again comes a second time.
	slices.SortFunc(c.top, func(a, b Tenant) int { return cmp.Compare(a.Tenant, b.Tenant) })
	merged := c.top[:0]
	for _, t := range c.top {
		if n := len(merged); n > 0 && merged[n-1].Tenant == t.Tenant {
			m := &merged[n-1].Counts
			m.Equal, m.Different, m.OnlyOld, m.OnlyNew, m.InMotion = m.Equal+t.Equal, m.Different+t.Different, m.OnlyOld+t.OnlyOld, m.OnlyNew+t.OnlyNew, m.InMotion+t.InMotion
			continue
		}
		merged = append(merged, t)
	}
	slices.SortStableFunc(merged, func(a, b Tenant) int { return cmp.Compare(b.Differences(), a.Differences()) })
	c.top = merged[:min(len(merged), c.o.Tenants)]
}
