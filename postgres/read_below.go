package postgres

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/jackc/pgx/v5"
)

// Below the safe head there is nothing to find out about gaps, so a page of it is
// read by a plain walk along the index: half of what readAll costs the server,
// and planned in no time. What readAll does before it sends a page, to measure it,
// is guessed here from the pages before: how many events fit into one. A guess
// that is wrong costs no memory: what does not fit is received and dropped.
//
// Two things must still be asked for with each page: whether events of it have
// been deleted, after they were read, and whether the server is the one that the
// safe head is of.
const (
	// $1 after, $2 up to, $3 most events, for a query of its own see readCut, $4 most
	// bytes of one payload.
	readBelow = `SELECT e.position, e.version, e.occurred_at, e.recorded_at, e.tenant, e.stream, e.type, e.class, e.id, e.metadata,
	CASE WHEN octet_length(e.data) > $4 THEN NULL ELSE e.data END, CASE WHEN octet_length(e.raw) > $4 THEN NULL ELSE e.raw END,
	CASE WHEN coalesce(octet_length(e.data), octet_length(e.raw), 0) > $4 THEN coalesce(octet_length(e.data), octet_length(e.raw)) END
FROM {schema}.events e WHERE e.position > $1 AND e.position <= $2 ORDER BY e.position LIMIT (SELECT $3::integer)`
	readGone = `SELECT CASE WHEN accepted < removed THEN removed ELSE 0 END, (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
FROM {schema}.removed LIMIT 1`

	leastAverage = 256 // bytes of an event, as long as nothing is known
	// A payload that is this many times larger than what is expected of each event
	// is left to readAll, so that a page of such is not sent in vain.
	outlier      = 4
	leastOutlier = 4 << 10
	measureAfter = 16 // pages, after one with an outlier
)

// An eventSize is what is known of the sizes of a log's events.
type eventSize struct {
	average atomic.Int64 // bytes of the events of the last page; 0: not known
	measure atomic.Int64 // so many pages are to be measured before they are sent
}

// readBelow reads a page that ends before the safe head, and reports whether it
// did. One that comes to the safe head must say how far the log reaches by now.
func (p *pageReader) readBelow(ctx context.Context, db *DB, safe int64, maxData int) (done bool, err error) {
	if db.mapped != nil || !p.req.Filter.All() || safe-int64(p.req.After) <= int64(p.req.MaxEvents) {
		return false, nil
	}
	if n := db.sizes.measure.Load(); n > 0 {
		db.sizes.measure.Store(n - 1) // a page more or less does not matter
		return false, nil
	}
	average := max(db.sizes.average.Load(), leastAverage)
	events := int(min(int64(p.req.MaxEvents), int64(p.req.MaxBytes)/average+1))
	most := min(maxData, max(outlier*p.req.MaxBytes/events, leastOutlier))
	p.frontier = frontier{safe: safe, seen: safe}
	p.upto = min(safe, int64(p.req.Until))

	b := &pgx.Batch{}
	b.Queue(db.planned(readBelow, safe), int64(p.req.After), p.upto, events, most)
	b.Queue(db.q(readGone))
	br := db.pool.SendBatch(ctx, b)
	defer func() { _ = br.Close() }() // an error of it has come before
	bytes, err := p.take(br, events, most, maxData)
	if err != nil {
		return false, err
	}
	if err := br.QueryRow().Scan(&p.gone, &p.server); err != nil {
		return false, damaged(err)
	}
	if err := br.Close(); err != nil {
		return false, err
	}
	if len(p.out) > 0 {
		db.sizes.average.Store(int64(bytes / len(p.out)))
	}
	if p.tooLarge {
		db.sizes.measure.Store(measureAfter)
	}
	return int64(p.next()) < safe && (!p.tooLarge || len(p.out) > 0), nil
}

// take takes the events of a page from the first result of br, and returns their
// size. The page ends before a payload that was left out although it is not too
// large for the reader: then it is tooLarge.
func (p *pageReader) take(br pgx.BatchResults, events, most, maxData int) (bytes int, err error) {
	rows, err := br.Query()
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	defer p.done()
	p.out = make([]event.Event, 0, events)
	for rows.Next() {
		if p.full {
			continue
		}
		p.out = p.out[:len(p.out)+1]
		e := &p.out[len(p.out)-1]
		if err := p.decode(e, rows.RawValues()); err != nil {
			return 0, fmt.Errorf("event at position %v: %w", e.Position, err)
		}
		if e.Withheld > 0 && e.Withheld <= int64(maxData) && most < maxData {
			*e = event.Event{}
			p.out = p.out[:len(p.out)-1]
			p.full, p.tooLarge = true, true
			continue
		}
		bytes += e.Size()
		p.full = len(p.out) >= events || bytes >= p.req.MaxBytes
	}
	return bytes, rows.Err()
}
