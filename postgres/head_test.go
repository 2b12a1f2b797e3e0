package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
)

func one(stream string) eventlog.StreamAppend {
	return eventlog.StreamAppend{Tenant: "a", Stream: stream, Events: []eventlog.NewEvent{{Type: "T"}}}
}

func mustAppend(t testing.TB, db *DB, appends ...eventlog.StreamAppend) eventlog.Token {
	t.Helper()
	token, err := db.Append(t.Context(), appends...)
	if err != nil {
		t.Fatalf("Append = %v", err)
	}
	return token
}

// begin opens a transaction of another session, and appends to a stream in it.
func begin(t testing.TB, db *DB, stream string) (pgx.Tx, event.Position) {
	t.Helper()
	tx, err := connect(t, db).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := db.AppendTx(t.Context(), tx, one(stream))
	if err != nil {
		t.Fatal(err)
	}
	return tx, token.Position
}

// streams returns the streams of the events that can be read now, in order. It
// reads with several filters, which all must stop at the same place.
func streams(t testing.TB, db *DB) string {
	t.Helper()
	// A page with events does not wait until the holders may be listed again.
	if _, err := db.Head(t.Context(), 0); err != nil {
		t.Fatalf("Head = %v", err)
	}
	var out []string
	for _, f := range []eventlog.Filter{
		{}, {Tenants: []string{"a"}}, {Tenants: []string{"a"}, Types: []string{"T"}}, {Tenants: []string{"a", "b"}}, {Exclude: []string{"b"}},
	} {
		got := []string{}
		for _, e := range readAllEvents(t, db, f) {
			got = append(got, e.Stream)
		}
		if out != nil && !slices.Equal(got, out) {
			t.Errorf("with filter %+v there are %q, without %q", f, got, out)
		}
		out = got
		n, _, err := db.Count(t.Context(), 0, f, 0, event.Unbounded, 1000)
		if err != nil || n != len(out) {
			t.Errorf("Count with filter %+v = %d, %v, want %d", f, n, err, len(out))
		}
	}
	return strings.Join(out, " ")
}

func wantStreams(t testing.TB, db *DB, want string) {
	t.Helper()
	if got := streams(t, db); got != want {
		t.Errorf("the log has the streams %q, want %q", got, want)
	}
}

// eventually waits, as a lane does, until the log has the streams.
func eventually(t testing.TB, db *DB, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		got := streams(t, db)
		if got == want {
			return
		}
		head, err := db.Head(ctx, 0)
		if err == nil {
			err = db.Wait(ctx, 0, head)
		}
		if err != nil {
			t.Fatalf("the log has the streams %q, want %q: %v", got, want, err)
		}
	}
}

// twice runs a test with the process that has seen everything, and with one that
// has just begun.
func twice(t *testing.T, test func(t *testing.T, db *DB, reader func() *DB)) {
	t.Run("reader that was there", func(t *testing.T) {
		db := openTemp(t)
		test(t, db, func() *DB { return db })
	})
	t.Run("new readers", func(t *testing.T) {
		db := openTemp(t)
		test(t, db, func() *DB { return openAt(t, db.pool.Config().ConnString()) })
	})
}

func TestCommitsOutOfOrder(t *testing.T) {
	t.Parallel()
	twice(t, func(t *testing.T, db *DB, reader func() *DB) {
		mustAppend(t, db, one("0"))
		first, p1 := begin(t, db, "1")
		mustAppend(t, db, one("2"))
		second, p3 := begin(t, db, "3")
		mustAppend(t, db, one("4"))
		for range 3 { // looking again changes nothing
			wantStreams(t, reader(), "0")
			if head, err := reader().Head(t.Context(), 0); err != nil || head != p1-1 {
				t.Errorf("head = %v, %v, want %v, before the gap", head, err, p1-1)
			}
		}
		if err := second.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStreams(t, reader(), "0")
		if err := first.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStreams(t, reader(), "0 1 2 3 4")
		if p3 <= p1 {
			t.Errorf("positions %v and %v, want them to ascend: the test has no gap", p1, p3)
		}
	})
}

func TestRolledBackAndSavepoint(t *testing.T) {
	t.Parallel()
	twice(t, func(t *testing.T, db *DB, reader func() *DB) {
		tx, _ := begin(t, db, "gone")
		mustAppend(t, db, one("1"))
		wantStreams(t, reader(), "")
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStreams(t, reader(), "1")

		outer, err := connect(t, db).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exec(t, outer, "CREATE TABLE mine(x int)") // it is writing, and stays open
		inner, err := outer.Begin(t.Context())     // a savepoint
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.AppendTx(t.Context(), inner, one("gone")); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, db, one("2"))
		wantStreams(t, reader(), "1")
		if err := inner.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStreams(t, reader(), "1 2")
		// The same transaction appends again: what comes now is behind a new gap.
		if _, err := db.AppendTx(t.Context(), outer, one("3")); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, db, one("4"))
		wantStreams(t, reader(), "1 2")
		if err := outer.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStreams(t, reader(), "1 2 3 4")
	})
}

