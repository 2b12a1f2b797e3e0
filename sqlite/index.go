package sqlite

import (
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// The indexes of the log, by stream and by tenant, are filled in runs. An append
// of one event would otherwise touch a random page of each, and a page costs more
// than the event. The events behind fairlead_control.indexed, the tail, are few:
// readers look at them one by one, the writer knows their streams by heart.
const (
	indexRun    = 1024 // index when the tail has so many events
	indexRunMax = 8192 // ... in bulk loads, where larger runs touch fewer pages
)

// index brings the indexes up to the head, when the tail is long enough. Added
// is the number of events that the transaction appended.
func (w *writer) index(added int64) error {
	if int64(w.head-w.indexed) < max(indexRun, min(8*added, indexRunMax)) {
		return nil
	}
	for _, q := range []string{
		`INSERT INTO fairlead_stream_events(stream_no, version, position)
			SELECT stream_no, version, position FROM fairlead_events WHERE position > ? AND position <= ? ORDER BY 1, 2`,
		`INSERT INTO fairlead_tenant_events(tenant_no, position)
			SELECT tenant_no, position FROM fairlead_events WHERE position > ? AND position <= ? ORDER BY 1, 2`,
	} {
		if err := w.exec(q, int64(w.indexed), int64(w.head)); err != nil {
			return err
		}
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
		w.foreign = false
		from = indexed
	}
	err = w.rows("SELECT stream_no, version, recorded_at FROM fairlead_events WHERE position > ? ORDER BY position",
		func(s *zs.Stmt) error {
			w.tail[s.ColumnInt64(0)] = s.ColumnInt64(1)
			w.recorded = max(w.recorded, s.ColumnInt64(2))
			w.foreign = true
			return nil
		}, int64(from))
	if err != nil {
		return err
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

const selectStream = `SELECT s.stream_no, max(s.floor, coalesce((SELECT max(e.version) FROM fairlead_stream_events e WHERE e.stream_no = s.stream_no), 0))
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
		s.version = v
	}
	return s, nil
}

// addStream is lookup that adds the stream where it is new.
func (w *writer) addStream(tenant int64, name string) (*streamState, error) {
	key := streamKey{tenant, name}
	s, err := w.lookup(key)
	if err != nil || s != nil {
		return s, err
	}
	if err := w.exec("INSERT INTO fairlead_streams(tenant_no, name) VALUES(?, ?)", tenant, name); err != nil {
		return nil, err
	}
	s = &streamState{no: w.LastInsertRowID()}
	w.streams.put(key, s)
	return s, nil
}

// streamName returns the names of a stream by its number.
func (c *conn) streamName(no int64) (*eventlog.StreamRef, error) {
	if r, ok := c.db.streamNames.get(no); ok {
		return r, nil
	}
	r := new(eventlog.StreamRef)
	tenant := int64(-1)
	err := c.rows("SELECT tenant_no, name FROM fairlead_streams WHERE stream_no = ?", func(s *zs.Stmt) error {
		tenant, r.Stream = s.ColumnInt64(0), s.ColumnText(1)
		return nil
	}, no)
	if err != nil {
		return nil, err
	}
	if r.Tenant, err = c.name(c.db.tenantNames, "SELECT name FROM fairlead_tenants WHERE tenant_no = ?", tenant); err != nil {
		return nil, err
	}
	c.db.streamNames.put(no, r)
	return r, nil
}

func (c *conn) typeName(no int64) (string, error) {
	return c.name(c.db.typeNames, "SELECT name FROM fairlead_types WHERE type_no = ?", no)
}

// name returns a name by its number.
func (c *conn) name(known *cache[int64, string], query string, no int64) (string, error) {
	if name, ok := known.get(no); ok {
		return name, nil
	}
	name, found := "", false
	err := c.rows(query, func(s *zs.Stmt) error {
		name, found = s.ColumnText(0), true
		return nil
	}, no)
	switch {
	case err != nil:
		return "", err
	case !found:
		return "", c.dangling(query, no)
	}
	known.put(no, name)
	return name, nil
}

// no returns the number of a name, false where it has none yet. Only what is
// found is remembered: the name may come.
func (c *conn) no(known *cache[string, int64], query, name string) (int64, bool, error) {
	if n, ok := known.get(name); ok {
		return n, true, nil
	}
	n, found, err := c.int64(query, name)
	if err == nil && found {
		known.put(name, n)
	}
	return n, found, err
}

func (c *conn) tenantNo(name string) (int64, bool, error) {
	return c.no(c.db.tenantNos, findTenant, name)
}
