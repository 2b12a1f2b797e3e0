package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
)

// Defaults and bounds of a page.
const (
	defaultMaxEvents = 1000
	defaultMaxBytes  = 4 << 20
)

// Partitions implements [eventlog.Log]: there is one.
func (db *DB) Partitions(ctx context.Context) (int, error) { return 1, ctx.Err() }

func checkCall(ctx context.Context, partition int) error {
	if partition != 0 {
		return fmt.Errorf("postgres: no partition %d, the log has 1", partition)
	}
	return ctx.Err()
}

// Read implements [eventlog.Log].
func (db *DB) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if err := checkCall(ctx, req.Partition); err != nil {
		return eventlog.Page{}, err
	}
	req.MaxEvents = min(cmp.Or(max(req.MaxEvents, 0), defaultMaxEvents), math.MaxInt32)
	req.MaxBytes = cmp.Or(max(req.MaxBytes, 0), defaultMaxBytes)
	if req.Until <= 0 {
		req.Until = event.Unbounded
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	for range 3 {
		safe, server, err := db.known(ctx)
		if err != nil {
			return eventlog.Page{}, db.fault(ctx, "read", err)
		}
		p := newPageReader(&req)
		p.mapped = db.mapped != nil
		if err := db.readPage(ctx, p, safe); err != nil {
			return eventlog.Page{}, db.fault(ctx, fmt.Sprintf("read after position %v", req.After), err)
		}
		if !db.head.learn(&p.frontier, server) {
			continue
		}
		if p.gone > int64(req.After) {
			return eventlog.Page{}, db.fault(ctx, "read", db.truncated(ctx, req.After, p.gone))
		}
		page := eventlog.Page{Events: p.out, Next: max(p.next(), req.After), Head: event.Position(p.safe)}
		if p.safe < p.seen && page.Next >= min(page.Head, req.Until) {
			moved, err := db.settle(ctx, &p.frontier, len(page.Events) == 0)
			if err != nil {
				return eventlog.Page{}, db.fault(ctx, "look at a gap", err)
			}
			if moved && len(page.Events) == 0 {
				continue
			}
			page.Head = max(page.Head, db.head.position())
		}
		db.watch.raise(page.Head)
		return page, nil
	}
	// The safe head moved each time, and there is still nothing: the caller may
	// come again.
	return eventlog.Page{Next: req.After, Head: max(req.After, 0)}, nil
}

// truncated returns a [*eventlog.TruncatedError].
func (db *DB) truncated(ctx context.Context, after event.Position, gone int64) error {
	first := gone + 1
	err := db.pool.QueryRow(ctx, db.q("SELECT coalesce(min(position), $1::bigint + 1) FROM {schema}.events WHERE position > $1"), gone).Scan(&first)
	if err != nil {
		return err
	}
	return &eventlog.TruncatedError{After: after, First: event.Position(first)}
}

