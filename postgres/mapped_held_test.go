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
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
)

func appendTo(t testing.TB, f *foreign, c querier, tenant, stream string, n int) {
	t.Helper()
	a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
	for i := range n {
		a.Events = append(a.Events, eventlog.NewEvent{Type: "T", Data: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	if err := f.append(t.Context(), c, a); err != nil {
		t.Fatalf("append to %s/%s: %v", tenant, stream, err)
	}
}

// readPast waits until an event of a type can be read, and returns all.
func readPast(t testing.TB, log *Log, head event.Position) []event.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		at, err := log.Head(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		if at >= head {
			return allOf(t, log)
		}
		if err := log.Wait(ctx, 0, at); err != nil {
			t.Fatalf("wait for position %v, head is %v: %v", head, at, err)
		}
	}
}

func typesOf(events []event.Event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.Type[:1])
	}
	return b.String()
}

// TestMappedHeldTransaction: a transaction has drawn a position and has not
// touched the table yet, the worst moment, when others commit behind it.
func TestMappedHeldTransaction(t *testing.T) {
	t.Parallel()
	for _, f := range foreigns() {
		for _, end := range []string{"commit", "rollback", "savepoint", "prepare", "rollback prepared"} {
			t.Run(f.name+"/"+end, func(t *testing.T) {
				t.Parallel()
				log, c := openForeign(t, &f)
				appendTo(t, &f, c, "t", "s1", 2)
				if got := typesOf(allOf(t, log)); got != "TT" {
					t.Fatalf("the log has %s, want TT", got)
				}
				held := connect(t, log.db)
				exec(t, held, "BEGIN")
				exec(t, held, "SAVEPOINT s")
				at := value[int64](t, held, f.draw)
				if n := value[int](t, c, "SELECT count(*) FROM pg_locks WHERE relation = to_regclass($1) AND pid = $2", log.db.mapped.table, held.PgConn().PID()); n != 0 {
					t.Fatalf("the transaction has %d locks on the table: that is not the worst moment", n)
				}
				if end == "savepoint" { // the number is dead, but that nobody can know yet
					exec(t, held, "ROLLBACK TO SAVEPOINT s")
				}
				appendTo(t, &f, c, "t", "s2", 3)
				gid := fmt.Sprintf("%s_%d", strings.ReplaceAll(t.Name(), "/", "_"), time.Now().UnixNano())
				prepared := strings.Contains(end, "prepare")
				if prepared {
					exec(t, held, f.insert, at, "late")
					exec(t, held, "PREPARE TRANSACTION "+literal(gid))
				}
				// As it is, and for one who comes later and knows nothing.
				for _, log := range []*Log{log, openLog(t, log.db.pool.Config().ConnString(), f.mapping)} {
					for range 10 {
						if got := typesOf(allOf(t, log)); got != "TT" {
							t.Fatalf("while position %d is held one can read %s, want TT", at, got)
						}
						if head, err := log.Head(t.Context(), 0); err != nil || int64(head) >= at {
							t.Fatalf("while position %d is held the head is %v, %v", at, head, err)
						}
					}
					holders, err := log.Holders(t.Context())
					if err != nil || len(holders) != 1 {
						t.Fatalf("holders are %v, %v, want one", holders, err)
					}
					if h := holders[0]; prepared && h.Prepared != gid || !prepared && h.PID != int(held.PgConn().PID()) {
						t.Errorf("the holder is %v, want pid %d or %s", h, held.PgConn().PID(), gid)
					}
				}
				want := "TTTTT"
				switch end {
				case "commit":
					exec(t, held, f.insert, at, "late")
					exec(t, held, "COMMIT")
					want = "TTLTTT"
				case "prepare":
					exec(t, c, "COMMIT PREPARED "+literal(gid))
					want = "TTLTTT"
				case "rollback prepared":
					exec(t, c, "ROLLBACK PREPARED "+literal(gid))
				default:
					exec(t, held, "ROLLBACK")
				}
				if got := typesOf(readPast(t, log, event.Position(at+3))); got != want {
					t.Errorf("after it has ended there is %s, want %s", got, want)
				}
			})
		}
	}
}

