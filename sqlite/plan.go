package sqlite

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// A plan is what one call will do. Making it only reads, so a call that is
// refused leaves nothing to undo.
type plan struct {
	token eventlog.Token // so far: it covers what was there already
	parts []planPart     // as the appends
}

type planPart struct {
	known  bool // it is there already
	stream int64
	first  int64 // version of its first event
}

func (w *writer) plan(appends []eventlog.StreamAppend) (plan, error) {
	pl := plan{parts: make([]planPart, len(appends)), token: eventlog.Token{Tenants: tenantsOf(appends)}}
	var seen map[string]bool // ids of this call
	var latest map[eventlog.StreamRef]int
	if len(appends) > 1 { // a stream may come twice
		latest = make(map[eventlog.StreamRef]int, len(appends))
	}
	for i := range appends {
		a := &appends[i]
		s, err := w.stream(a.Tenant, a.Stream)
		if err != nil {
			return plan{}, err
		}
		part := &pl.parts[i]
		part.stream = s.no
		if slices.ContainsFunc(a.Events, func(e eventlog.NewEvent) bool { return e.ID != "" }) {
			if seen == nil {
				seen = make(map[string]bool)
			}
			covered, err := w.repeated(a, s, seen)
			if err != nil {
				return plan{}, err
			}
			if covered > 0 {
				part.known = true
				pl.token.Position = max(pl.token.Position, covered)
				continue
			}
		}
		version := s.version
		if latest != nil {
			ref := eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}
			if j, twice := latest[ref]; twice {
				version = pl.parts[j].first + int64(len(appends[j].Events)) - 1
			}
			latest[ref] = i
		}
		if !a.Expected.Accepts(version) {
			return plan{}, &eventlog.ConflictError{
				Stream: eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}, Expected: a.Expected, Actual: version,
			}
		}
		part.first = version + 1
		for j := range a.Events {
			id := a.Events[j].ID
			if id == "" {
				continue
			}
			if _, _, _, derived := event.ParseDerivedID(id); derived && id != event.DerivedID(a.Tenant, a.Stream, part.first+int64(j)) {
				return plan{}, &event.NameError{Field: "id", Name: id, Why: "is reserved for another event, whose derived id it is"}
			}
		}
	}
	return pl, nil
}

// tenantsOf returns the tenants of appends, without repeats.
func tenantsOf(appends []eventlog.StreamAppend) []string {
	out := []string{appends[0].Tenant}
	var known map[string]bool
	for i := 1; i < len(appends); i++ {
		tenant := appends[i].Tenant
		if tenant == appends[i-1].Tenant {
			continue
		}
		if known == nil {
			known = map[string]bool{out[0]: true}
		}
		if !known[tenant] {
			known[tenant] = true
			out = append(out, tenant)
		}
	}
	return out
}

// repeated returns the position that covers a where it is in the log already, 0
// where it is new, and a [*eventlog.DuplicateError] where it is neither.
func (w *writer) repeated(a *eventlog.StreamAppend, s streamState, seen map[string]bool) (event.Position, error) {
	taken, ids, known := "", 0, 0
	var last int64 // version of the last event of a that is there
	after := 0     // events without an id behind it
	for i := range a.Events {
		id := a.Events[i].ID
		if id == "" {
			after++
			continue
		}
		ids++
		duplicate := &eventlog.DuplicateError{Stream: eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}, ID: id}
		if seen[id] {
			return 0, duplicate
		}
		seen[id] = true
		stream, version, err := w.findID(id)
		switch {
		case err != nil:
			return 0, err
		case version == 0:
			continue
		case stream != s.no:
			return 0, duplicate
		}
		known++
		last, after, taken = version, 0, cmp.Or(taken, id)
	}
	switch {
	case known == 0:
		return 0, nil
	case known < ids:
		return 0, &eventlog.DuplicateError{Stream: eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}, ID: taken}
	}
	// The events without an id that follow were appended right behind.
	return w.positionOf(s.no, min(last+int64(after), s.version))
}

// findID returns the stream and version of the event with this id, 0 where there
// is none. An event that is gone keeps its id.
func (w *writer) findID(id string) (stream, version int64, err error) {
	if tenant, name, v, ok := event.ParseDerivedID(id); ok {
		s, err := w.stream(tenant, name)
		if err != nil || v < 1 || v > s.version {
			return 0, 0, err
		}
		// An event whose own id was given is not known by its derived one.
		_, explicit, err := w.explicitID(s.no, v)
		if err != nil || explicit {
			return 0, 0, err
		}
		return s.no, v, nil
	}
	row := func(s *zs.Stmt) error {
		stream, version = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}
	err = w.rows("SELECT stream_no, version FROM fairlead_events WHERE id = ?", row, id)
	if err == nil && version == 0 {
		err = w.rows("SELECT stream_no, version FROM fairlead_removed_ids WHERE id = ?", row, id)
	}
	return stream, version, err
}

