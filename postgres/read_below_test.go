package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/race"
	"github.com/jackc/pgx/v5/pgtype"
)

// settled opens a log of n events, some large or not text, with gaps, and has its
// safe head at the end.
func settled(t *testing.T, n int) *DB {
	t.Helper()
	db := openTemp(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		e := eventlog.NewEvent{Type: fmt.Sprint("type-", i%7), Data: fmt.Appendf(nil, `{"n":%d}`, i)}
		switch rng.IntN(12) {
		case 0:
			e.Data = bytes.Repeat([]byte("x"), rng.IntN(40_000))
		case 1:
			e.Data = append([]byte{0xff, 0}, bytes.Repeat([]byte{0xfe}, rng.IntN(9000))...)
		case 2:
			e.ID, e.Metadata = fmt.Sprint("own-", i), event.Metadata{"k": fmt.Sprint(i % 3)}
		case 3: // a number is drawn and rolled back
			_, err := db.pool.Exec(t.Context(), "INSERT INTO fairlead.events (tenant, stream, type, version, occurred_at) VALUES ('t', 's', 'x', -1, now() / 0)")
			if err == nil {
				t.Fatal("no gap was made")
			}
			if _, err := db.pool.Exec(t.Context(), "SELECT nextval(pg_get_serial_sequence('fairlead.events', 'position'))"); err != nil {
				t.Fatal(err)
			}
		}
		mustAppend(t, db, eventlog.StreamAppend{Tenant: fmt.Sprint("t", i%5), Stream: fmt.Sprint("s", i%11), Events: []eventlog.NewEvent{e}})
	}
	if _, err := db.Head(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return db
}

// TestReadBelow: pages below the safe head are read in another way, to the same
// result and within the same limits.
func TestReadBelow(t *testing.T) {
	t.Parallel()
	n := 400
	if race.Enabled {
		n = 150
	}
	db := settled(t, n)
	read := func(req eventlog.ReadRequest, measured bool) (out []event.Event, below int) {
		t.Helper()
		db.sizes.average.Store(0)
		db.sizes.measure.Store(0)
		for {
			if measured {
				db.sizes.measure.Store(1 << 30)
			}
			before := db.sizes.average.Swap(0)
			page, err := db.Read(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if db.sizes.average.Load() > 0 {
				below++
			} else {
				db.sizes.average.Store(before)
			}
			size := 0
			for i := range page.Events {
				if e := &page.Events[i]; e.Position <= req.After || e.Position > page.Next || size >= req.MaxBytes {
					t.Fatalf("page (%v, %v] has the event %v behind %d bytes", req.After, page.Next, e.Position, size)
				}
				size += page.Events[i].Size()
			}
			if len(page.Events) > req.MaxEvents {
				t.Fatalf("%d events, want at most %d", len(page.Events), req.MaxEvents)
			}
			out = append(out, page.Events...)
			if page.Next >= page.Head || req.Until > 0 && page.Next >= req.Until {
				return out, below
			}
			if page.Next <= req.After {
				t.Fatalf("the page after %v ends at %v", req.After, page.Next)
			}
			req.After = page.Next
		}
	}
	for _, maxEvents := range []int{1, 7, 50, n * 3 / 4} {
		for _, maxBytes := range []int{1, 3000, 60_000, 4 << 20} {
			for _, maxEventBytes := range []int{0, 100, 8000} {
				for _, until := range []event.Position{0, event.Position(n * 7 / 12)} {
					req := eventlog.ReadRequest{MaxEvents: maxEvents, MaxBytes: maxBytes, MaxEventBytes: maxEventBytes, Until: until}
					want, none := read(req, true)
					got, below := read(req, false)
					if none != 0 || below == 0 {
						t.Errorf("%+v: %d and %d pages were read from below, want none and some", req, none, below)
					}
					if len(got) != len(want) {
						t.Fatalf("%+v: %d events, want %d", req, len(got), len(want))
					}
					for i := range got {
						if !reflect.DeepEqual(got[i], want[i]) {
							t.Fatalf("%+v: got %+v, want %+v", req, got[i], want[i])
						}
					}
				}
			}
		}
	}
}

// TestReadBelowNoMore: what is below the safe head may be gone, and after a
// restart of the server no safe head is known.
func TestReadBelowNoMore(t *testing.T) {
	db := settled(t, 60)
	req := eventlog.ReadRequest{MaxEvents: 5}
	page, err := db.Read(t.Context(), req)
	if err != nil || len(page.Events) != 5 || db.sizes.average.Load() == 0 {
		t.Fatalf("Read = %d events, %v, want 5 from below the safe head", len(page.Events), err)
	}
	db.head.mu.Lock()
	db.head.server-- // another start than that of the server
	db.head.mu.Unlock()
	again, err := db.Read(t.Context(), req)
	if err != nil || !reflect.DeepEqual(again.Events, page.Events) {
		t.Fatalf("Read after a restart = %+v, %v, want %+v", again.Events, err, page.Events)
	}
	if _, err := db.Head(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	exec(t, db.pool, "DELETE FROM fairlead.events WHERE position <= $1", int64(page.Events[2].Position))
	var gone *eventlog.TruncatedError
	if _, err := db.Read(t.Context(), req); !errors.As(err, &gone) || gone.First != page.Events[3].Position {
		t.Errorf("Read of what is gone = %v, want a TruncatedError with the first at %v", err, page.Events[3].Position)
	}
	if page, err := db.Read(t.Context(), eventlog.ReadRequest{MaxEvents: 5, After: page.Events[2].Position}); err != nil || len(page.Events) != 5 {
		t.Errorf("Read of what is left = %d events, %v, want 5", len(page.Events), err)
	}
}

// TestReadBelowToTheEnd: a page that comes to the safe head that was known says
// that the log ends there only if it does.
func TestReadBelowToTheEnd(t *testing.T) {
	db := settled(t, 90)
	known := db.head.position()
	mustAppend(t, openAt(t, db.pool.Config().ConnString()), one("later"))
	for maxEvents := 1; maxEvents < 40; maxEvents++ {
		db.head.mu.Lock()
		db.head.safe = int64(known)
		db.head.mu.Unlock()
		req := eventlog.ReadRequest{MaxEvents: maxEvents, MaxBytes: 4 << 20}
		for {
			page, err := db.Read(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			req.After = page.Next
			if page.Next >= page.Head {
				break
			}
		}
		if req.After <= known {
			t.Errorf("%d events a page: the log ends at %v, want more than %v", maxEvents, req.After, known)
		}
	}
}

// TestWireArrays: they come to the server as the driver's own would.
func TestWireArrays(t *testing.T) {
	db := openTemp(t)
	for _, c := range []struct {
		name string
		oid  uint32
		wire any
		own  any
	}{
		{"texts", pgtype.TextArrayOID, wireTexts{"a", "", "Zoë", `{"x"}`, "NULL"}, []string{"a", "", "Zoë", `{"x"}`, "NULL"}},
		{"numbers", pgtype.Int8ArrayOID, wireInt8s{0, -1, 1 << 62}, []int64{0, -1, 1 << 62}},
		{"bytes", pgtype.ByteaArrayOID, wireBytes{{0, 255}, nil, {}}, [][]byte{{0, 255}, nil, {}}},
		{"jsonb", pgtype.JSONBArrayOID, wireJSONB{[]byte(`{"a":1}`), nil, []byte(`"x"`)}, [][]byte{[]byte(`{"a":1}`), nil, []byte(`"x"`)}},
	} {
		var encoded [2][]byte
		conn, err := db.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range []any{c.wire, c.own} {
			if encoded[i], err = conn.Conn().TypeMap().Encode(c.oid, pgtype.BinaryFormatCode, v, nil); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		conn.Release()
		if !bytes.Equal(encoded[0], encoded[1]) {
			t.Errorf("%s: %x, want %x", c.name, encoded[0], encoded[1])
		}
	}
	got := value[[]string](t, db.pool, "SELECT array_agg(x::text ORDER BY n) FROM unnest($1::jsonb[]) WITH ORDINALITY u(x, n)", wireJSONB{[]byte(`{"b":2, "a":1}`), []byte("3")})
	if want := []string{`{"a": 1, "b": 2}`, "3"}; !slices.Equal(got, want) {
		t.Errorf("the server has %q, want %q", got, want)
	}
	if n := value[int](t, db.pool, "SELECT cardinality($1::text[])", wireTexts{}); n != 0 {
		t.Errorf("the server has an array of %d, want none", n)
	}
}
