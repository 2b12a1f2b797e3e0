package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/sqlite"
	zs "zombiezen.com/go/sqlite"
)

// appendCalls makes calls that append n events each to one stream, of Zipf
// distributed streams, with payloads of about 110 bytes.
func appendCalls(calls, n int) []eventlog.StreamAppend {
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	zipf := rand.NewZipf(rng, 1.1, 10, 9_999)
	out := make([]eventlog.StreamAppend, calls)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range out {
		k := zipf.Uint64()
		out[i] = eventlog.StreamAppend{Tenant: fmt.Sprintf("tenant-%02d", k%50), Stream: fmt.Sprintf("order-%06d", k), Events: make([]eventlog.NewEvent, n)}
		for j := range out[i].Events {
			at = at.Add(time.Second)
			out[i].Events[j] = eventlog.NewEvent{Type: "OrderLineAdded", OccurredAt: at, Data: fmt.Appendf(nil,
				`{"product":"%05d","description":"A THING OF SOME KIND IN RED","quantity":%d,"unit_price_milli":%d,"customer":"%05d"}`,
				rng.IntN(4000), 1+rng.IntN(20), 100+rng.IntN(9900), k)}
		}
	}
	return out
}

// An appendLoop is a hand-written appender on the schema of package sqlite: the
// same statements, transactions and upkeep of the indexes. It knows the versions
// of the streams that it has seen by heart, for as long as nobody else appends.
type appendLoop struct {
	c        *raw
	tenants  map[string]int64
	types    map[string]int64
	streams  map[streamName]*loopStream
	head     int64
	indexed  int64
	recorded int64
	tail     []loopEvent // not yet in the indexes
	postings []byte
}

type loopEvent struct{ position, stream, version, tenant int64 }

type streamName struct {
	tenant int64
	name   string
}

type loopStream struct{ no, version int64 }

