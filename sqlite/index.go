package sqlite

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	zs "zombiezen.com/go/sqlite"
)

// The indexes of the log, by stream and by tenant, are filled in runs. An append
// of one event would otherwise touch a random page of each, and a page costs more
// than the event. The events behind fairlead_control.indexed, the tail, are few:
// whoever needs them keeps them in memory.
const (
	indexRun    = 1024 // index when the tail has so many events
	indexRunMax = 8192 // ... in bulk loads, where larger runs touch fewer pages
)

// A tailEvent is what the indexes hold of an event.
type tailEvent struct {
	position, stream, version, tenant int64
}

const selectTail = "SELECT position, stream_no, version, tenant_no FROM fairlead_events WHERE position > ? AND position <= ? ORDER BY position"

// appendTail appends the events in (after, until].
func (c *conn) appendTail(events []tailEvent, after, until event.Position) ([]tailEvent, error) {
	err := c.rows(selectTail, func(s *zs.Stmt) error {
		events = append(events, tailEvent{s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)})
		return nil
	}, int64(after), int64(until))
	return events, err
}

// index brings the indexes up to the head when the tail is long enough. Added
// is the number of events that the transaction has appended so far.
func (w *writer) index(added int64) error {
	if int64(w.head-w.indexed) < max(indexRun, min(8*added, indexRunMax)) {
		return nil
	}
	if err := w.indexStreams(); err != nil {
		return err
	}
	if err := w.indexTenants(); err != nil {
		return err
	}
	if err := w.exec("UPDATE fairlead_control SET indexed = ?", int64(w.head)); err != nil {
		return err
	}
	w.indexed = w.head
	if w.foreign {
		w.streams.clear()
		w.foreign = false
	}
	clear(w.tail)
	w.events = w.events[:0]
	return nil
}

// indexStreams adds the tail to the index by stream.
func (w *writer) indexStreams() error {
	slices.SortFunc(w.events, func(a, b tailEvent) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.version, b.version))
	})
	s, err := w.Prepare("INSERT INTO fairlead_stream_index(stream_no, version, events, positions) VALUES(?, ?, ?, ?)")
	if err != nil {
		return err
	}
	for rest := w.events; len(rest) > 0; {
		first, n := rest[0], 1
		w.postings = appendPosting(w.postings[:0], 0, first.position)
		for ; n < len(rest) && rest[n].stream == first.stream && rest[n].version == first.version+int64(n); n++ {
			w.postings = appendPosting(w.postings, rest[n-1].position, rest[n].position)
		}
		s.BindInt64(1, first.stream)
		s.BindInt64(2, first.version)
		s.BindInt64(3, int64(n))
		s.BindBytes(4, w.postings)
		if err := step(s); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// indexTenants adds the tail to the index by tenant.
func (w *writer) indexTenants() error {
	slices.SortFunc(w.events, func(a, b tailEvent) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.position, b.position))
	})
	s, err := w.Prepare("INSERT INTO fairlead_tenant_index(tenant_no, position, last, events, positions) VALUES(?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	for rest := w.events; len(rest) > 0; {
		first, n := rest[0], 1
		w.postings = appendPosting(w.postings[:0], 0, first.position)
		for ; n < len(rest) && rest[n].tenant == first.tenant; n++ {
			w.postings = appendPosting(w.postings, rest[n-1].position, rest[n].position)
		}
		s.BindInt64(1, first.tenant)
		s.BindInt64(2, first.position)
		s.BindInt64(3, rest[n-1].position)
		s.BindInt64(4, int64(n))
		s.BindBytes(5, w.postings)
		if err := step(s); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// Positions are stored as the distance from the one before, which mostly is a
// byte. appendPosting appends one.
func appendPosting(b []byte, before, position int64) []byte {
	return binary.AppendUvarint(b, uint64(position-before))
}

// eachPosting calls f with the positions in b, until f returns false.
func eachPosting(b []byte, f func(position int64) bool) error {
	position := int64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 {
			return fmt.Errorf("%w: positions in an index", ErrCorrupt)
		}
		position += int64(d)
		if !f(position) {
			return nil
		}
		b = b[n:]
	}
	return nil
}