// explicitID returns the id that the event was given, if any.
func (w *writer) explicitID(stream, version int64) (id string, given bool, err error) {
	row := func(s *zs.Stmt) error {
		id, given = s.ColumnText(0), !s.ColumnIsNull(0)
		return nil
	}
	position, err := w.positionOf(stream, version)
	if err == nil {
		err = w.rows("SELECT id FROM fairlead_events WHERE position = ? AND stream_no = ? AND version = ?", row, int64(position), stream, version)
	}
	if err == nil && !given {
		err = w.rows("SELECT id FROM fairlead_removed_ids WHERE stream_no = ? AND version = ?", row, stream, version)
	}
	return id, given, err
}

// positionOf returns the position of an event of a stream. Where it is gone, it
// returns the last position that is gone, which is not before it.
func (w *writer) positionOf(stream, version int64) (event.Position, error) {
	position := int64(0)
	if version > 0 {
		for _, e := range w.events {
			if e.stream == stream && e.version == version {
				return event.Position(e.position), nil
			}
		}
		var err error
		if position, err = w.indexedPosition(stream, version); err != nil {
			return 0, err
		}
	}
	if position == 0 {
		removed, _, err := w.int64("SELECT removed FROM fairlead_control")
		return event.Position(removed), err
	}
	return event.Position(position), nil
}

const insertEvent = `INSERT INTO fairlead_events(position, tenant_no, stream_no, version, type_no, occurred_at, recorded_at, id, metadata, data, class)
	VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// apply writes the events of a plan. Ctx, where not nil, ends it.
func (w *writer) apply(ctx context.Context, pl *plan, appends []eventlog.StreamAppend) error {
	var now time.Time
	typeName, typeNo := "", int64(0)
	for i := range appends {
		a, part := &appends[i], &pl.parts[i]
		if part.known {
			continue
		}
		if now.IsZero() {
			now = time.Now()
			w.recorded = max(w.recorded, now.UnixNano()) // the clock may be set back: keep the order
		}
		tenant, err := w.tenantNo(a.Tenant)
		if err != nil {
			return err
		}
		state, err := w.ensureStream(streamKey{tenant, a.Stream}, part.stream)
		if err != nil {
			return err
		}
		insert, err := w.Prepare(insertEvent)
		if err != nil {
			return err
		}
		for j := range a.Events {
			e := &a.Events[j]
			if e.Type != typeName {
				if typeNo, err = w.typeNo(e.Type); err != nil {
					return err
				}
				typeName = e.Type
			}
			version := part.first + int64(j)
			occurred := e.OccurredAt
			if occurred.IsZero() {
				occurred = now
			}
			insert.BindInt64(1, int64(w.head)+1)
			insert.BindInt64(2, tenant)
			insert.BindInt64(3, state.no)
			insert.BindInt64(4, version)
			insert.BindInt64(5, typeNo)
			bindTime(insert, 6, occurred)
			insert.BindInt64(7, w.recorded)
			if e.ID == "" || isDerived(e.ID, a.Tenant, a.Stream, version) {
				insert.BindNull(8)
			} else {
				insert.BindText(8, e.ID)
			}
			bindMetadata(insert, 9, e.Metadata)
			bindText(insert, 10, e.Data)
			if e.Class == "" {
				insert.BindNull(11)
			} else {
				insert.BindText(11, e.Class)
			}
			if err := step(insert); err != nil {
				return err
			}
			w.head++
			w.events = append(w.events, tailEvent{int64(w.head), state.no, version, tenant})
			if len(w.events) >= 2*indexRunMax { // one append may be of any length
				w.tail[state.no] = version
				if err := w.index(indexRunMax); err != nil {
					return err
				}
			}
			if ctx != nil && j&0xff == 0xff && ctx.Err() != nil {
				return ctx.Err()
			}
		}
		state.version = part.first + int64(len(a.Events)) - 1
		w.tail[state.no] = state.version
		pl.token.Position = w.head
	}
	return nil
}

// isDerived reports whether id is the derived id of this very event, which is
// not stored. That it is nobody else's was checked in plan.
func isDerived(id, tenant, stream string, version int64) bool {
	_, _, _, derived := event.ParseDerivedID(id)
	return derived && id == event.DerivedID(tenant, stream, version)
}
