package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// TestMain is also the main function of the processes that tests start: see
// startChild.
func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// openTemp opens a new database in a directory of the test.
func openTemp(t testing.TB, opts ...Options) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "test.db"), opts...)
}

func openAt(t testing.TB, path string, opts ...Options) *DB {
	t.Helper()
	db, err := Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// shell opens a connection as another program would.
func shell(t testing.TB, path string) *conn {
	t.Helper()
	c, err := zs.OpenConn(path, zs.OpenReadWrite|zs.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	c.SetBusyTimeout(5 * time.Second)
	return &conn{Conn: c}
}

// sql runs statements as the shell would, and returns the first column of the
// rows of the last.
func sql(t testing.TB, path string, statements ...string) (out []string) {
	t.Helper()
	c := shell(t, path)
	for _, q := range statements {
		out = nil
		err := c.rows(q, func(s *zs.Stmt) error {
			out = append(out, s.ColumnText(0))
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

// one makes an append of n events without ids.
func one(tenant, stream string, n int) eventlog.StreamAppend {
	a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
	for i := range n {
		a.Events = append(a.Events, eventlog.NewEvent{Type: "T", Data: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	return a
}

func mustAppend(t testing.TB, db *DB, appends ...eventlog.StreamAppend) eventlog.Token {
	t.Helper()
	token, err := db.Append(t.Context(), appends...)
	if err != nil {
		t.Fatalf("Append = %v", err)
	}
	return token
}

// readAll reads the log to its end.
func readAll(t testing.TB, db *DB, f eventlog.Filter) (out []event.Event) {
	t.Helper()
	out, err := readFrom(t.Context(), db, f)
	if err != nil {
		t.Fatalf("Read = %v", err)
	}
	return out
}

func readFrom(ctx context.Context, db *DB, f eventlog.Filter) (out []event.Event, err error) {
	after := event.Beginning
	for {
		page, err := db.Read(ctx, eventlog.ReadRequest{After: after, Filter: f})
		if err != nil {
			return nil, err
		}
		out = append(out, page.Events...)
		if page.Next == page.Head {
			return out, nil
		}
		after = page.Next
	}
}

// checkLog checks that the log is whole: positions and the versions of each
// stream are dense, and the indexes agree with the events.
func checkLog(t testing.TB, db *DB) []event.Event {
	t.Helper()
	all := readAll(t, db, eventlog.Filter{})
	streams, tenants := map[eventlog.StreamRef][]event.Event{}, map[string]int{}
	for i, e := range all {
		if e.Position != event.Position(i+1) {
			t.Fatalf("event %d has position %v: positions are not dense", i, e.Position)
		}
		r := eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}
		streams[r] = append(streams[r], e)
		tenants[e.Tenant]++
		if e.Version != int64(len(streams[r])) {
			t.Fatalf("stream %v: event %d has version %d", r, len(streams[r]), e.Version)
		}
	}
	n := 0
	for r, want := range streams {
		if n++; n > 200 {
			break
		}
		got, err := db.ReadStream(t.Context(), r, 0, len(want)+1)
		if err != nil || len(got) != len(want) {
			t.Errorf("ReadStream(%v) = %d events, %v, want %d", r, len(got), err, len(want))
			continue
		}
		for i := range got {
			if got[i].Position != want[i].Position || got[i].ID != want[i].ID {
				t.Errorf("ReadStream(%v): event %d is %q at %v, want %q at %v", r, i, got[i].ID, got[i].Position, want[i].ID, want[i].Position)
			}
		}
		if v, err := db.Versions(t.Context(), r); err != nil || v[0] != int64(len(want)) {
			t.Errorf("Versions(%v) = %v, %v, want %d", r, v, err, len(want))
		}
	}
	n = 0
	for tenant, want := range tenants {
		if n++; n > 50 {
			break
		}
		f := eventlog.Filter{Tenants: []string{tenant}}
		if got := readAll(t, db, f); len(got) != want {
			t.Errorf("tenant %q has %d events, want %d", tenant, len(got), want)
		}
		if got, _, err := db.Count(t.Context(), 0, f, 0, event.Unbounded, 1<<30); err != nil || got != want {
			t.Errorf("Count of tenant %q = %d, %v, want %d", tenant, got, err, want)
		}
	}
	return all
}

// integrity runs SQLite's own check.
func integrity(t testing.TB, path string) {
	t.Helper()
	if got := sql(t, path, "PRAGMA integrity_check"); len(got) != 1 || got[0] != "ok" {
		t.Fatalf("integrity check of %s: %q", path, got)
	}
}

var testLane = store.LaneID{Build: store.Build{Processor: "p", Number: 1}}

// setup puts processor "p" with collection "c" and its base lane.
func setup(t testing.TB, db *DB) {
	t.Helper()
	err := db.Update(t.Context(), func(tx store.Tx) error {
		if _, err := tx.Lane(testLane); err == nil {
			return nil
		}
		if err := tx.PutProcessor(store.Processor{Name: "p", Kind: "projection", Collection: "c", Partitions: 1, Live: 1, LastBuild: 1}); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: testLane, State: store.Running})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// next is a commit that moves the test's lane on by one and writes a document.
func next(t testing.TB, db *DB, id, doc string) *store.Commit {
	t.Helper()
	l := laneNow(t, db)
	return &store.Commit{
		Lane: testLane, Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, Position: l.Position + 1,
		Writes: []store.Write{{Document: store.Document{Key: store.Key{Tenant: "a", ID: id}, Data: []byte(doc)}}},
	}
}

func laneNow(t testing.TB, db *DB) (l store.Lane) {
	t.Helper()
	if err := db.View(t.Context(), func(tx store.Tx) (err error) { l, err = tx.Lane(testLane); return err }); err != nil {
		t.Fatal(err)
	}
	return l
}

// checkUnchanged runs f, which must fail, and checks that neither log nor store
// have changed and that the writer works.
func checkUnchanged(t *testing.T, db *DB, f func() error) error {
	t.Helper()
	head, lane := headOf(t, db), laneNow(t, db)
	err := f()
	if err == nil {
		t.Fatal("error = nil, want one")
	}
	if got := headOf(t, db); got != head {
		t.Errorf("head = %v after the error %v, want %v as before", got, err, head)
	}
	if got := laneNow(t, db); got.Position != lane.Position {
		t.Errorf("lane is at %v after the error %v, want %v as before", got.Position, err, lane.Position)
	}
	w := <-db.writer
	if w.Conn != nil && !w.AutocommitEnabled() {
		t.Errorf("the writer has a transaction open after the error %v", err)
	}
	db.writer <- w
	return err
}

func headOf(t testing.TB, db *DB) event.Position {
	t.Helper()
	head, err := db.Head(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return head
}
