package postgres

import (
	"fmt"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// laneOf makes a processor with its base lane, and returns a function that
// commits on it.
func laneOf(t testing.TB, db *DB, name string) (store.LaneID, func(change func(*store.Commit)) error) {
	t.Helper()
	id := store.LaneID{Build: store.Build{Processor: name, Number: 1}}
	err := db.Update(t.Context(), func(tx store.Tx) error {
		p := store.Processor{Name: name, Kind: "projection", Collection: name, Partitions: 1, Live: 1, LastBuild: 1}
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: id, State: store.Running})
	})
	if err != nil {
		t.Fatal(err)
	}
	at := event.Position(0)
	return id, func(change func(*store.Commit)) error {
		c := &store.Commit{Lane: id, Fence: store.Fence{Position: at}, Position: at + 1}
		change(c)
		err := db.Commit(t.Context(), c)
		if err == nil {
			at = c.Position
		}
		return err
	}
}

func someWrites(n, from int) (out []store.Write) {
	for i := range n {
		k := store.Key{Tenant: fmt.Sprintf("tenant-%d", i%7), ID: fmt.Sprintf("order-%06d", from+i)}
		out = append(out, store.Write{Document: store.Document{
			Key: k, Version: int64(i), Position: event.Position(i + 1),
			Data: fmt.Appendf(nil, `{"customer":"c-%d","status":"shipped","lines":[{"sku":"a-%d","n":3},{"sku":"b-%d","n":1}],"total":%d}`, i, i, i, i*100),
		}})
	}
	return out
}

// BenchmarkCommit is one batch of a lane: its documents are there already, as
// most are in a log that is being followed.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("documents=%d", n), func(b *testing.B) {
			db := openTemp(b)
			_, commit := laneOf(b, db, "p")
			writes := someWrites(n, 0)
			for b.Loop() {
				if err := commit(func(c *store.Commit) { c.Writes = writes }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "documents/s")
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("documents=%d", n), func(b *testing.B) {
			db := openTemp(b)
			_, commit := laneOf(b, db, "p")
			for i := range 20 {
				if err := commit(func(c *store.Commit) { c.Writes = someWrites(1000, i*1000) }); err != nil {
					b.Fatal(err)
				}
			}
			var keys []store.Key
			for _, w := range someWrites(n, 5000) {
				keys = append(keys, w.Key)
			}
			for b.Loop() {
				docs, err := db.Load(b.Context(), store.Build{Processor: "p", Number: 1}, keys)
				if err != nil || len(docs) != n {
					b.Fatal(len(docs), err)
				}
			}
		})
	}
}

// BenchmarkUpdate is a heartbeat.
func BenchmarkUpdate(b *testing.B) {
	db := openTemp(b)
	for b.Loop() {
		err := db.Update(b.Context(), func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "m", Until: tx.Now()}) })
		if err != nil {
			b.Fatal(err)
		}
	}
}