// sync brings what the writer knows of the log up to date, in a transaction.
// Only
// appends and deletions by hand change it, and both show here.
func (w *writer) sync() error {
	var last, removed, indexed event.Position
	s, err := w.Prepare("SELECT (SELECT max(position) FROM fairlead_events), removed, indexed FROM fairlead_control")
	if err != nil {
		return err
	}
	if _, err := s.Step(); err != nil {
		return err
	}
	last, removed, indexed = event.Position(s.ColumnInt64(0)), event.Position(s.ColumnInt64(1)), event.Position(s.ColumnInt64(2))
	if err := s.Reset(); err != nil {
		return err
	}
	head := max(last, removed)
	if w.fresh && head == w.head && removed == w.removed {
		return nil
	}
	from := w.head
	if !w.fresh || indexed != w.indexed || removed != w.removed || head < w.head {
		// Begin anew. Positions and versions that a rolled back append had are
		// free again; those of removed events are not.
		w.streams.clear()
		clear(w.tail)
		w.events = w.events[:0]
		w.foreign = false
		from = indexed
	}
	n := len(w.events)
	if w.events, err = w.appendTail(w.events, from, head); err != nil {
		return err
	}
	for _, e := range w.events[n:] {
		w.tail[e.stream] = e.version
		w.foreign = true
	}
	recorded, _, err := w.int64("SELECT recorded_at FROM fairlead_events ORDER BY position DESC LIMIT 1")
	if err != nil {
		return err
	}
	w.recorded = max(w.recorded, recorded)
	w.head, w.indexed, w.removed, w.fresh = head, indexed, removed, true
	return nil
}

// stream returns what is known of a stream; the zero value where it is new.
func (w *writer) stream(tenant, name string) (streamState, error) {
	no, ok := w.tenants.get(tenant)
	if !ok {
		n, found, err := w.int64(findTenant, tenant)
		if err != nil || !found {
			return streamState{}, err
		}
		w.tenants.put(tenant, n)
		no = n
	}
	s, err := w.lookup(streamKey{no, name})
	if err != nil || s == nil {
		return streamState{}, err
	}
	return *s, nil
}

const selectStream = `SELECT s.stream_no, max(s.floor, coalesce((SELECT i.version + i.events - 1
		FROM fairlead_stream_index i WHERE i.stream_no = s.stream_no ORDER BY i.version DESC LIMIT 1), 0))
	FROM fairlead_streams s WHERE s.tenant_no = ? AND s.name = ?`

// lookup returns a stream that exists, up to date, or nil.
func (w *writer) lookup(key streamKey) (*streamState, error) {
	s, ok := w.streams.get(key)
	if !ok {
		err := w.rows(selectStream, func(row *zs.Stmt) error {
			s = &streamState{no: row.ColumnInt64(0), version: row.ColumnInt64(1)}
			return nil
		}, key.tenant, key.name)
		if err != nil || s == nil {
			return nil, err
		}
		w.streams.put(key, s)
	}
	if v, ok := w.tail[s.no]; ok {
		s.version = max(s.version, v) // what was removed behind it counts too
	}
	return s, nil
}

// ensureStream is lookup that adds the stream where it is new. No is its number
// as of the plan, 0 where it had none.
func (w *writer) ensureStream(key streamKey, no int64) (*streamState, error) {
	if no != 0 {
		return w.lookup(key)
	}
	if s, ok := w.streams.get(key); ok { // an append before this one has added it
		return s, nil
	}
	if err := w.exec("INSERT INTO fairlead_streams(tenant_no, name) VALUES(?, ?) ON CONFLICT DO NOTHING", key.tenant, key.name); err != nil {
		return nil, err
	}
	if w.Changes() == 0 {
		return w.lookup(key)
	}
	s := &streamState{no: w.LastInsertRowID()}
	w.streams.put(key, s)
	return s, nil
}