// TestPrepared: a prepared transaction holds readers back, and also one that was
// an ordinary transaction when the holders were listed.
func TestPrepared(t *testing.T) {
	t.Parallel()
	twice(t, func(t *testing.T, db *DB, reader func() *DB) {
		for i, decide := range []string{"COMMIT", "ROLLBACK"} {
			mustAppend(t, db, one("0"))
			before := streams(t, reader())
			tx, _ := begin(t, db, "prepared"+decide)
			mustAppend(t, db, one("1"))
			wantStreams(t, reader(), before) // the list has the session
			gid := fmt.Sprintf("fairlead %s %d", mustParse(t, db.pool.Config().ConnString()).Path, i)
			exec(t, tx, "PREPARE TRANSACTION '"+gid+"'")
			mustAppend(t, db, one("2"))
			for range 3 {
				wantStreams(t, reader(), before)
			}
			holders, err := reader().Holders(t.Context())
			if err != nil || len(holders) != 1 || holders[0].Prepared != gid || holders[0].Since.IsZero() {
				t.Errorf("Holders = %+v, %v, want the prepared transaction %q", holders, err, gid)
			}
			exec(t, db.pool, decide+" PREPARED '"+gid+"'")
			want := before + " 1 2"
			if decide == "COMMIT" {
				want = before + " preparedCOMMIT 1 2"
			}
			wantStreams(t, reader(), strings.TrimSpace(want))
		}
	})
}

// TestUnrelatedTransactions: who never wrote to the events table holds nobody up,
// and whoever did is named.
func TestUnrelatedTransactions(t *testing.T) {
	db := openTemp(t)
	hold := func(c *pgx.Conn, sql ...string) pgx.Tx {
		t.Helper()
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sql {
			exec(t, tx, s)
		}
		return tx
	}
	elsewhere, err := pgx.Connect(t.Context(), migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = elsewhere.Close(context.Background()) })
	hold(connect(t, db), "CREATE TABLE mine(x int)", "INSERT INTO mine VALUES (1)")
	hold(connect(t, db), "SELECT * FROM fairlead.events", "SELECT nextval(pg_get_serial_sequence('fairlead.events', 'position'))")
	// The same table, of another database that was made from the same template.
	hold(elsewhere, "INSERT INTO fairlead.events(tenant, stream, version, type, occurred_at) VALUES ('a', 's', 1, 'T', now())")

	gone, _ := begin(t, db, "gone")
	mustAppend(t, db, one("1"))
	wantStreams(t, db, "")
	if err := gone.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStreams(t, db, "1")
	if h, err := db.Holders(t.Context()); err != nil || len(h) != 0 {
		t.Errorf("Holders = %v, %v, want none", h, err)
	}

	config := db.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = "slow importer"
	c, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	slow, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.AppendTx(t.Context(), slow, one("2")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, db, one("3"))
	wantStreams(t, db, "1")
	h, err := db.Holders(t.Context())
	if err != nil || len(h) != 1 {
		t.Fatalf("Holders = %v, %v, want one", h, err)
	}
	if h[0].PID != int(c.PgConn().PID()) || h[0].Application != "slow importer" || h[0].State != "idle in transaction" ||
		h[0].User == "" || time.Since(h[0].Since) > time.Minute || h[0].Since.IsZero() {
		t.Errorf("holder = %+v, want pid %d of the slow importer", h[0], c.PgConn().PID())
	}
	if s := h[0].String(); !strings.Contains(s, "slow importer") {
		t.Errorf("holder is %s, want it to say who it is", s)
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, db, "1 2 3")
}

