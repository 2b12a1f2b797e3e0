package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/store"
)

// A simReactor is the reactor's function in the simulation, and what is known of
// each event, by its index in the truth.
type simReactor struct {
	s       *sim
	p       *Processor
	handled map[int]int            // how often the function returned nil
	exempt  map[int]bool           // given up: later events of its key need not wait for it
	settled map[int]bool           // the rows said that it is done
	removed map[int64]store.LaneID // dead letters that were handled, and by which lane
	calling *streamJob
	epoch   int64 // under which the host has the lane of calling
}

// call ends a handler that is in progress: now it does what it does.
func (r *simReactor) call(h *simHost, j *streamJob) verdict {
	r.calling, r.epoch = j, h.stream(j.key.lane).epoch
	v := j.key.lane.pool(h).call(j)
	if v.final && r.p.Poison == SkipAndRecord && j.task.letter == 0 {
		r.exempt[r.s.index[j.task.ID]] = true
	}
	return v
}

// react is the user's function.
func (r *simReactor) react(ctx context.Context, d Delivery) error {
	s, l := r.s, r.calling.key.lane
	if d.IdempotencyKey != r.p.Name+"/"+d.ID || d.Epoch != r.epoch || d.Lane != l.id.String() || d.Attempt < 1 {
		s.fail("lane %v under epoch %d: delivered %s with key %q, epoch %d, lane %q, attempt %d", l.id, r.epoch, d.ID, d.IdempotencyKey, d.Epoch, d.Lane, d.Attempt)
	}
	n, ok := s.index[d.ID]
	if !ok {
		s.fail("lane %v: event %s was never appended", l.id, d.ID)
		return nil
	}
	e := &s.truth[n]
	switch {
	case ctx.Err() != nil && s.rng.IntN(2) == 0:
		return ctx.Err()
	case e.payload.Fail && !s.healed && e.payload.N%3 > 0:
		return Permanent(errors.New("told to fail"))
	case e.payload.Fail && !s.healed:
		return errors.New("told to fail")
	case s.chance(12), r.calling.key.orphan && s.chance(2):
		return errors.New("injected: not now")
	}
	r.handled[n]++
	return nil
}

// begins checks that an event may be begun.
func (r *simReactor) begins(h *simHost, j *streamJob) {
	s, l, t := r.s, j.key.lane, j.task
	n := s.index[t.ID]
	e := &s.truth[n]
	if e.Type != "added" || l.id.Tenant != "" && l.id.Tenant != e.Tenant || !r.p.bucket(&e.Event, l.id.Partition, l.of()) || j.key.id != (store.Key{Tenant: e.Tenant, ID: e.Stream}) {
		s.fail("lane %v: event %s at %v of %s/%s is none of key %v", l.id, t.ID, t.Position, e.Tenant, e.Stream, j.key.id)
	}
	if x := h.stream(l); t.letter == 0 && slices.Contains(x.ok, n) {
		s.fail("lane %v: event at %v of %s/%s is begun again, and the lane was told that it was handled", l.id, e.Position, e.Tenant, e.Stream)
	}
	for p := e.prev; p >= 0 && r.handled[p] == 0; p = s.truth[p].prev {
		if !r.exempt[p] && !s.truth[p].gone {
			s.fail("lane %v: event at %v of %s/%s is begun before the one at %v, which nobody has handled", l.id, e.Position, e.Tenant, e.Stream, s.truth[p].Position)
		}
	}
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		row, err := tx.Lane(l.id)
		if err != nil || row.Epoch != l.epoch {
			return err // a zombie: it does not know yet
		}
		r.alone(tx, h, j)
		if row.Revision != l.row.Revision {
			return nil // it does not know yet
		}
		return r.its(tx, &row, j)
	})
}

// alone checks that no other event of the key is in progress in the process.
func (r *simReactor) alone(tx store.Tx, h *simHost, j *streamJob) {
	for i := range h.jobs {
		o := &h.jobs[i]
		if o.key.id != j.key.id || o.key.lane.p != r.p {
			continue
		}
		if row, err := tx.Lane(o.key.lane.id); err == nil && row.Epoch == o.key.lane.epoch {
			r.s.fail("%s: event at %v of %v is begun by lane %v while the one at %v is in progress in lane %v",
				h.id, j.task.Position, j.key.id, j.key.lane.id, o.task.Position, o.key.lane.id)
		}
	}
}

