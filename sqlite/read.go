package sqlite

import (
	"cmp"
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// Defaults and bounds of a page.
const (
	defaultMaxEvents = 1000
	defaultMaxBytes  = 4 << 20
	maxExamined      = 1 << 16 // a page looks at so many events, whatever it finds
)

// Partitions implements [eventlog.Log]: there is one.
func (db *DB) Partitions(ctx context.Context) (int, error) { return 1, ctx.Err() }

func checkPartition(p int) error {
	if p != 0 {
		return fmt.Errorf("sqlite: no partition %d, the log has 1", p)
	}
	return nil
}

// A mark is how far the log reaches, in one snapshot.
type mark struct {
	head, removed, indexed, accepted event.Position
}

const selectMark = "SELECT (SELECT max(position) FROM fairlead_events), removed, indexed, accepted FROM fairlead_control"

// snapshot opens a read transaction, which lasts until the statement it returns
// is reset, and says how far the log reaches in it.
func (c *conn) snapshot() (mark, *zs.Stmt, error) {
	s, err := c.Prepare(selectMark)
	if err != nil {
		return mark{}, nil, err
	}
	if more, err := s.Step(); err != nil || !more {
		return mark{}, nil, cmp.Or(err, error(ErrCorrupt))
	}
	m := mark{
		head:     event.Position(s.ColumnInt64(0)),
		removed:  event.Position(s.ColumnInt64(1)),
		indexed:  event.Position(s.ColumnInt64(2)),
		accepted: event.Position(s.ColumnInt64(3)),
	}
	m.head = max(m.head, m.removed)
	return m, s, nil
}

// Head implements [eventlog.Log].
func (db *DB) Head(ctx context.Context, partition int) (event.Position, error) {
	if err := checkPartition(partition); err != nil {
		return 0, err
	}
	var m mark
	err := db.read(ctx, "read head", func(c *conn) error {
		got, s, err := c.snapshot()
		if err != nil {
			return err
		}
		m = got
		return s.Reset()
	})
	if err != nil {
		return 0, err
	}
	db.raise(m.head)
	return m.head, nil
}

// Read implements [eventlog.Log].
func (db *DB) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if err := checkPartition(req.Partition); err != nil {
		return eventlog.Page{}, err
	}
	req.MaxEvents = cmp.Or(max(req.MaxEvents, 0), defaultMaxEvents)
	req.MaxBytes = cmp.Or(max(req.MaxBytes, 0), defaultMaxBytes)
	var page eventlog.Page
	err := db.read(ctx, "read", func(c *conn) error {
		m, s, err := c.snapshot()
		if err != nil {
			return err
		}
		page, err = c.page(&req, m)
		if err != nil {
			return err
		}
		return s.Reset()
	})
	if err != nil {
		return eventlog.Page{}, err
	}
	db.raise(page.Head)
	return page, nil
}

// page reads a page in the snapshot of m.
func (c *conn) page(req *eventlog.ReadRequest, m mark) (eventlog.Page, error) {
	until := m.head
	if req.Until > 0 {
		until = min(until, req.Until)
	}
	page := eventlog.Page{Next: req.After, Head: m.head}
	if err := c.truncated(req.After, m); err != nil || req.After >= until {
		return page, err
	}
	f, err := c.resolve(&req.Filter)
	if err != nil {
		return page, err
	}
	if f.none {
		page.Next = until
		return page, nil
	}
	b := newPage(c, req, min(int64(until-req.After), int64(req.MaxEvents)), f.tenants == nil && f.typs == nil && f.classes == nil)
	if rare, ok := f.rare(); ok {
		page.Next, err = b.byClass(rare, &f, req.After, until)
	} else if few, ok := f.few(); ok {
		page.Next, err = b.byTenant(few, &f, req.After, until, m)
	} else {
		page.Next, err = b.scan(&f, req.After, until)
	}
	if err != nil {
		return page, err
	}
	page.Events = b.events()
	return page, nil
}

