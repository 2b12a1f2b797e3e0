package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
)

// In one snapshot: how far the stream was deleted ($3 is the version to begin
// behind), and its events.
const readStream = `WITH s AS MATERIALIZED (
	SELECT s.floor FROM {schema}.streams s WHERE s.tenant = $1 AND s.stream = $2
)
SELECT CASE WHEN s.floor > $3 THEN (SELECT m.removed FROM {schema}.removed m) END,
	e.position, e.version, e.occurred_at, e.recorded_at, e.tenant, e.stream, e.type, e.class, e.id, e.metadata, e.data, e.raw, NULL::integer
FROM s LEFT JOIN LATERAL (
	SELECT ` + eventColumns + ` FROM {schema}.events e
	WHERE e.tenant = $1 AND e.stream = $2 AND e.version > $3 AND e.version <= $3 + $4::bigint AND s.floor <= $3
) e ON true ORDER BY e.version`

// ReadStream implements [eventlog.StreamReader]. It returns what is committed,
// beyond the safe head too: a stream has no gaps.
func (db *DB) ReadStream(ctx context.Context, stream eventlog.StreamRef, after int64, limit int) ([]event.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit = min(limit, math.MaxInt32)
	if limit <= 0 || !storable(stream.Tenant) || !storable(stream.Stream) {
		return nil, nil
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	out, err := db.readStream(ctx, stream, after, limit)
	return out, db.fault(ctx, fmt.Sprintf("read stream %q of tenant %q", stream.Stream, stream.Tenant), err)
}

func (db *DB) readStream(ctx context.Context, stream eventlog.StreamRef, after int64, limit int) ([]event.Event, error) {
	rows, err := db.pool.Query(ctx, db.q(db.sql.readStream), pgx.QueryResultFormats{pgx.BinaryFormatCode}, stream.Tenant, stream.Stream, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []event.Event
	m := memory{mapped: db.mapped != nil}
	defer m.done()
	for rows.Next() {
		v := rows.RawValues()
		if v[0] != nil {
			var removed int64
			if err := rows.Scan(&removed, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("postgres: read stream %q of tenant %q after version %d: %w", stream.Stream, stream.Tenant, after,
				&eventlog.TruncatedError{After: 0, First: event.Position(removed + 1)})
		}
		if v[1] == nil {
			continue
		}
		out = append(out, event.Event{})
		if err := m.decode(&out[len(out)-1], v[1:]); err != nil {
			return nil, fmt.Errorf("event at position %v: %w", out[len(out)-1].Position, err)
		}
	}
	return out, rows.Err()
}

const (
	countAll = selectFrontier + `, e AS (
	SELECT e.position FROM {schema}.events e WHERE e.position > $2 AND e.position <= least((SELECT f.safe FROM f), $3,
		(SELECT e.position FROM {schema}.events e WHERE e.position > $2 ORDER BY e.position LIMIT 1 OFFSET $4::integer - 1))
), c AS (SELECT count(*) AS n, min(e.position) AS first FROM e)` + countEnd
	countFound = selectFrontier + `, c AS (
	SELECT cardinality(t.positions) AS n, t.positions[1] AS first FROM f CROSS JOIN LATERAL
		{schema}.find($5, $6, $7, $8, $9, $2, least(f.safe, $3), $4::integer, 2147483647) t
)` + countEnd
	countedAll = selectFrontier + `, e AS (
	SELECT e.position, e.tenant, e.stream, e.tenant_hash, e.stream_hash
		FROM {schema}.events e WHERE e.position > $2 AND e.position <= least((SELECT f.safe FROM f), $3,
		(SELECT e.position FROM {schema}.events e WHERE e.position > $2 ORDER BY e.position LIMIT 1 OFFSET $4::integer - 1))
)`
	countedFound = selectFrontier + `, e AS (
	SELECT e.position, e.tenant, e.stream, e.tenant_hash, e.stream_hash FROM f CROSS JOIN LATERAL
		{schema}.find($5, $6, $7, $8, $9, $2, least(f.safe, $3), $4::integer, 2147483647) t
		CROSS JOIN LATERAL unnest(t.positions) u(position) JOIN {schema}.events e ON e.position = u.position
)`
	countEnd = ` SELECT ` + frontierColumns + `, c.n, (SELECT v.recorded_at FROM {schema}.events v WHERE v.position = c.first) FROM f CROSS JOIN c`
)

// Count implements [eventlog.Counter].
func (db *DB) Count(ctx context.Context, partition int, in eventlog.Filter, after, until event.Position, limit int) (n int, oldest time.Time, err error) {
	if err := checkCall(ctx, partition); err != nil {
		return 0, time.Time{}, err
	}
	f := normal(&in)
	if f.none || after >= until || limit <= 0 {
		return 0, time.Time{}, nil
	}
	limit = min(limit, math.MaxInt32)
	if in.Buckets != nil {
		return db.countBuckets(ctx, &in, f, after, until, limit)
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	var at *time.Time
	err = db.behindFrontier(ctx, func(safe int64) row {
		if f.all() {
			return db.pool.QueryRow(ctx, db.planned(db.sql.countAll, safe), safe, int64(after), int64(until), limit)
		}
		return db.pool.QueryRow(ctx, db.planned(db.sql.countFound, safe), safe, int64(after), int64(until), limit, f.few, f.tenants, f.exclude, f.types, f.classes)
	}, &n, &at)
	if err != nil {
		return 0, time.Time{}, db.fault(ctx, "count", err)
	}
	if at != nil {
		oldest = at.UTC()
	}
	return n, oldest, nil
}

// PositionAt implements [eventlog.Log]. The times of recording ascend with the
// positions, so it needs no index of them; where the server's clock was set back
// the answer is one of the places that could be meant.
func (db *DB) PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error) {
	if err := checkCall(ctx, partition); err != nil {
		return 0, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	var first *int64
	var gone int64
	err := db.behindFrontier(ctx, func(safe int64) row {
		return db.pool.QueryRow(ctx, db.q(db.sql.positionAt), safe, clampTime(t))
	}, &first, &gone)
	if err != nil {
		return 0, db.fault(ctx, "find position", err)
	}
	head := db.head.position()
	if first == nil {
		return max(head, event.Position(gone)), nil
	}
	return max(min(event.Position(*first-1), head), event.Position(gone)), nil
}

// behindFrontier runs a statement that begins with selectFrontier and returns one
// row: frontierColumns, then what is scanned into dest. Gaps are settled first.
func (db *DB) behindFrontier(ctx context.Context, query func(safe int64) row, dest ...any) error {
	for try := range 3 {
		safe, server, err := db.known(ctx)
		if err != nil {
			return err
		}
		var f frontier
		if err := query(safe).Scan(append([]any{&f.safe, &f.seen, &f.gone, &f.server}, dest...)...); err != nil {
			return damaged(err)
		}
		if !db.head.learn(&f, server) {
			continue
		}
		if f.safe < f.seen && try == 0 {
			moved, err := db.settle(ctx, &f, true)
			if err != nil {
				return err
			}
			if moved {
				continue
			}
		}
		return nil
	}
	return errRestarts
}