// The parameters of the statements of a page: $1 the safe head that is known, $2
// after, $3 until, $4 most events, $5 most bytes, $6 most bytes of one payload,
// then those of the filter.
const (
	eventColumns = `e.position, e.version, e.occurred_at, e.recorded_at, e.tenant, e.stream, e.type, e.class, e.id, e.metadata, e.data, e.raw`

	// cutPage ends the page, behind a list of events e: what goes over the limit
	// of bytes is not sent, nor is a payload that is withheld. The sizes are a
	// little smaller than event.Event.Size, so the last cut is made here.
	cutPage = `, v AS (
	SELECT e.*, coalesce(octet_length(e.data), octet_length(e.raw), 0) AS size FROM e
), w AS (
	SELECT v.*, row_number() OVER pages AS n, sum(` + sizeSent + `) OVER pages - ` + sizeSent + ` AS before
	FROM v WINDOW pages AS (ORDER BY v.position ROWS UNBOUNDED PRECEDING)
)
SELECT CASE WHEN coalesce(w.n, 1) = 1 THEN ARRAY[` + frontierColumns + `, b.upto] END,
	w.position, w.version, w.occurred_at, w.recorded_at, w.tenant, w.stream, w.type, w.class, w.id, w.metadata,
	CASE WHEN w.size > $6 THEN NULL ELSE w.data END, CASE WHEN w.size > $6 THEN NULL ELSE w.raw END,
	CASE WHEN w.size > $6 THEN w.size END
FROM f CROSS JOIN b LEFT JOIN w ON w.before < $5
ORDER BY w.position`
	sizeSent = `(160 + octet_length(v.tenant) + octet_length(v.stream) + octet_length(v.type) + CASE WHEN v.size > $6 THEN 0 ELSE v.size END)`

	// b: the page covers the positions up to upto, if it is not cut. That it
	// holds no more than $4 events is said by their number, so that no plan, of
	// whatever statistics, reads the rest of the log. The number is in a query of its
	// own: where the planner knows it, and has no statistics, it thinks that there
	// are fewer events than that in all, and reads and sorts them all.
	readCut = selectFrontier + `, b AS MATERIALIZED (
	SELECT CASE WHEN $2 < f.gone THEN $2 ELSE least(f.safe, $3,
		(SELECT e.position FROM {schema}.events e WHERE e.position > $2 ORDER BY e.position LIMIT 1 OFFSET (SELECT $4::integer - 1))) END AS upto FROM f
), e AS (
	SELECT ` + eventColumns + ` FROM {schema}.events e WHERE e.position > $2 AND e.position <= (SELECT b.upto FROM b)
)` + cutPage

	// readAll is readCut for a page that need not be cut, as nearly all need not:
	// it measures the page before it sends it, and sends nothing where it must be
	// cut after all. To number and sum up rows one by one and to sort them is
	// most of what the server does for readCut, ten times what it takes to read
	// them. Rows come in any order.
	readAll = selectFrontier + `, b AS MATERIALIZED (
	SELECT CASE WHEN c.n < $4 THEN f.upto ELSE c.last END AS upto, c.first, c.n, c.fits
	FROM (SELECT CASE WHEN $2 < f.gone THEN $2 ELSE least(f.safe, $3) END AS upto FROM f) f CROSS JOIN LATERAL (
		SELECT count(*) AS n, min(v.position) AS first, max(v.position) AS last,
			coalesce(sum(160 + octet_length(v.tenant) + octet_length(v.stream) + octet_length(v.type) + v.size) < $5 AND max(v.size) <= $6, true) AS fits
		FROM (SELECT e.position, e.tenant, e.stream, e.type, coalesce(octet_length(e.data), octet_length(e.raw), 0) AS size
			FROM {schema}.events e WHERE e.position > $2 AND e.position <= f.upto ORDER BY e.position LIMIT (SELECT $4::integer)) v
	) c
)
SELECT CASE WHEN e.position IS NULL OR e.position = b.first THEN ARRAY[` + frontierColumns + `, b.upto, b.n, b.fits::integer] END,
	` + eventColumns + `, NULL::integer
FROM f CROSS JOIN b LEFT JOIN {schema}.events e ON b.fits AND e.position > $2 AND e.position <= b.upto`

	// $7 a few tenants, $8 tenants, $9 tenants to leave out, $10 types, $11 classes.
	readFound = selectFrontier + `, d AS MATERIALIZED (
	SELECT t.positions, t.reached FROM f CROSS JOIN LATERAL
		{schema}.find($7, $8, $9, $10, $11, $2::bigint, CASE WHEN $2 < f.gone THEN $2 ELSE least(f.safe, $3) END, $4::integer, 16384) t
), b AS (
	SELECT d.reached AS upto FROM d
), e AS (
	SELECT ` + eventColumns + ` FROM ` + joinFound + `
)` + cutPage
	joinFound = `d CROSS JOIN LATERAL unnest(d.positions) u(position) JOIN {schema}.events e ON e.position = u.position`
)

// maxFew is how many tenants are looked up one by one in the index; for more,
// the log is scanned.
const maxFew = 64

// planned is the statement under a text that changes as the log grows, so that
// PostgreSQL does not keep the plan that it made for an empty log.
func (db *DB) planned(sql string, safe int64) string {
	return db.q(sql) + plans[bits.Len64(uint64(safe))/4]
}

var plans = func() (out [17]string) {
	for i := range out {
		out[i] = fmt.Sprintf(" /* log of 16^%d */", i)
	}
	return out
}()

// A filter is an [eventlog.Filter] in the form that statements take. Nil tenants,
// types or classes are all.
type filter struct {
	none                    bool     // it selects nothing
	few                     []string // tenants that are looked up in the index; else nil
	tenants, exclude, types []string // nil: no matter
	classes                 []string // nil: no matter
}