const (
	loopMark   = "SELECT (SELECT max(position) FROM fairlead_events), removed, indexed FROM fairlead_control"
	loopInsert = `INSERT INTO fairlead_events(position, tenant_no, stream_no, version, type_no, occurred_at, recorded_at, id, metadata, data)
	VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	loopStreamVersion = `SELECT s.stream_no, max(s.floor, coalesce((SELECT i.version + i.events - 1
		FROM fairlead_stream_index i WHERE i.stream_no = s.stream_no ORDER BY i.version DESC LIMIT 1), 0))
	FROM fairlead_streams s WHERE s.tenant_no = ? AND s.name = ?`
	loopByStream = "INSERT INTO fairlead_stream_index(stream_no, version, events, positions) VALUES(?, ?, ?, ?)"
	loopByTenant = "INSERT INTO fairlead_tenant_index(tenant_no, position, last, events, positions) VALUES(?, ?, ?, ?, ?)"
)

func (l *appendLoop) append(a *eventlog.StreamAppend) error {
	if err := l.c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	// Another process may have appended: then the loop would have to look again.
	err := l.c.rows(loopMark, func(s *zs.Stmt) error {
		if s.ColumnInt64(0) != l.head || s.ColumnInt64(2) != l.indexed {
			return errors.New("another writer")
		}
		return nil
	})
	if err != nil {
		return err
	}
	tenant, err := l.number(l.tenants, "INSERT INTO fairlead_tenants(name) VALUES(?)", a.Tenant)
	if err != nil {
		return err
	}
	st := l.streams[streamName{tenant, a.Stream}]
	if st == nil {
		// It may be there from an earlier run.
		err := l.c.rows(loopStreamVersion, func(s *zs.Stmt) error {
			st = &loopStream{s.ColumnInt64(0), s.ColumnInt64(1)}
			l.streams[streamName{tenant, a.Stream}] = st
			return nil
		}, tenant, a.Stream)
		if err != nil {
			return err
		}
	}
	if st == nil {
		if err := l.c.exec("INSERT INTO fairlead_streams(tenant_no, name) VALUES(?, ?)", tenant, a.Stream); err != nil {
			return err
		}
		st = &loopStream{no: l.c.LastInsertRowID()}
		l.streams[streamName{tenant, a.Stream}] = st
	}
	s, err := l.c.Prepare(loopInsert)
	if err != nil {
		return err
	}
	l.recorded = max(l.recorded, time.Now().UnixNano())
	for i := range a.Events {
		e := &a.Events[i]
		typ, err := l.number(l.types, "INSERT INTO fairlead_types(name) VALUES(?)", e.Type)
		if err != nil {
			return err
		}
		l.head++
		st.version++
		s.BindInt64(1, l.head)
		s.BindInt64(2, tenant)
		s.BindInt64(3, st.no)
		s.BindInt64(4, st.version)
		s.BindInt64(5, typ)
		s.BindInt64(6, e.OccurredAt.UnixNano())
		s.BindInt64(7, l.recorded)
		s.BindNull(8)
		s.BindNull(9)
		s.BindText(10, unsafeString(e.Data))
		if err := stepOnce(s); err != nil {
			return err
		}
		l.tail = append(l.tail, loopEvent{l.head, st.no, st.version, tenant})
	}
	if err := l.index(len(a.Events)); err != nil {
		return err
	}
	return l.c.exec("COMMIT")
}

// index fills the two indexes in runs, as often as package sqlite does.
func (l *appendLoop) index(added int) error {
	if l.head-l.indexed < int64(max(1024, min(8*added, 8192))) {
		return nil
	}
	slices.SortFunc(l.tail, func(a, b loopEvent) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.version, b.version))
	})
	s, err := l.c.Prepare(loopByStream)
	if err != nil {
		return err
	}
	for rest := l.tail; len(rest) > 0; {
		n := l.run(rest, func(e loopEvent) int64 { return e.stream })
		s.BindInt64(1, rest[0].stream)
		s.BindInt64(2, rest[0].version)
		s.BindInt64(3, int64(n))
		s.BindBytes(4, l.postings)
		if err := stepOnce(s); err != nil {
			return err
		}
		rest = rest[n:]
	}
	slices.SortFunc(l.tail, func(a, b loopEvent) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.position, b.position))
	})
	if s, err = l.c.Prepare(loopByTenant); err != nil {
		return err
	}
	for rest := l.tail; len(rest) > 0; {
		n := l.run(rest, func(e loopEvent) int64 { return e.tenant })
		s.BindInt64(1, rest[0].tenant)
		s.BindInt64(2, rest[0].position)
		s.BindInt64(3, rest[n-1].position)
		s.BindInt64(4, int64(n))
		s.BindBytes(5, l.postings)
		if err := stepOnce(s); err != nil {
			return err
		}
		rest = rest[n:]
	}
	l.indexed, l.tail = l.head, l.tail[:0]
	return l.c.exec("UPDATE fairlead_control SET indexed = ?", l.head)
}

// run puts the positions of the first events that have one value of by into
// postings, as distances, and returns how many events that are.
func (l *appendLoop) run(events []loopEvent, by func(loopEvent) int64) int {
	first, before, n := by(events[0]), int64(0), 0
	l.postings = l.postings[:0]
	for ; n < len(events) && by(events[n]) == first; n++ {
		l.postings = binary.AppendUvarint(l.postings, uint64(events[n].position-before))
		before = events[n].position
	}
	return n
}

func stepOnce(s *zs.Stmt) error {
	_, err := s.Step()
	return errors.Join(err, s.Reset())
}

func (l *appendLoop) number(known map[string]int64, add, name string) (int64, error) {
	if n, ok := known[name]; ok {
		return n, nil
	}
	if err := l.c.exec(add, name); err != nil {
		return 0, err
	}
	known[name] = l.c.LastInsertRowID()
	return known[name], nil
}

// appendOurs and appendTheirs append all calls, one after the other.
func appendOurs(ctx context.Context, path string, calls []eventlog.StreamAppend) (took time.Duration, err error) {
	db, err := sqlite.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	started := time.Now()
	for i := range calls {
		if _, err := db.Append(ctx, calls[i]); err != nil {
			return 0, err
		}
	}
	return time.Since(started), nil
}

func appendTheirs(_ context.Context, path string, calls []eventlog.StreamAppend) (took time.Duration, err error) {
	db, err := sqlite.Open(path) // makes the schema
	if err != nil {
		return 0, err
	}
	if err := db.Close(); err != nil {
		return 0, err
	}
	c, err := openRaw(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	l := appendLoop{c: c, tenants: map[string]int64{}, types: map[string]int64{}, streams: map[streamName]*loopStream{}}
	started := time.Now()
	for i := range calls {
		if err := l.append(&calls[i]); err != nil {
			return 0, err
		}
	}
	return time.Since(started), nil
}

// checkAppended compares a log with what was appended to it, event by event.
func checkAppended(ctx context.Context, path string, calls []eventlog.StreamAppend) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	versions := map[eventlog.StreamRef]int64{}
	i, j, n := 0, 0, 0
	err = eachEvent(ctx, db, func(e *event.Event) error {
		if i == len(calls) {
			return errors.New("wrong result: more events than were appended")
		}
		a := &calls[i]
		ref := eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}
		versions[ref]++
		n++
		if w := &a.Events[j]; e.Tenant != a.Tenant || e.Stream != a.Stream || e.Version != versions[ref] || e.Type != w.Type ||
			!e.OccurredAt.Equal(w.OccurredAt) || string(e.Data) != string(w.Data) || e.Position != event.Position(n) {
			return fmt.Errorf("wrong result: position %v has %+v, want %+v", e.Position, *e, *w)
		}
		if j++; j == len(a.Events) {
			i, j = i+1, 0
		}
		return nil
	})
	if err == nil && i != len(calls) {
		err = fmt.Errorf("wrong result: %d of %d appends are in the log", i, len(calls))
	}
	if err != nil {
		return err
	}
	// The index of the streams must have them all, too.
	for ref, v := range versions {
		got, err := db.Versions(ctx, ref)
		if err != nil {
			return err
		}
		if got[0] != v {
			return fmt.Errorf("wrong result: stream %q has version %d, want %d", ref.Stream, got[0], v)
		}
	}
	return nil
}

func runAppend(ctx context.Context, b *bench) error {
	const runs = 7
	for _, size := range []struct{ n, calls, quick int }{{1, 40_000, 6_000}, {100, 2_000, 300}, {1000, 200, 30}} {
		if b.quick {
			size.calls = size.quick
		}
		calls := appendCalls(size.calls, size.n)
		events := float64(size.calls * size.n)
		var ours, theirs []float64
		for run := range runs {
			for _, arm := range []struct {
				name  string
				rates *[]float64
				run   func(context.Context, string, []eventlog.StreamAppend) (time.Duration, error)
			}{{"ours", &ours, appendOurs}, {"loop", &theirs, appendTheirs}} {
				path := filepath.Join(b.dir, fmt.Sprintf("%s-%d-%d.db", arm.name, size.n, run))
				took, err := arm.run(ctx, path, calls)
				if err == nil {
					err = checkAppended(ctx, path, calls)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", arm.name, err)
				}
				removeDB(path)
				*arm.rates = append(*arm.rates, events/took.Seconds())
			}
		}
		cond := fmt.Sprintf("%d events per append, %d appends, payloads of 110 bytes, Zipf 1.1 over 10,000 streams of 50 tenants, WAL, synchronous=NORMAL, one transaction an append, median of %d interleaved runs, every event compared",
			size.n, size.calls, runs)
		r := ratios(ours, theirs)
		b.add("ratio", median(r), "x", atLeast(0.9), "Append to hand-written loop; %s; %s", spread(r), cond)
		b.add("events_per_second", median(ours), "events/s", line{}, "Append; %s; %s", spread(ours), cond)
		b.add("events_per_second_loop", median(theirs), "events/s", line{}, "hand-written loop; %s; %s", spread(theirs), cond)
	}
	return nil
}