// truncated returns a [*eventlog.TruncatedError] where an event that follows
// after is gone.
func (c *conn) truncated(after event.Position, m mark) error {
	if after >= m.removed || m.accepted >= m.removed {
		return nil
	}
	first, found, err := c.int64("SELECT position FROM fairlead_events WHERE position > ? ORDER BY position LIMIT 1", int64(m.removed))
	if err != nil {
		return err
	}
	if !found {
		first = int64(m.removed) + 1
	}
	return &eventlog.TruncatedError{After: after, First: event.Position(first)}
}

// A rowFilter is an [eventlog.Filter] in numbers.
type rowFilter struct {
	all, none              bool
	stream                 int64           // 0: no matter
	tenants, exclude, typs map[int64]bool  // nil: no matter
	classes                map[string]bool // nil: no matter
}

// maxFew is how many tenants are looked up one by one in the index; for more,
// the log is scanned.
const maxFew = 64

// few returns the tenants to look up by the index.
func (f *rowFilter) few() (tenants []int64, ok bool) {
	if f.tenants == nil || len(f.tenants) > maxFew {
		return nil, false
	}
	for no := range f.tenants {
		tenants = append(tenants, no)
	}
	return tenants, true
}

// accepts reports whether the event in the current row is wanted.
func (f *rowFilter) accepts(s *zs.Stmt) bool {
	if f.all {
		return true
	}
	if f.stream != 0 {
		return s.ColumnInt64(colStream) == f.stream
	}
	return f.names(s.ColumnInt64(colTenant), s.ColumnInt64(colType)) && (f.classes == nil || f.classes[s.ColumnText(colClass)])
}

// names reports whether an event of this tenant and type is wanted.
func (f *rowFilter) names(tenant, typ int64) bool {
	return (f.tenants == nil || f.tenants[tenant]) && !f.exclude[tenant] && (f.typs == nil || f.typs[typ])
}

// resolve looks up the numbers of the names in f. A name without a number has no
// event in the snapshot.
func (c *conn) resolve(f *eventlog.Filter) (rowFilter, error) {
	if f.Tenants == nil && f.Exclude == nil && f.Types == nil && f.Classes == nil { // buckets are not looked at
		return rowFilter{all: true}, nil
	}
	numbers := func(names []string, known *cache[string, int64], query string) (map[int64]bool, error) {
		if names == nil {
			return nil, nil
		}
		out := make(map[int64]bool, len(names))
		for _, name := range names {
			n, found, err := c.no(known, query, name)
			if err != nil {
				return nil, err
			}
			if found {
				out[n] = true
			}
		}
		return out, nil
	}
	var r rowFilter
	var err error
	if r.tenants, err = numbers(f.Tenants, c.db.tenantNos, findTenant); err != nil {
		return r, err
	}
	if r.exclude, err = numbers(f.Exclude, c.db.tenantNos, findTenant); err != nil {
		return r, err
	}
	if r.typs, err = numbers(f.Types, c.db.typeNos, findType); err != nil {
		return r, err
	}
	for no := range r.exclude {
		delete(r.tenants, no)
	}
	if f.Classes != nil {
		r.classes = make(map[string]bool, len(f.Classes))
		for _, class := range f.Classes {
			r.classes[class] = true
		}
	}
	r.none = (r.tenants != nil && len(r.tenants) == 0) || (r.typs != nil && len(r.typs) == 0) || (r.classes != nil && len(r.classes) == 0)
	r.all = r.tenants == nil && len(r.exclude) == 0 && r.typs == nil && r.classes == nil
	return r, nil
}

// The columns of an event, in the order of the constants below. Parameter 1 is
// the most bytes of data that are wanted: of more, only the size is loaded.
const (
	eventColumns = `e.position, e.tenant_no, e.type_no, e.stream_no, e.version, e.occurred_at, e.recorded_at, e.id, e.metadata,
		CASE WHEN octet_length(e.data) > ?1 THEN octet_length(e.data) ELSE e.data END, e.class`
	selectRange    = "SELECT " + eventColumns + " FROM fairlead_events e WHERE e.position > ?2 AND e.position <= ?3 ORDER BY e.position"
	selectPosition = "SELECT " + eventColumns + " FROM fairlead_events e WHERE e.position = ?2"
)

const (
	colPosition = iota
	colTenant
	colType
	colStream
	colVersion
	colOccurred
	colRecorded
	colID
	colMetadata
	colData
	colClass
)
