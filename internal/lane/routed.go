package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// settleAtOnce are the letters of one transaction.
const settleAtOnce = 500

// Settled is what became of the letters of events that are routed to sandboxes.
type Settled struct {
	Done     int // their sandboxes have them
	Released int // they are this store's now, or parked or dropped by the policy
	Kept     int // it is not known yet
}

// Registrations are what is known of the registrations for a service on a log.
type Registrations struct {
	All []ledger.Sandbox // that the ledger had when it was read

	// Lanes returns what the lanes of an open registration say.
	Lanes func(ctx context.Context, id int64) ([]store.Lane, error)
	// Newest reads those of some hosts again. Nil: what is unknown to All stays so.
	Newest func(ctx context.Context, hosts []string) ([]ledger.Sandbox, error)
	// Start returns where a log partition begins: nothing up to there can be read any
	// more. Nil: that is not known, and nothing is forgotten.
	Start func(ctx context.Context, partition int) (event.Position, error)
}

// SettleRouted settles the letters of a store's events that are routed to sandboxes.
// It looks at all of them with one reading of the ledger, from the oldest on: so what
// is released of an ordering key is released in its order. A sandbox of which nothing
// can be learnt keeps its letters, and no others wait for it; its error is returned.
func SettleRouted(ctx context.Context, s store.Store, policy ledger.Policy, r Registrations) (sum Settled, err error) {
	hosts := map[string][]ledger.Sandbox{}
	for i := range r.All {
		hosts[r.All[i].Host] = append(hosts[r.All[i].Host], r.All[i])
	}
	var procs []store.Processor
	if err := s.View(ctx, func(tx store.Tx) (err error) { procs, err = tx.Processors(); return err }); err != nil {
		return sum, err
	}
	t := settler{Registrations: r, ctx: ctx, s: s, hosts: hosts, policy: policy, known: map[int64]saidLanes{}, newest: map[string][]ledger.Sandbox{}}
	for _, p := range procs {
		for _, number := range []int64{p.Live, p.Rebuild} {
			if number == 0 {
				continue
			}
			f := store.LetterFilter{Build: store.Build{Processor: p.Name, Number: number}, State: store.Skipped, Reason: store.Routed, Limit: settleAtOnce}
			for more := true; more; {
				if more, err = t.page(&p, &f); err != nil {
					return t.sum, fmt.Errorf("processor %q: settle dead letters of routed events: %w", p.Name, err)
				}
			}
		}
	}
	return t.sum, errors.Join(t.errs...)
}

type settler struct {
	Registrations
	ctx    context.Context
	s      store.Store
	hosts  map[string][]ledger.Sandbox
	policy ledger.Policy
	known  map[int64]saidLanes
	newest map[string][]ledger.Sandbox // of hosts for which the ledger was asked again
	sum    Settled
	errs   []error // of sandboxes of which nothing could be learnt
}

// saidLanes are what the lanes of an open registration said, or why they could not.
type saidLanes struct {
	lanes []store.Lane
	err   error
}

// doubtful is the fate of a letter of which nobody can tell any more whether its
// sandbox has the event: it is for people to say.
const doubtful ledger.Fate = -1

// page settles the next letters of a build, and reports whether there may be more.
func (t *settler) page(p *store.Processor, f *store.LetterFilter) (more bool, err error) {
	var letters []store.DeadLetter
	var rows []store.Lane
	err = t.s.View(t.ctx, func(tx store.Tx) (err error) {
		if rows, err = tx.Lanes(p.Name); err != nil {
			return err
		}
		letters, err = tx.Letters(*f)
		return err
	})
	if err != nil || len(letters) == 0 {
		return false, err
	}
	fates, settled := map[int64]ledger.Fate{}, 0
	for i := range letters {
		if fates[letters[i].ID], err = t.fate(p, rows, &letters[i]); err != nil {
			return false, err
		}
	}
	if err := t.doubt(p, rows, letters, fates); err != nil {
		return false, err
	}
	for _, fate := range fates {
		if fate != ledger.Keep {
			settled++
		}
	}
	if settled == 0 {
		t.sum.Kept += len(letters)
	} else if err := t.settle(f, fates); err != nil {
		return false, err
	}
	f.AfterID = letters[len(letters)-1].ID
	return len(letters) == f.Limit, nil
}