// TestMappedHeldAppend holds real appends, all of their own code run, before the
// commit, and Marten's function between its nextval and its INSERT.
func TestMappedHeldAppend(t *testing.T) {
	t.Parallel()
	for _, f := range foreigns() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			log, c := openForeign(t, &f)
			appendTo(t, &f, c, "t", "x-1", 1) // makes what a first append makes
			appendTo(t, &f, c, "u", "y-1", 1)
			other := connect(t, log.db)
			tx, err := other.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			if f.name == "Marten" {
				exec(t, tx, "SET LOCAL test.pause = '1.5'")
				go func() {
					done <- f.append(t.Context(), tx, eventlog.StreamAppend{Tenant: "t", Stream: "x-1", Events: []eventlog.NewEvent{{Type: "Late", Data: []byte("{}")}}})
				}()
				for value[int](t, c, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", other.PgConn().PID()) == 0 {
					if t.Context().Err() != nil {
						return
					}
				}
			} else {
				done <- f.append(t.Context(), tx, eventlog.StreamAppend{Tenant: "t", Stream: "x-1", Events: []eventlog.NewEvent{{Type: "Late", Data: []byte("{}")}}})
			}
			appendTo(t, &f, c, "u", "y-1", 2)
			for range 5 {
				if got := typesOf(allOf(t, log)); got != "TT" {
					t.Fatalf("while an append is open one can read %s, want TT", got)
				}
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := typesOf(readPast(t, log, 5)); got != "TTLTT" {
				t.Errorf("after the commit there is %s, want TTLTT", got)
			}
		})
	}
}

// TestUnrelatedTransactionsHoldNobodyUp: neither a snapshot that is old, nor a
// writer of other tables, nor one in another database.
func TestUnrelatedTransactionsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	f := marten()
	log, c := openForeign(t, &f)
	old, err := connect(t, log.db).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, old, "CREATE TABLE other (n int)")
	exec(t, old, "INSERT INTO other VALUES (1)")
	appendTo(t, &f, c, "t", "s", 1)
	exec(t, c, f.draw) // a gap for good
	appendTo(t, &f, c, "t", "s", 1)
	if got := typesOf(readPast(t, log, 3)); got != "TT" {
		t.Errorf("beside an unrelated transaction there is %s, want TT", got)
	}
	if err := old.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSequenceLock is what all of this rests on, asked of the server: nextval takes
// a RowExclusive lock on the sequence, which a rollback to a savepoint does not
// give up, and which a prepared transaction keeps.
func TestSequenceLock(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(t.Context())) }()
	exec(t, c, "CREATE SEQUENCE s")
	locks := func() int {
		return value[int](t, c, "SELECT count(*) FROM pg_locks WHERE relation = 's'::regclass AND mode = 'RowExclusiveLock' AND granted")
	}
	exec(t, c, "BEGIN")
	exec(t, c, "SAVEPOINT a")
	exec(t, c, "SELECT nextval('s')")
	if locks() != 1 {
		t.Error("nextval takes no RowExclusive lock on the sequence")
	}
	exec(t, c, "ROLLBACK TO a")
	if locks() != 1 {
		t.Error("a rollback to a savepoint gives the lock up")
	}
	gid := fmt.Sprintf("sequence_%d", time.Now().UnixNano())
	exec(t, c, "PREPARE TRANSACTION "+literal(gid))
	if locks() != 1 {
		t.Error("a prepared transaction gives the lock up")
	}
	exec(t, c, "ROLLBACK PREPARED "+literal(gid))
	if locks() != 0 {
		t.Error("the lock outlives its transaction")
	}
}

