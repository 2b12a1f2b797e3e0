package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

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

// A pageBuilder collects events. Payloads share large buffers, and so do ids:
// an event costs no allocation of its own.
type pageBuilder struct {
	c       *conn
	req     *eventlog.ReadRequest
	full    bool // the page must not have more
	maxData int64
	bytes   int
	out     []event.Event
	ids     []byte
	idEnds  []int
	data    []byte // the rest of the current buffer
	share   int    // and its size
	meta    map[string]event.Metadata
	metaBuf []byte

	stream   int64 // the one before, and its names
	names    *eventlog.StreamRef
	typ      int64
	typeName string
	class    string
}

// newPage returns a builder for about want events, if that is sure.
func newPage(c *conn, req *eventlog.ReadRequest, want int64, sure bool) *pageBuilder {
	b := &pageBuilder{c: c, req: req, stream: -1, typ: -1, maxData: 1 << 62}
	if req.MaxEventBytes > 0 {
		b.maxData = int64(req.MaxEventBytes)
	}
	if !sure {
		want = min(want, 64)
	}
	b.out = make([]event.Event, 0, want)
	b.idEnds = make([]int, 0, want)
	b.ids = make([]byte, 0, 32*want)
	return b
}

// events returns what was collected.
func (b *pageBuilder) events() []event.Event {
	ids, start := string(b.ids), 0
	for i, end := range b.idEnds {
		b.out[i].ID = ids[start:end]
		start = end
	}
	return b.out
}

// prepare prepares a statement with eventColumns.
func (b *pageBuilder) prepare(query string) (*zs.Stmt, error) {
	s, err := b.c.Prepare(query)
	if err == nil {
		s.BindInt64(1, b.maxData)
	}
	return s, err
}

// scan looks at the events in (after, until] in order, and returns up to where
// it came.
func (b *pageBuilder) scan(f *rowFilter, after, until event.Position) (event.Position, error) {
	s, err := b.prepare(selectRange)
	if err != nil {
		return after, err
	}
	if after < until-maxExamined {
		until = after + maxExamined
	}
	s.BindInt64(2, int64(after))
	s.BindInt64(3, int64(until))
	for {
		more, err := s.Step()
		if err != nil {
			return after, err
		}
		if !more {
			return until, s.Reset()
		}
		if !f.accepts(s) {
			continue
		}
		if err := b.add(s); err != nil {
			return after, err
		}
		if b.full {
			return b.out[len(b.out)-1].Position, s.Reset()
		}
	}
}

// byTenant is scan for the events of a few tenants, found by the index.
func (b *pageBuilder) byTenant(tenants []int64, f *rowFilter, after, until event.Position, m mark) (event.Position, error) {
	positions, until, err := b.c.tenantPositions(tenants, after, until, b.req.MaxEvents, m)
	if err != nil {
		return after, err
	}
	if last, done, err := b.find(positions, f); err != nil || !done {
		return last, err
	}
	return until, nil
}

// find adds the events at positions that f accepts, which are all of a range
// that it accepts. It returns where it came to, and whether that is the end.
func (b *pageBuilder) find(positions []int64, f *rowFilter) (last event.Position, done bool, err error) {
	if n := len(positions); n > 0 && positions[n-1]-positions[0] < int64(4*n) {
		// Close together: looking at all is faster than one by one.
		end := event.Position(positions[n-1])
		last, err = b.scan(f, event.Position(positions[0])-1, end)
		return last, last == end && !b.full, err
	}
	last, err = b.fetch(positions, f)
	return last, !b.full, err
}

// fetch adds the events at positions until the page is full, and returns the
// last position that it has looked at.
func (b *pageBuilder) fetch(positions []int64, f *rowFilter) (last event.Position, err error) {
	s, err := b.prepare(selectPosition)
	if err != nil {
		return 0, err
	}
	for _, p := range positions {
		s.BindInt64(2, p)
		more, err := s.Step()
		if err != nil {
			return last, err
		}
		if more && f.accepts(s) {
			if err := b.add(s); err != nil {
				return last, err
			}
		}
		if err := s.Reset(); err != nil {
			return last, err
		}
		if last = event.Position(p); b.full {
			break
		}
	}
	return last, nil
}

