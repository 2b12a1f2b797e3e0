package postgres

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// TestManyLanesAreFewRoundTrips: while lanes are taken, handed over or left all other
// Updates of the store wait, so on a slow network it must not be a round trip for each.
func TestManyLanesAreFewRoundTrips(t *testing.T) {
	p, through := newProxy(t, migrated(t))
	db, ctx := openAt(t, through, Options{MaxConns: 2}), t.Context()
	var ids []store.LaneID
	var given []lane.Given
	err := db.Update(ctx, func(tx store.Tx) error {
		if err := tx.PutProcessor(store.Processor{Name: "p", Live: 1, Partitions: 64}); err != nil {
			return err
		}
		for i := range 64 {
			id := store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}
			ids = append(ids, id)
			given = append(given, lane.Given{ID: id, Epoch: 2})
			if err := tx.PutLane(store.Lane{LaneID: id, Of: 64, State: store.Running}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	take := func() error {
		lanes, err := lane.AcquireAll(ctx, db, ids, "me", func(id store.LaneID, err error) error { return err })
		if err == nil && len(lanes) != len(ids) {
			err = fmt.Errorf("%d lanes", len(lanes))
		}
		return err
	}
	const epoch = 1 // of the lane that the tenant gets
	tenant := store.LaneID{Build: ids[0].Build, Tenant: "t"}
	for _, tt := range []struct {
		what string
		most int
		do   func() error
	}{
		{"join", 6, func() error { return lane.Join(ctx, db, store.Member{ID: "me"}, time.Hour) }},
		{"take, the statements are new", 20, take},
		{"take", 5, take},
		{"hand over", 3, func() error { return lane.HandOver(ctx, db, "me", given...) }},
		{"take again", 5, take},
		{"detach", 8, func() error { return lane.Detach(ctx, db, "p", "t") }},
		{"let it merge", 8, func() error { return lane.Unpin(ctx, db, "p", "t") }},
		{"merge, after a look", 10, func() error { _, err := lane.TryMerge(ctx, db, tenant, epoch); return err }},
		{"write many, in parts", 3 + 600/writesAtOnce + 4, func() error {
			if err := db.Update(ctx, func(tx store.Tx) error {
				for i := range 600 {
					if err := tx.PutMember(store.Member{ID: fmt.Sprint(i)}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				return err
			}
			return db.View(ctx, func(tx store.Tx) error {
				all, err := tx.Members()
				if len(all) != 601 {
					t.Errorf("%d members, want 601", len(all))
				}
				return err
			})
		}},
		{"leave", 10, func() error { return lane.Leave(ctx, db, "me") }},
	} {
		p.roundTrips()
		err := tt.do()
		if n := p.roundTrips(); err != nil || n > tt.most {
			t.Errorf("%s: %d round trips, %v; want %d at most", tt.what, n, err, tt.most)
		} else {
			t.Logf("%s: %d round trips", tt.what, n)
		}
	}
}

// TestWriteThatFailsLater: what cannot be written fails the Update, whatever comes after it.
func TestWriteThatFailsLater(t *testing.T) {
	db, ctx := openAt(t, migrated(t)), t.Context()
	good := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}}, State: store.Running}
	bad := good
	bad.Tenant = "a\x00b"
	for _, next := range []func(tx store.Tx) error{
		func(store.Tx) error { return nil },
		func(tx store.Tx) error { return tx.PutLane(good) },
		func(tx store.Tx) error { return tx.PutWeight("t", 2) },
		func(tx store.Tx) error { _, err := tx.Lanes(""); return err },
		func(tx store.Tx) error { _, err := tx.Members(); _ = err; return nil }, // who does not look
	} {
		err := db.Update(ctx, func(tx store.Tx) error {
			return errors.Join(tx.PutLane(good), tx.PutLane(bad), next(tx))
		})
		if err == nil {
			t.Error("Update = nil, want that the tenant's name is refused")
		}
		if err := db.View(ctx, func(tx store.Tx) error {
			lanes, err := tx.Lanes("")
			if len(lanes) > 0 {
				t.Errorf("it left %v", lanes)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTxAfterItsEnd: what was to be written is not, by whoever kept the transaction.
func TestTxAfterItsEnd(t *testing.T) {
	db, ctx := openAt(t, migrated(t)), t.Context()
	failed := errors.New("failed")
	for _, end := range []error{nil, failed} {
		var kept store.Tx
		if err := db.Update(ctx, func(tx store.Tx) error {
			kept = tx
			return errors.Join(tx.PutMember(store.Member{ID: "m"}), end)
		}); !errors.Is(err, end) {
			t.Fatal(err)
		}
		_, err := kept.Members()
		for _, err := range []error{err, kept.PutWeight("t", 2), kept.PutMember(store.Member{ID: "n"}), kept.PutPool("t", "p")} {
			if !errors.Is(err, errTxEnded) {
				t.Errorf("after the end, which was %v: %v, want %v", end, err, errTxEnded)
			}
		}
	}
}

// TestWriteThatWaitedTooLong: what is written with the commit may wait for a lock too, and then
// gives way, and comes again.
func TestWriteThatWaitedTooLong(t *testing.T) {
	url := migrated(t)
	db, ctx := openAt(t, url), t.Context()
	if err := lane.Join(ctx, db, store.Member{ID: "m"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, db.q("SELECT FROM {schema}.members FOR UPDATE")); err != nil {
		t.Fatal(err)
	}
	tries := 0
	if err := db.Update(ctx, func(rows store.Tx) error {
		if tries++; tries == 3 {
			if err := tx.Rollback(ctx); err != nil {
				return err
			}
		}
		return rows.PutMember(store.Member{ID: "m", Notes: fmt.Sprint(tries)})
	}); err != nil || tries != 3 {
		t.Errorf("Update = %v, after %d tries, want 3", err, tries)
	}
}
