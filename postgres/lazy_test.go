package postgres

import (
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// TestLazyCommit: a lazy commit does not wait for the disk, and the session's next one
// does again.
func TestLazyCommit(t *testing.T) {
	db := openTemp(t, Options{MaxConns: 4})
	id := store.LaneID{Build: store.Build{Processor: "p", Number: 1}}
	err := db.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.PutProcessor(store.Processor{Name: "p", Kind: "projection", Collection: "docs", Partitions: 1, Live: 1}); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: id, Epoch: 1, State: store.Running})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"CREATE TABLE public.seen (position bigint, how text)",
		`CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.seen VALUES (NEW.position, current_setting('synchronous_commit')); RETURN NULL; END $$`,
		"CREATE TRIGGER see AFTER UPDATE ON fairlead.lanes FOR EACH ROW EXECUTE FUNCTION public.see()",
		// At the end of the transaction, as it is when that commits.
		"CREATE CONSTRAINT TRIGGER saw AFTER UPDATE ON fairlead.lanes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.see()",
	} {
		if _, err := db.pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for n := event.Position(1); n <= 12; n++ {
		c := &store.Commit{
			Lane: id, Fence: store.Fence{Epoch: 1, Position: n - 1}, Position: n, Lazy: n%2 == 0,
			Writes: []store.Write{{Document: store.Document{Key: store.Key{Tenant: "t", ID: "d"}, Version: int64(n), Data: []byte("{}")}}},
		}
		if err := db.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	var wrong, all int
	err = db.pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE (last = 'off') <> (position % 2 = 0)), count(*)
		FROM (SELECT position, min(how) AS last FROM public.seen GROUP BY position) AS x`).Scan(&wrong, &all)
	if err != nil || wrong != 0 || all != 12 {
		t.Errorf("%d of %d commits, want 0 of 12, were lazy and should not have been, or the other way: %v", wrong, all, err)
	}
}