// its checks that an event is the lane's, and not done, by the lane's row, which
// the lane knows.
func (r *simReactor) its(tx store.Tx, row *store.Lane, j *streamJob) error {
	s, t := r.s, j.task
	if row.Exclusions[t.Tenant] == event.Unbounded {
		s.fail("lane %v: event at %v of tenant %q is begun, and the tenant has left", row.LaneID, t.Position, t.Tenant)
	}
	if t.letter == 0 {
		var beyond done.Set
		if err := beyond.UnmarshalBinary(row.Done); err != nil {
			s.fail("lane %v: %v", row.LaneID, err)
		}
		if t.Position <= row.Position || beyond.Contains(t.Position) || row.Excluded(t.Tenant, t.Position) {
			s.fail("lane %v: event at %v of tenant %q is begun, and the row says that it is done: %+v", row.LaneID, t.Position, t.Tenant, *row)
		}
		return nil
	}
	found, err := tx.Letters(store.LetterFilter{AfterID: t.letter - 1, Limit: 1})
	if err != nil {
		return err
	}
	gone := len(found) == 0 || found[0].ID != t.letter
	if by, ok := r.removed[t.letter]; gone && ok && by != row.LaneID {
		return nil // the tenant's last lane had it in progress as the tenant left, and has just written it down
	}
	if gone || found[0].State == store.Skipped {
		s.fail("lane %v: dead letter %d at %v is begun, and it is gone or given up", row.LaneID, t.letter, t.Position)
	}
	return nil
}

// A simRow is what a lane's row says is done.
type simRow struct {
	at    event.Position
	done  done.Set
	until map[string]event.Position
}

func (w *simRow) has(tenant string, p event.Position) bool {
	until := w.until[tenant]
	return p <= w.at || w.done.Contains(p) || until != event.Unbounded && p <= until
}

// rows returns what the rows of all lanes say, and the rows.
func (r *simReactor) rows() (rows map[simShare]*simRow, lanes []store.Lane) {
	s := r.s
	rows = map[simShare]*simRow{}
	_ = s.mem.View(context.Background(), func(tx store.Tx) (err error) {
		lanes, err = tx.Lanes(r.p.Name)
		for _, l := range lanes {
			w := &simRow{at: l.Position, until: l.Exclusions}
			if err := w.done.UnmarshalBinary(l.Done); err != nil {
				s.fail("lane %v: %v", l.LaneID, err)
			}
			rows[simShare{partition: l.Partition, tenant: l.Tenant}] = w
		}
		return err
	})
	return rows, lanes
}

// checkStop checks that a lane which was stopped in good order has left nothing
// of what it has done to be done again, unless the tenant is another lane's.
func (r *simReactor) checkStop(x *simStream) {
	rows, _ := r.rows()
	w := rows[simShare{partition: x.r.id.Partition, tenant: x.r.id.Tenant}]
	if w == nil {
		return
	}
	for _, n := range x.ok {
		e := &r.s.truth[n]
		if x.r.id.Tenant == "" && rows[simShare{partition: x.r.id.Partition, tenant: e.Tenant}] != nil {
			continue
		}
		if !w.has(e.Tenant, e.Position) {
			r.s.fail("lane %v: event %s at %v was handled, and the lane has stopped without writing it down", x.r.id, e.ID, e.Position)
		}
	}
}

// checkRows checks that what the rows say is done was handled, or is in the dead
// letters, and stays done.
func (r *simReactor) checkRows() {
	s := r.s
	rows, lanes := r.rows()
	letters := map[int]bool{}
	for _, d := range s.letters(r.p.Name) {
		letters[s.index[d.Event.ID]] = true
	}
	for i := range s.truth {
		e := &s.truth[i]
		if e.Type != "added" || e.gone {
			continue
		}
		part := s.leaf(r.p, 1, lanes, e)
		w := rows[simShare{partition: part, tenant: e.Tenant}]
		if w == nil {
			w = rows[simShare{partition: part}]
		}
		switch is := w.has(e.Tenant, e.Position); {
		case is && r.handled[i] == 0 && !letters[i]:
			s.fail("%s/%d: event %s at %v is done by the rows, and nobody has handled it", r.p.Name, part, e.ID, e.Position)
		case is:
			r.settled[i] = true
		case r.settled[i]:
			s.fail("%s/%d: event %s at %v was done by the rows, and is not any more: it would come again", r.p.Name, part, e.ID, e.Position)
		}
	}
}

// checkEnd checks that in the end each event was handled or is on record, and
// that nothing is left in memory.
func (r *simReactor) checkEnd() {
	s := r.s
	given := map[int]bool{}
	for _, d := range s.letters(r.p.Name) {
		given[s.index[d.Event.ID]] = d.State == store.Skipped
	}
	for i := range s.truth {
		if e := &s.truth[i]; e.Type == "added" && !e.gone && r.handled[i] == 0 && !given[i] {
			s.fail("%s: event %s at %v was never handled", r.p.Name, e.ID, e.Position)
		}
	}
	for _, x := range s.hosts[0].streams {
		l := x.r.l
		q := x.r.pool.queue
		if l.undone != 0 || l.bytes != 0 || len(l.keys)+len(l.tenants)+len(l.waiting)+len(l.drains) != 0 || l.runs.n != 0 {
			s.fail("lane %v at rest holds %d undone events, %d bytes, %d keys, %d tenants", l.id, l.undone, l.bytes, len(l.keys), len(l.tenants))
		}
		if len(q.orphans)+len(q.blocked)+len(q.flows) != 0 || x.r.pool.busy != 0 {
			s.fail("%s at rest: %d orphans, %d blocked, %d flows, %d busy", r.p.Name, len(q.orphans), len(q.blocked), len(q.flows), x.r.pool.busy)
		}
	}
}