// doubt keeps letters that were to be released, of which the ledger says something else
// now that they have been read: a letter may have been written after the ledger was read,
// for a registration that had not begun then, and not for the one before it, which is
// closed. Nothing is released by what the ledger says now, or an event could overtake one
// of its key that was looked at before.
func (t *settler) doubt(p *store.Processor, rows []store.Lane, letters []store.DeadLetter, fates map[int64]ledger.Fate) error {
	var hosts []string
	for i := range letters {
		if fates[letters[i].ID] == ledger.Release {
			hosts = append(hosts, letters[i].Error)
		}
	}
	if len(hosts) == 0 || t.Newest == nil {
		return nil
	}
	slices.Sort(hosts)
	all, err := t.Newest(t.ctx, slices.Compact(hosts))
	if err != nil {
		return err
	}
	now := map[string][]ledger.Sandbox{}
	for i := range all {
		now[all[i].Host] = append(now[all[i].Host], all[i])
	}
	for i := range letters {
		d := &letters[i]
		if fates[d.ID] != ledger.Release {
			continue
		}
		part, of := logPartition(p, rows, d)
		var failed error
		fate := ledger.Settle(now[d.Error], part, d.Event.Position, func(s *ledger.Sandbox) bool {
			if s.Open {
				return false
			}
			ok, err := Applied(ledger.LanesOf(s.Lanes, p.Name), d, of)
			failed = err
			return ok
		})
		if failed != nil {
			return failed
		}
		if fate != ledger.Release && ledger.Decide(now[d.Error], part, d.Event.Position) == ledger.Sandboxes {
			fates[d.ID] = ledger.Keep
		}
	}
	return nil
}

// logPartition returns the partition of the log that a letter's event is in, and the
// modulus of the lane that kept it; 0: the partitions are the log's.
func logPartition(p *store.Processor, rows []store.Lane, d *store.DeadLetter) (part, of int) {
	if part = logPart(p, d.Partition); p.Builds.LogPartitions > 1 {
		return part, 0
	}
	if i := slices.IndexFunc(rows, func(l store.Lane) bool { return l.Build == d.Build && l.Partition == d.Partition && l.Tenant == "" }); i >= 0 {
		of = Modulus(*p, &rows[i])
	}
	return part, of
}

// settle carries fates out. Others may have done so just before.
func (t *settler) settle(f *store.LetterFilter, fates map[int64]ledger.Fate) error {
	var sum Settled
	err := t.s.Update(t.ctx, func(tx store.Tx) error {
		sum = Settled{}
		if _, err := tx.Lanes(f.Processor); err != nil { // what is a lane's is read behind its lock
			return err
		}
		letters, err := tx.Letters(*f)
		if err != nil {
			return err
		}
		var gone []int64
		touched := map[owned]bool{}
		for _, d := range letters {
			fate, ok := fates[d.ID]
			switch {
			case !ok:
			case fate == ledger.Done:
				sum.Done++
				gone = append(gone, d.ID)
			case fate == ledger.Release && t.policy == ledger.Drop:
				sum.Released++
				gone = append(gone, d.ID)
			case fate == ledger.Release, fate == doubtful:
				sum.Released++
				text := "it was routed to the sandbox %s, which is gone and has not processed it"
				if fate == doubtful {
					text = "it was routed to the sandbox %s, of which the route ledger has nothing any more: whether that has processed it nobody knows. Retry it to process it here, or skip it"
				}
				d.Error = fmt.Sprintf(text, d.Error)
				d.State, d.Reason, d.Retry = store.Poison, "unowned", t.policy != ledger.Park && fate != doubtful
				if err := tx.PutLetter(d); err != nil {
					return err
				}
				touched[owned{d.Partition, d.Tenant}] = true
			default:
				sum.Kept++
			}
		}
		if len(gone) > 0 {
			if err := tx.DeleteLetters(gone); err != nil {
				return err
			}
		}
		if len(touched) == 0 {
			return nil
		}
		return revise(tx, f.Build, touched)
	})
	if err == nil {
		t.sum.Done, t.sum.Released, t.sum.Kept = t.sum.Done+sum.Done, t.sum.Released+sum.Released, t.sum.Kept+sum.Kept
	}
	return err
}

