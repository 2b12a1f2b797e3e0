package sqlite

import (
	"errors"
	"slices"
	"sort"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	zs "zombiezen.com/go/sqlite"
)

// A tailCache keeps the tail of the log for the readers. What an event's
// position, stream, version and tenant are never changes, so what was read in one
// snapshot holds in the next; only what is new is read again.
type tailCache struct {
	mu                sync.Mutex
	from, to, removed event.Position
	events            []tailEvent // all in (from, to], by position; never changed, only appended to
}

// tailOf returns the events in (m.indexed, m.head], by position.
func (c *conn) tailOf(m mark) ([]tailEvent, error) {
	tc := &c.db.tail
	tc.mu.Lock()
	defer tc.mu.Unlock()
	if tc.removed != m.removed || m.indexed < tc.from || m.indexed > tc.to {
		tc.from, tc.to, tc.removed, tc.events = m.indexed, m.indexed, m.removed, nil
	}
	if m.indexed > tc.from {
		// Cloned, so that memory stays bounded.
		tc.from, tc.events = m.indexed, slices.Clone(tc.events[searchTail(tc.events, m.indexed):])
	}
	if m.head > tc.to {
		events, err := c.appendTail(tc.events, tc.to, m.head)
		if err != nil {
			return nil, err
		}
		tc.to, tc.events = m.head, events
	}
	return tc.events[:searchTail(tc.events, m.head)], nil // others may be ahead
}

// searchTail returns the index of the first event behind p.
func searchTail(events []tailEvent, p event.Position) int {
	return sort.Search(len(events), func(i int) bool { return events[i].position > int64(p) })
}

// streamPositions calls f with the versions and positions of a stream's events
// above version after, in order, until f returns false.
func (c *conn) streamPositions(stream, after int64, m mark, f func(version, position int64) bool) error {
	more := true
	// The run that holds after+1 begins at or before it.
	err := c.rows(`SELECT version, positions FROM fairlead_stream_index WHERE stream_no = ?1 AND version >=
		coalesce((SELECT max(version) FROM fairlead_stream_index WHERE stream_no = ?1 AND version <= ?2 + 1), 0) ORDER BY version`,
		func(s *zs.Stmt) error {
			if !more {
				return errEnough
			}
			version := s.ColumnInt64(0) - 1
			return eachPosting(columnBytes(s, 1), func(position int64) bool {
				version++
				more = version <= after || f(version, position)
				return more
			})
		}, stream, after)
	if err != nil && !errors.Is(err, errEnough) || !more {
		return ignoreEnough(err)
	}
	tail, err := c.tailOf(m)
	if err != nil {
		return err
	}
	for _, e := range tail {
		if e.stream == stream && e.version > after && !f(e.version, e.position) {
			break
		}
	}
	return nil
}

// indexedPosition returns the position of an event of a stream by the index, 0
// where that has none.
func (c *conn) indexedPosition(stream, version int64) (position int64, err error) {
	err = c.rows("SELECT version, positions FROM fairlead_stream_index WHERE stream_no = ? AND version <= ? ORDER BY version DESC LIMIT 1",
		func(s *zs.Stmt) error {
			v := s.ColumnInt64(0) - 1
			return eachPosting(columnBytes(s, 1), func(p int64) bool {
				if v++; v == version {
					position = p
				}
				return v < version
			})
		}, stream, version)
	return position, err
}

// tenantRuns calls f with the runs of the index by tenant that have events in
// (after, until], in order, until f returns false.
func (c *conn) tenantRuns(tenant int64, after, until event.Position, f func(first, last, events int64, s *zs.Stmt) (bool, error)) error {
	err := c.rows(`SELECT position, last, events, positions FROM fairlead_tenant_index WHERE tenant_no = ?1 AND position <= ?3 AND last > ?2
		AND position >= coalesce((SELECT max(position) FROM fairlead_tenant_index WHERE tenant_no = ?1 AND position <= ?2), 0)
		ORDER BY position`,
		func(s *zs.Stmt) error {
			more, err := f(s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s)
			if err == nil && !more {
				err = errEnough
			}
			return err
		}, tenant, int64(after), int64(until))
	return ignoreEnough(err)
}

// tenantPositions returns the positions of the tenants' events in (after,
// until], ascending, and up to where they are complete: where there are many
// more than limit, that is before until.
func (c *conn) tenantPositions(tenants []int64, after, until event.Position, limit int, m mark) ([]int64, event.Position, error) {
	each := max(limit/max(len(tenants), 1), 32)
	var out []int64
	for _, no := range tenants {
		n := 0
		add := func(p int64) bool {
			if p > int64(until) {
				return false
			}
			if p > int64(after) {
				out = append(out, p)
				n++
			}
			return n < each
		}
		err := c.tenantRuns(no, after, min(until, m.indexed), func(_, _, _ int64, s *zs.Stmt) (bool, error) {
			err := eachPosting(columnBytes(s, 3), add)
			return n < each, err
		})
		if err != nil {
			return nil, after, err
		}
		if n == each { // what is behind this is of no use from the others either
			until = event.Position(out[len(out)-1])
		}
	}
	if until > m.indexed {
		tail, err := c.tailOf(m)
		if err != nil {
			return nil, after, err
		}
		for _, e := range tail[searchTail(tail, after):] {
			if e.position <= int64(until) && slices.Contains(tenants, e.tenant) {
				out = append(out, e.position)
			}
		}
	}
	slices.Sort(out)
	n, _ := slices.BinarySearch(out, int64(until)+1)
	return out[:n], until, nil
}
