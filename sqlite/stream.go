package sqlite

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// ReadStream implements [eventlog.StreamReader].
func (db *DB) ReadStream(ctx context.Context, stream eventlog.StreamRef, after int64, limit int) ([]event.Event, error) {
	var out []event.Event
	req := eventlog.ReadRequest{MaxEvents: max(limit, 0), MaxBytes: 1 << 62}
	err := db.read(ctx, "read stream", func(c *conn) error {
		out = nil
		m, snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		no, floor, err := c.findStream(stream)
		if err != nil || no == 0 || limit <= 0 {
			return err
		}
		if after < floor {
			return fmt.Errorf("sqlite: read stream %q of tenant %q after version %d: %w", stream.Stream, stream.Tenant, after,
				&eventlog.TruncatedError{After: 0, First: m.removed + 1})
		}
		b := newPage(c, &req, int64(limit), false)
		var positions []int64
		err = c.streamPositions(no, after, m, func(_, position int64) bool {
			positions = append(positions, position)
			return len(positions) < limit
		})
		if err == nil {
			_, _, err = b.find(positions, &rowFilter{stream: no})
		}
		if err != nil {
			return err
		}
		out = b.events()
		return snapshot.Reset()
	})
	return out, err
}

// findStream returns a stream's number, 0 where it has none, and the highest of
// its versions that are gone.
func (c *conn) findStream(r eventlog.StreamRef) (no, floor int64, err error) {
	tenant, found, err := c.tenantNo(r.Tenant)
	if err != nil || !found {
		return 0, 0, err
	}
	err = c.rows("SELECT stream_no, floor FROM fairlead_streams WHERE tenant_no = ? AND name = ?", func(s *zs.Stmt) error {
		no, floor = s.ColumnInt64(0), s.ColumnInt64(1)
		return nil
	}, tenant, r.Stream)
	return no, floor, err
}

// Versions implements [eventlog.Appender].
func (db *DB) Versions(ctx context.Context, streams ...eventlog.StreamRef) ([]int64, error) {
	out := make([]int64, len(streams))
	err := db.read(ctx, "read versions", func(c *conn) error {
		clear(out)
		m, snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		tail, err := c.tailOf(m)
		if err != nil {
			return err
		}
		in := make(map[int64]int64) // stream_no -> version
		for _, e := range tail {
			in[e.stream] = e.version
		}
		for i, r := range streams {
			no, floor, err := c.findStream(r)
			if err != nil {
				return err
			}
			if no == 0 {
				continue
			}
			v, ok := in[no]
			if !ok {
				v, _, err = c.int64("SELECT version + events - 1 FROM fairlead_stream_index WHERE stream_no = ? ORDER BY version DESC LIMIT 1", no)
			}
			if err != nil {
				return err
			}
			out[i] = max(v, floor)
		}
		return snapshot.Reset()
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Count implements [eventlog.Counter].
func (db *DB) Count(ctx context.Context, partition int, f eventlog.Filter, after, until event.Position, limit int) (n int, oldest time.Time, err error) {
	if err := checkPartition(partition); err != nil {
		return 0, time.Time{}, err
	}
	err = db.read(ctx, "count", func(c *conn) error {
		m, snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		n, oldest, err = c.count(&f, after, min(until, m.head), limit, m)
		if err != nil {
			return err
		}
		return snapshot.Reset()
	})
	return n, oldest, err
}

func (c *conn) count(filter *eventlog.Filter, after, until event.Position, limit int, m mark) (int, time.Time, error) {
	if after >= until || limit <= 0 {
		return 0, time.Time{}, nil
	}
	f, err := c.resolve(filter)
	if err != nil || f.none {
		return 0, time.Time{}, err
	}
	buckets := c.buckets(filter.Buckets)
	if f.all && buckets == nil && after >= m.removed {
		// Positions are dense where nothing was deleted.
		oldest, err := c.recordedAt(int64(after) + 1)
		return int(min(int64(until-after), int64(limit))), oldest, err
	}
	n, looked, first := 0, 0, int64(0)
	found := func(position, count, stream int64) {
		if looked = int(min(int64(looked)+count, int64(limit))); buckets == nil {
			n = looked
		} else if !buckets.has(position, stream) {
			return
		} else {
			n++
		}
		if first == 0 || position < first {
			first = position
		}
	}
	if few, ok := f.few(); ok && f.typs == nil && f.classes == nil {
		for _, no := range few {
			err := c.tenantRuns(no, after, min(until, m.indexed), func(start, last, events int64, s *zs.Stmt) (bool, error) {
				if buckets == nil && start > int64(after) && last <= int64(until) {
					found(start, events, 0)
					return looked < limit, nil
				}
				err := eachPosting(columnBytes(s, 3), func(p int64) bool {
					if p > int64(after) && p <= int64(until) {
						found(p, 1, 0)
					}
					return p <= int64(until) && (buckets == nil || looked < limit)
				})
				return looked < limit, err
			})
			if err != nil {
				return 0, time.Time{}, err
			}
		}
		tail, err := c.tailOf(m)
		if err != nil {
			return 0, time.Time{}, err
		}
		for _, e := range tail[searchTail(tail, after):] {
			if e.position <= int64(until) && slices.Contains(few, e.tenant) && (buckets == nil || looked < limit) {
				found(e.position, 1, e.stream)
			}
		}
		after = until
	}
	if after < until {
		if err := c.countRows(&f, after, until, func(p, stream int64) bool { found(p, 1, stream); return looked < limit }); err != nil {
			return 0, time.Time{}, err
		}
	}
	if buckets != nil && buckets.err != nil {
		return 0, time.Time{}, buckets.err
	}
	if n == 0 {
		return 0, time.Time{}, nil
	}
	oldest, err := c.recordedAt(first)
	return n, oldest, err
}

// recordedAt returns when the first event at or behind a position was recorded,
// the zero time where there is none.
func (c *conn) recordedAt(position int64) (time.Time, error) {
	n, found, err := c.int64("SELECT recorded_at FROM fairlead_events WHERE position >= ? ORDER BY position LIMIT 1", position)
	if err != nil || !found {
		return time.Time{}, err
	}
	return time.Unix(0, n).UTC(), nil
}

// PositionAt implements [eventlog.Log]. The times of recording ascend with the
// positions, so it needs no index.
func (db *DB) PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error) {
	if err := checkPartition(partition); err != nil {
		return 0, err
	}
	var out event.Position
	err := db.read(ctx, "find position", func(c *conn) error {
		m, snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		low := m.removed
		n := sort.Search(int(m.head-low), func(i int) bool {
			if err != nil {
				return true
			}
			var at time.Time
			at, err = c.recordedAt(int64(low) + int64(i) + 1)
			return at.IsZero() || !at.Before(t)
		})
		if err != nil {
			return err
		}
		out = low + event.Position(n)
		return snapshot.Reset()
	})
	return out, err
}