// TestMartenRich: the position is drawn by a transaction that is over, and the
// event comes later, by another. It is waited for, and no longer than was said.
func TestMartenRich(t *testing.T) {
	t.Parallel()
	f := marten()
	const late = 2 * time.Second
	f.mapping = MartenRich(late)
	log, c := openForeign(t, &f)
	appendTo(t, &f, c, "t", "s1", 1)
	if got := typesOf(readPast(t, log, 1)); got != "T" {
		t.Fatalf("there is %s, want T", got)
	}
	at := value[int64](t, c, f.draw) // and that transaction has ended
	appendTo(t, &f, c, "t", "s2", 2)
	start := time.Now()
	if got := typesOf(allOf(t, log)); got != "T" {
		t.Fatalf("there is %s, want T: the gap may be filled yet", got)
	}
	// Begun in time, committed later: it is waited for, as a holder.
	tx, err := connect(t, log.db).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, f.insert, at, "late")
	for time.Since(start) < late+300*time.Millisecond {
		if got := typesOf(allOf(t, log)); got != "T" {
			t.Fatalf("after %v there is %s, want T", time.Since(start), got)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := typesOf(readPast(t, log, 4)); got != "TLTT" {
		t.Errorf("there is %s, want TLTT", got)
	}
	exec(t, c, f.draw) // one that nobody fills
	appendTo(t, &f, c, "t", "s2", 1)
	start = time.Now()
	events := readPast(t, log, 6)
	if took := time.Since(start); typesOf(events) != "TLTTT" || took < late {
		t.Errorf("a dead gap cost %v and there is %s, want at least %v and TLTTT", took, typesOf(events), late)
	}
}

// TestMappedDeadGaps: 10,000 numbers that were rolled back cost one who comes
// anew one list of holders, and pages as large as others.
func TestMappedDeadGaps(t *testing.T) {
	t.Parallel()
	f := marten()
	log, c := openForeign(t, &f)
	const gaps = 10_000
	exec(t, c, `INSERT INTO mt_streams (id, version) VALUES ('s', 10000)`)
	exec(t, c, `INSERT INTO mt_events (seq_id, stream_id, version, id, type, data)
		SELECT 2 * n, 's', n, gen_random_uuid(), 'T', '{}' FROM generate_series(1, 10000) n`)
	exec(t, c, "SELECT setval('mt_events_sequence', 20000)")
	for _, log := range []*Log{log, openLog(t, log.db.pool.Config().ConnString(), f.mapping)} {
		start, pages, n := time.Now(), 0, 0
		var after event.Position
		for {
			p, err := log.Read(t.Context(), eventlog.ReadRequest{After: after})
			if err != nil {
				t.Fatal(err)
			}
			pages++
			n += len(p.Events)
			if after = p.Next; p.Next >= p.Head {
				break
			}
		}
		if n != gaps || pages > gaps/1000+3 {
			t.Errorf("%d events in %d pages, want %d in %d or few more", n, pages, gaps, gaps/1000)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("reading over %d gaps took %v", gaps, took)
		}
		if rounds := len(log.db.head.rounds); rounds != 0 {
			t.Errorf("%d rounds are pending, want none", rounds)
		}
	}
}

// TestMappedNotify: with a channel that the store notifies, an event comes at once,
// though nobody has looked for a while.
func TestMappedNotify(t *testing.T) {
	t.Parallel()
	f := marten()
	f.mapping.Channel = "mt_events_appended"
	log, c := openForeign(t, &f)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	head := event.Position(0)
	for i := range 3 {
		done := make(chan error, 1)
		go func() { done <- log.Wait(ctx, 0, head) }()
		if i == 0 { // until it listens
			for value[int](t, c, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'") == 0 {
				if ctx.Err() != nil {
					t.Fatal("nobody listens")
				}
			}
		}
		tx, err := c.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		appendTo(t, &f, tx, "t", "s", 1)
		exec(t, tx, "SELECT pg_notify('mt_events_appended', '')")
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		head++
	}
	if !log.db.watch.hears.Load() {
		t.Error("the log has not noticed that notifications come")
	}
	if got := slices.Collect(func(yield func(string) bool) {
		for _, e := range readPast(t, log, head) {
			if !yield(e.Type) {
				return
			}
		}
	}); len(got) != 3 {
		t.Errorf("%d events, want 3", len(got))
	}
}