// TestHoldersOfPartitions: where somebody has partitioned the table, who writes to
// a partition is a holder too.
func TestHoldersOfPartitions(t *testing.T) {
	db := openTemp(t)
	for _, sql := range []string{
		"CREATE SCHEMA parts", "CREATE TABLE parts.events(position bigint) PARTITION BY RANGE (position)",
		"CREATE TABLE parts.low PARTITION OF parts.events FOR VALUES FROM (0) TO (100)",
	} {
		exec(t, db.pool, sql)
	}
	holders := func(table string) (n int) {
		return value[int](t, db.pool, "SELECT count(h.key) FROM ("+listHolders+") h(key, prepared, standby)", table)
	}
	for _, table := range []string{"parts.events", "parts.low"} {
		tx, err := connect(t, db).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exec(t, tx, "INSERT INTO "+table+" VALUES (1)")
		if n := holders("parts.events"); n != 1 {
			t.Errorf("an INSERT INTO %s makes %d holders of the whole, want 1", table, n)
		}
		if n := holders("fairlead.events"); n != 0 {
			t.Errorf("an INSERT INTO %s makes %d holders of another table, want 0", table, n)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWaitBehindGap: who waits behind a gap is woken up when it is settled.
func TestWaitBehindGap(t *testing.T) {
	for _, commit := range []bool{true, false} {
		db := openTemp(t)
		tx, _ := begin(t, db, "1")
		mustAppend(t, db, one("2"))
		errs := make(chan error, 1)
		go func() {
			_, err := db.Read(t.Context(), eventlog.ReadRequest{})
			if err == nil {
				err = db.Wait(t.Context(), 0, 0)
			}
			errs <- err
		}()
		select {
		case err := <-errs:
			t.Fatalf("Wait = %v while the gap is open, want it to wait", err)
		case <-time.After(100 * time.Millisecond):
		}
		want := "2"
		if commit {
			want = "1 2"
			exec(t, tx, "COMMIT")
		} else {
			exec(t, tx, "ROLLBACK")
		}
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
		wantStreams(t, db, want)
	}
}

// TestRounds: a transaction that came later than a gap does not hold it up.
func TestRounds(t *testing.T) {
	db := openTemp(t)
	first, _ := begin(t, db, "1")
	mustAppend(t, db, one("2"))
	wantStreams(t, db, "")
	_, _ = begin(t, db, "never") // stays open
	mustAppend(t, db, one("3"))
	wantStreams(t, db, "")
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, db, "1 2")
}

// TestManyGaps: one look settles them all, and a process that begins later knows
// it already.
func TestManyGaps(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	const n = 10_000
	exec(t, db.pool, db.q(`DO $$ BEGIN FOR i IN 1..`+fmt.Sprint(n)+` LOOP
		PERFORM nextval(pg_get_serial_sequence('{schema}.events', 'position'));
		PERFORM {schema}.append(ARRAY['a'], ARRAY['s'], ARRAY[1], ARRAY[NULL::bigint], ARRAY[1], ARRAY[false], ARRAY['T'], ARRAY[NULL::timestamptz],
			ARRAY[NULL::text], ARRAY[NULL::bigint], ARRAY[NULL::text], ARRAY['{}'], ARRAY[NULL::bytea]);
	END LOOP; END $$`))
	start := time.Now()
	page, err := db.Read(t.Context(), eventlog.ReadRequest{MaxEvents: 1})
	if err != nil || len(page.Events) != 1 {
		t.Fatalf("Read = %+v, %v", page, err)
	}
	t.Logf("%d gaps are settled after %v", n, time.Since(start))
	start = time.Now()
	all := readAllEvents(t, db, eventlog.Filter{})
	t.Logf("and read after %v", time.Since(start))
	if len(all) != n || all[n-1].Position != 2*n || all[n-1].Version != n {
		t.Fatalf("read %d events, the last is %+v, want %d up to position %d", len(all), all[len(all)-1], n, 2*n)
	}
	if got := value[int64](t, db.pool, db.q("SELECT safe FROM {schema}.safe_head")); got != 2*n {
		t.Errorf("the safe head that is stored is %d, want %d", got, 2*n)
	}
}

// TestRoundsNote is about lists that are hard to get from a server: it takes in
// one after another, and says where the safe head is after each.
func TestRoundsNote(t *testing.T) {
	type step struct {
		list string // holders; in capitals the prepared ones
		seen int64
		want int64
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"nobody", []step{{"", 5, 5}}},
		{"one ends", []step{{"a", 5, 0}, {"a", 5, 0}, {"", 5, 5}}},
		{"a later one does not count", []step{{"a", 5, 0}, {"b", 9, 5}, {"b", 9, 5}, {"", 9, 9}}},
		{"all have to end", []step{{"ab", 5, 0}, {"b", 5, 0}, {"a", 5, 5}}},
		{"becomes prepared", []step{{"a", 5, 0}, {"P", 5, 0}, {"P", 5, 0}, {"", 5, 5}}},
		{"becomes prepared while others come", []step{{"a", 5, 0}, {"bP", 9, 0}, {"b", 9, 5}}},
		{"was prepared before", []step{{"aP", 5, 0}, {"P", 5, 0}, {"", 5, 5}}},
		{"prepared later, of another", []step{{"a", 5, 0}, {"aP", 5, 0}, {"P", 5, 0}, {"", 5, 5}}},
		{"prepared is not new to the second round", []step{{"P", 5, 0}, {"Pb", 9, 0}, {"b", 9, 5}, {"", 9, 9}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h safeHead
			h.init()
			for i, s := range tt.steps {
				list := map[string]bool{}
				for _, r := range s.list {
					list[string(r)] = r < 'a'
				}
				h.note(list, s.seen, time.Time{})
				if h.safe != s.want {
					t.Fatalf("step %d: safe head %d, want %d", i+1, h.safe, s.want)
				}
			}
		})
	}
}
