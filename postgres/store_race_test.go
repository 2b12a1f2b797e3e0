package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// TestCommitInTheWayOfOthers: a lock or a statement that takes too long is an
// error that says so, is no fault of the user's function, and changes nothing.
func TestCommitInTheWayOfOthers(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	admin := openAt(t, url)
	id, _ := laneOf(t, admin, "p")
	c := connect(t, admin)
	exec(t, c, makeLedger)
	for _, setting := range []string{"lock_timeout", "statement_timeout"} {
		t.Run(setting, func(t *testing.T) {
			db := openAt(t, url+"&"+setting+"=100ms")
			l, err := readLane(t, db, id)
			if err != nil {
				t.Fatal(err)
			}
			b := &book{db: db, id: id}
			for _, tt := range []struct {
				name, lock string
				sql        bool
			}{
				{"lane", "SELECT FROM fairlead.lanes FOR UPDATE", false},
				{"lane, with SQL", "SELECT FROM fairlead.lanes FOR UPDATE", true},
				{"the user's table", "LOCK TABLE ledger", true},
			} {
				exec(t, c, "BEGIN")
				exec(t, c, tt.lock)
				err := b.commit(t.Context(), l, tt.sql)
				_, users := errors.AsType[*store.UserError](err)
				if !errors.Is(err, ErrTimeout) || users || errors.Is(err, ErrOutcomeUnknown) {
					t.Errorf("%s is locked: Commit = %v, want ErrTimeout, and no UserError", tt.name, err)
				}
				exec(t, c, "ROLLBACK")
				if now, err := readLane(t, db, id); err != nil || now.Position != l.Position || now.Revision != l.Revision {
					t.Errorf("%s: the lane is %+v, %v, want it as before", tt.name, now, err)
				}
			}
			if err := b.commit(t.Context(), l, true); err != nil {
				t.Errorf("Commit when nobody is in the way = %v", err)
			}
			l.Position++
		})
	}
}

// TestDeadlock: a commit that is in a deadlock is tried again, or says that it
// is to be, whoever the other party is.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	id, commit := laneOf(t, db, "p")
	if err := commit(func(c *store.Commit) { c.Writes = someWrites(1, 0) }); err != nil {
		t.Fatal(err)
	}
	key := someWrites(1, 0)[0].Key
	other := connect(t, db)
	exec(t, other, makeLedger)
	exec(t, other, "INSERT INTO ledger VALUES ('p', 0, 1)")
	exec(t, other, "SET deadlock_timeout = '1min'") // so that the commit is the victim
	waiting := func() {
		t.Helper()
		c := connect(t, db)
		retried(t, func() error {
			if value[int](t, c, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
				return errors.New("nobody waits")
			}
			return nil
		})
	}
	t.Run("without SQL", func(t *testing.T) {
		exec(t, other, "BEGIN")
		exec(t, other, "SELECT FROM fairlead.documents WHERE tenant = $1 AND id = $2 FOR UPDATE", key.Tenant, key.ID)
		ended := make(chan error, 1)
		go func() { ended <- commit(func(c *store.Commit) { c.Writes = someWrites(1, 0) }) }()
		waiting()
		exec(t, other, "SELECT FROM fairlead.lanes FOR UPDATE") // gets it when the commit has given up
		exec(t, other, "COMMIT")
		if err := <-ended; err != nil {
			t.Errorf("Commit = %v, want it tried again", err)
		}
	})
	t.Run("with SQL", func(t *testing.T) {
		l, err := readLane(t, db, id)
		if err != nil {
			t.Fatal(err)
		}
		c := &store.Commit{Lane: id, Fence: fenceOf(l), Position: l.Position + 1, SQL: func(ctx context.Context, tx any) error {
			_, err := tx.(pgx.Tx).Exec(ctx, "UPDATE ledger SET times = times + 1")
			return err
		}}
		exec(t, other, "BEGIN")
		exec(t, other, "SELECT FROM ledger FOR UPDATE")
		ended := make(chan error, 1)
		go func() { ended <- db.Commit(t.Context(), c) }()
		waiting()
		exec(t, other, "SELECT FROM fairlead.lanes FOR UPDATE")
		exec(t, other, "COMMIT")
		err = <-ended
		if _, users := errors.AsType[*store.UserError](err); !errors.Is(err, ErrRetry) || users {
			t.Errorf("Commit = %v, want ErrRetry, and no UserError: its events are not to be parked", err)
		}
		if err := db.Commit(t.Context(), c); err != nil {
			t.Errorf("the same commit again = %v", err)
		}
	})
}

// TestUserEndsTheTransaction: what a user's function must not do.
func TestUserEndsTheTransaction(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	id, _ := laneOf(t, db, "p")
	for _, tt := range []struct {
		name string
		do   func(ctx context.Context, tx pgx.Tx) error
	}{
		{"Commit", func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }},
		{"Rollback", func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }},
		{"ROLLBACK", func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "ROLLBACK"); return err }},
		{"an error that is not returned", func(ctx context.Context, tx pgx.Tx) error { _, _ = tx.Exec(ctx, "SELECT 1/0"); return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := readLane(t, db, id)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Commit(t.Context(), &store.Commit{
				Lane: id, Fence: fenceOf(l), Position: l.Position + 1, Writes: someWrites(1, 0),
				SQL: func(ctx context.Context, tx any) error { return tt.do(ctx, tx.(pgx.Tx)) },
			})
			if _, users := errors.AsType[*store.UserError](err); !users || !errors.Is(err, ErrTransaction) {
				t.Errorf("Commit = %v, want a UserError with ErrTransaction", err)
			}
			if now, err := readLane(t, db, id); err != nil || now.Position != l.Position {
				t.Errorf("the lane is at %v, %v, want it as before", now.Position, err)
			}
		})
	}
}