// add appends the event in the current row of s.
func (b *pageBuilder) add(s *zs.Stmt) error {
	b.out = append(b.out, event.Event{})
	e := &b.out[len(b.out)-1]
	e.Position = event.Position(s.ColumnInt64(colPosition))
	e.Version = s.ColumnInt64(colVersion)
	if no := s.ColumnInt64(colStream); no != b.stream {
		names, err := b.c.streamName(no)
		if err != nil {
			return err
		}
		b.stream, b.names = no, names
	}
	e.Tenant, e.Stream = b.names.Tenant, b.names.Stream
	if no := s.ColumnInt64(colType); no != b.typ {
		name, err := b.c.typeName(no)
		if err != nil {
			return err
		}
		b.typ, b.typeName = no, name
	}
	e.Type = b.typeName
	if !s.ColumnIsNull(colClass) {
		if class := s.ColumnText(colClass); class != b.class {
			b.class = class
		}
		e.Class = b.class
	}
	var err error
	if e.OccurredAt, err = columnTime(s, colOccurred); err != nil {
		return fmt.Errorf("event %v: %w", e.Position, err)
	}
	e.RecordedAt = time.Unix(0, s.ColumnInt64(colRecorded)).UTC()

	before := len(b.ids)
	if n := s.ColumnLen(colID); n > 0 {
		b.ids = append(b.ids, make([]byte, n)...)
		s.ColumnBytes(colID, b.ids[before:])
	} else {
		b.ids = appendDerivedID(b.ids, e)
	}
	b.idEnds = append(b.idEnds, len(b.ids))

	if err := b.metadata(s, e); err != nil {
		return fmt.Errorf("event %v: %w", e.Position, err)
	}
	if b.req.MaxEventBytes > 0 && s.ColumnType(colData) == zs.TypeInteger {
		e.Withheld = s.ColumnInt64(colData)
	} else if n := s.ColumnLen(colData); n > 0 {
		e.Data = b.buffer(n)
		s.ColumnBytes(colData, e.Data)
	}
	b.bytes += e.Size() + len(b.ids) - before
	b.full = len(b.out) >= b.req.MaxEvents || b.bytes >= b.req.MaxBytes
	return nil
}

// appendDerivedID appends [event.DerivedID].
func appendDerivedID(b []byte, e *event.Event) []byte {
	b = strconv.AppendInt(b, int64(len(e.Tenant)), 10)
	b = append(b, ':')
	b = append(b, e.Tenant...)
	b = append(b, '/')
	b = append(b, e.Stream...)
	b = append(b, '@')
	return strconv.AppendInt(b, e.Version, 10)
}

// buffer returns n bytes to fill. A small payload shares a buffer with its
// neighbours, a large one has its own, so that keeping one event does not keep
// much else. Buffers grow with the page: at the tail, pages are small.
func (b *pageBuilder) buffer(n int) []byte {
	const least, most = 1 << 10, 64 << 10
	if n > most/8 {
		return make([]byte, n)
	}
	if n > len(b.data) {
		b.share = min(max(2*b.share, least, 2*n), most)
		b.data = make([]byte, b.share)
	}
	out := b.data[:n:n]
	b.data = b.data[n:]
	return out
}

// metadata reads the metadata. Equal ones share a map: nobody may change it.
func (b *pageBuilder) metadata(s *zs.Stmt, e *event.Event) error {
	n := s.ColumnLen(colMetadata)
	if n == 0 {
		return nil
	}
	b.metaBuf = append(b.metaBuf[:0], make([]byte, n)...)
	s.ColumnBytes(colMetadata, b.metaBuf)
	if m, ok := b.meta[string(b.metaBuf)]; ok {
		e.Metadata = m
		return nil
	}
	m, err := decodeMetadata(b.metaBuf, s.ColumnType(colMetadata) == zs.TypeBlob)
	if err != nil {
		return err
	}
	if len(b.meta) < 64 {
		if b.meta == nil {
			b.meta = make(map[string]event.Metadata)
		}
		b.meta[string(b.metaBuf)] = m
	}
	e.Metadata = m
	return nil
}