func normal(in *eventlog.Filter) filter {
	// A name that cannot be stored is in no event.
	keep := func(names []string) []string {
		if names == nil {
			return nil
		}
		out := make([]string, 0, len(names))
		for _, n := range names {
			if storable(n) {
				out = append(out, n)
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	f := filter{tenants: keep(in.Tenants), exclude: keep(in.Exclude), types: keep(in.Types), classes: keep(in.Classes)}
	if f.tenants != nil && len(f.exclude) > 0 {
		f.tenants = slices.DeleteFunc(f.tenants, func(t string) bool {
			_, out := slices.BinarySearch(f.exclude, t)
			return out
		})
		f.exclude = nil
	}
	f.none = (f.tenants != nil && len(f.tenants) == 0) || (f.types != nil && len(f.types) == 0) || (f.classes != nil && len(f.classes) == 0)
	if len(f.tenants) > 0 && len(f.tenants) <= maxFew {
		f.few, f.tenants = f.tenants, nil
	}
	if len(f.exclude) == 0 {
		f.exclude = nil
	}
	return f
}

// all reports whether f selects everything.
func (f *filter) all() bool {
	return !f.none && f.few == nil && f.tenants == nil && f.exclude == nil && f.types == nil && f.classes == nil
}

// A pageReader reads one page.
type pageReader struct {
	req *eventlog.ReadRequest
	frontier
	upto     int64 // what the page covers if it is not cut
	full     bool
	tooLarge bool // it must be cut, and was not sent
	out      []event.Event
	memory
}

func newPageReader(req *eventlog.ReadRequest) *pageReader { return &pageReader{req: req} }

// next returns the position up to which the page covers the log.
func (p *pageReader) next() event.Position {
	if p.full && len(p.out) > 0 {
		return p.out[len(p.out)-1].Position
	}
	return event.Position(p.upto)
}

func (p *pageReader) read(ctx context.Context, db *DB, safe int64) error {
	maxData := math.MaxInt32 // more than a row can hold
	if p.req.MaxEventBytes > 0 {
		maxData = min(p.req.MaxEventBytes, maxData)
	}
	if done, err := p.readBelow(ctx, db, safe, maxData); done || err != nil {
		return err
	}
	*p = pageReader{req: p.req, memory: memory{mapped: p.mapped}}
	args := []any{pgx.QueryResultFormats{pgx.BinaryFormatCode},
		safe, int64(p.req.After), int64(p.req.Until), p.req.MaxEvents, int64(p.req.MaxBytes), maxData}
	if f := normal(&p.req.Filter); !f.all() {
		return p.readPage(ctx, db, db.planned(db.sql.found(&f), safe), append(args, f.few, f.tenants, f.exclude, f.types, f.classes))
	}
	if groups := groupBuckets(p.req.Filter.Buckets); groups != nil && db.mapped == nil {
		sql, more := readBuckets(groups, p.req.MaxEvents)
		return p.readPage(ctx, db, db.planned(sql, safe), append(args, more...))
	}
	err := p.readPage(ctx, db, db.planned(db.sql.readAll, safe), args)
	if err == nil && p.tooLarge {
		*p = *newPageReader(p.req)
		err = p.readPage(ctx, db, db.planned(db.sql.readCut, safe), args)
	}
	return err
}

// readPage runs a statement of a page.
func (p *pageReader) readPage(ctx context.Context, db *DB, sql string, args []any) error {
	rows, err := db.pool.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	defer p.done()
	sorted := true
	for rows.Next() {
		v := rows.RawValues()
		if v[0] != nil {
			var head []int64
			if err := rows.Conn().TypeMap().Scan(int8Array, pgx.BinaryFormatCode, v[0], &head); err != nil {
				return err
			}
			p.frontier = frontier{safe: head[0], seen: head[1], gone: head[2], server: head[3]}
			p.upto = head[4]
			if len(head) > 5 {
				p.out, p.tooLarge = slices.Grow(p.out, int(head[5])), head[6] == 0
			}
		}
		if v[1] == nil {
			continue
		}
		if err := p.checkMapped(v); err != nil {
			return err
		}
		p.out = append(p.out, event.Event{})
		e := &p.out[len(p.out)-1]
		if err := p.decode(e, v[1:]); err != nil {
			return fmt.Errorf("event at position %v: %w", e.Position, err)
		}
		sorted = sorted && (len(p.out) == 1 || p.out[len(p.out)-2].Position < e.Position)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if p.server == 0 {
		return damaged(pgx.ErrNoRows)
	}
	if !sorted {
		slices.SortFunc(p.out, func(a, b event.Event) int { return cmp.Compare(a.Position, b.Position) })
	}
	p.cut()
	return nil
}

// cut takes away what goes over the limits of the page.
func (p *pageReader) cut() {
	bytes := 0
	for i := range p.out {
		bytes += p.out[i].Size()
		if p.full = i+1 >= p.req.MaxEvents || bytes >= p.req.MaxBytes; p.full {
			clear(p.out[i+1:])
			p.out = p.out[:i+1]
			return
		}
	}
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