// TestRoundTrips: how often a client waits for the server, once the statements
// are prepared.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	for _, pooler := range []bool{false, true} {
		t.Run(fmt.Sprint("pooler=", pooler), func(t *testing.T) {
			url := migrated(t)
			p, through := newProxy(t, url)
			db := openAt(t, through, Options{Pooler: pooler, MaxConns: 2})
			id, commit := laneOf(t, db, "p")
			sql := func(ctx context.Context, tx any) error { _, err := tx.(pgx.Tx).Exec(ctx, "SELECT 1"); return err }
			build := store.Build{Processor: "p", Number: 1}
			keys := []store.Key{{Tenant: "tenant-0", ID: "order-000000"}, {Tenant: "a", ID: "b"}}
			for _, tt := range []struct {
				name string
				want int
				do   func() error
			}{
				{"Commit of documents", 1, func() error { return commit(func(c *store.Commit) { c.Writes = someWrites(20, 0) }) }},
				{"Commit with SQL", 3, func() error { return commit(func(c *store.Commit) { c.Writes, c.SQL = someWrites(20, 0), sql }) }},
				{"Load", 1, func() error { _, err := db.Load(t.Context(), build, keys); return err }},
				{"Revision", 1, func() error { _, err := db.Revision(t.Context()); return err }},
				{"View of a lane", 3, func() error { _, err := readLane(t, db, id); return err }},
				{"Update, a heartbeat", 2, func() error {
					return db.Update(t.Context(), func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "m"}) })
				}},
				{"Commit that forgets, deletes and records", 1, func() error {
					at, err := readLane(t, db, id)
					if err != nil {
						return err
					}
					p.roundTrips()
					err = db.Commit(t.Context(), &store.Commit{
						Lane: id, Fence: fenceOf(at), Position: at.Position, Forget: []string{"x"},
						Letters: []store.DeadLetter{{Build: build, State: store.Skipped}},
						Writes:  []store.Write{{Document: store.Document{Key: keys[0]}, Delete: true}, someWrites(2, 0)[1]},
					})
					return err
				}},
			} {
				for range 5 { // the first ones prepare
					p.roundTrips()
					if err := tt.do(); err != nil {
						t.Fatal(err)
					}
				}
				if got := p.roundTrips(); got != tt.want {
					t.Errorf("%s: %d round trips, want %d", tt.name, got, tt.want)
				}
			}
		})
	}
}

// TestSlowCommitKeepsNobodyFromHisHeartbeat: an operator waits for the lane of a
// slow commit, and the members go on.
func TestSlowCommitKeepsNobodyFromHisHeartbeat(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	id, commit := laneOf(t, db, "p")
	inside, end := make(chan struct{}), make(chan struct{})
	committed := make(chan error, 1)
	go func() {
		committed <- commit(func(c *store.Commit) {
			c.SQL = func(context.Context, any) error {
				close(inside)
				<-end
				return nil
			}
		})
	}()
	<-inside
	paused := make(chan error, 1)
	go func() {
		paused <- db.Update(t.Context(), func(tx store.Tx) error {
			l, err := tx.Lane(id)
			if err != nil {
				return err
			}
			l.State = store.Paused
			return tx.PutLane(l)
		})
	}()
	longest := time.Duration(0)
	for started := time.Now(); time.Since(started) < 4*time.Second; {
		before := time.Now()
		if err := db.Update(t.Context(), func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "m"}) }); err != nil {
			t.Error(err)
			break
		}
		longest = max(longest, time.Since(before))
	}
	if longest > time.Second {
		t.Errorf("a heartbeat took %v, want it not to wait for the commit", longest)
	}
	close(end)
	if err := <-committed; err != nil {
		t.Error(err)
	}
	if err := <-paused; err != nil {
		t.Errorf("the operator's Update = %v", err)
	}
	if l, err := readLane(t, db, id); err != nil || l.State != store.Paused || l.Position != 1 {
		t.Errorf("the lane is %+v, %v, want it paused behind the commit", l, err)
	}
	t.Logf("the longest heartbeat took %v", longest)
}

// TestFenceWhereSerializableIsTheDefault: there PostgreSQL refuses who comes
// second before the fence can, and the fence is what he is to be told of.
func TestFenceWhereSerializableIsTheDefault(t *testing.T) {
	t.Parallel()
	db := openAt(t, migrated(t)+"&default_transaction_isolation=serializable")
	id, _ := laneOf(t, db, "p")
	for round := range 30 {
		var won, fenced atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				err := db.Commit(t.Context(), &store.Commit{
					Lane: id, Fence: store.Fence{Position: event.Position(round)}, Position: event.Position(round + 1), Writes: someWrites(3, 0),
				})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, store.ErrFenced):
					fenced.Add(1)
				default:
					t.Errorf("round %d: %v, want nil or a FenceError", round, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || fenced.Load() != 2 {
			t.Fatalf("round %d: %d commits won and %d were fenced, want 1 and 2", round, won.Load(), fenced.Load())
		}
	}
}