func (t *settler) fate(p *store.Processor, rows []store.Lane, d *store.DeadLetter) (ledger.Fate, error) {
	logPart, of := logPartition(p, rows, d)
	var failed error
	host, at := d.Error, d.Event.Position
	fate := ledger.Settle(t.hosts[host], logPart, at, func(s *ledger.Sandbox) bool {
		lanes := s.Lanes
		if s.Open {
			said, ok := t.known[s.ID]
			if !ok {
				if said.lanes, said.err = t.Lanes(t.ctx, s.ID); said.err != nil {
					t.errs = append(t.errs, fmt.Errorf("sandbox %q: its letters wait: %w", host, said.err))
				}
				t.known[s.ID] = said
			}
			if said.err != nil {
				return false
			}
			lanes = said.lanes
		}
		ok, err := Applied(ledger.LanesOf(lanes, p.Name), d, of)
		failed = err
		return ok
	})
	if fate == ledger.Keep && failed == nil && ledger.Decide(t.hosts[host], logPart, at) != ledger.Sandboxes {
		return t.unknown(host, logPart, at)
	}
	return fate, failed
}

// unknown says what becomes of a letter that is of no registration. Either that began
// after the ledger was read, or it was forgotten: then what it had done is in a part of
// the log that cannot be read any more.
func (t *settler) unknown(host string, partition int, p event.Position) (ledger.Fate, error) {
	if t.Newest == nil || t.Start == nil { // whoever has it forgotten knows where the log begins
		return ledger.Keep, nil
	}
	now, asked := t.newest[host]
	if !asked {
		var err error
		if now, err = t.Newest(t.ctx, []string{host}); err != nil {
			return ledger.Keep, err
		}
		t.newest[host] = now
	}
	if ledger.Decide(now, partition, p) != ledger.Nobodys {
		return ledger.Keep, nil
	}
	start, err := t.Start(t.ctx, partition)
	switch {
	case err != nil:
		return ledger.Keep, err
	case p > start:
		return ledger.Release, nil
	}
	return doubtful, nil
}

// Applied reports whether the event of a letter has taken effect in another store, of
// whose live build of the same processor these are the lanes. Of is the modulus of the
// letter's partition; 0: the partitions are the log's. Where the other store cuts its
// partitions otherwise, the event counts as applied when all of them are past it.
func Applied(lanes []store.Lane, d *store.DeadLetter, of int) (bool, error) {
	p, tenant := d.Event.Position, d.Event.Tenant
	bases := slices.DeleteFunc(slices.Clone(lanes), func(l store.Lane) bool { return l.Tenant != "" })
	one := slices.IndexFunc(bases, func(l store.Lane) bool { return l.Partition == d.Partition && (of == 0 || l.Of == of) })
	switch {
	case one >= 0:
		bases = bases[one : one+1]
	case of == 0:
		return false, nil
	}
	for i := range bases {
		if ok, err := appliedIn(&bases[i], lanes, tenant, p); !ok || err != nil {
			return false, err
		}
	}
	return len(bases) > 0, nil
}

func appliedIn(base *store.Lane, lanes []store.Lane, tenant string, p event.Position) (bool, error) {
	l := base
	if base.Excluded(tenant, p) {
		own := slices.IndexFunc(lanes, func(l store.Lane) bool { return l.Partition == base.Partition && l.Tenant == tenant })
		if own < 0 {
			return true, nil // it came back, and had done all up to the end of its exclusion
		}
		l = &lanes[own]
	}
	if p <= l.Position {
		return true, nil
	}
	var beyond done.Set
	if err := beyond.UnmarshalBinary(l.Done); err != nil {
		return false, err
	}
	return beyond.Contains(p), nil
}
