package postgres

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// TestConnectsBeforeItIsGivenWork: with its first heartbeat a process has the connections
// that its first lanes need, if there is another that may hand it some; who only looks has not.
func TestConnectsBeforeItIsGivenWork(t *testing.T) {
	db := openTemp(t)
	err := db.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutMember(store.Member{ID: "gone", Until: tx.Now().Add(-time.Minute)})
	})
	if err != nil {
		t.Fatal(err)
	}
	alone := openAt(t, db.pool.Config().ConnString())
	if _, err := alone.Extend(t.Context(), "me", "", time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := alone.pool.Stat().TotalConns(); n != 1 {
		t.Errorf("%d connections of the only process after its first heartbeat, want 1", n)
	}
	err = db.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutMember(store.Member{ID: "other", Until: tx.Now().Add(time.Minute)})
	})
	if err != nil {
		t.Fatal(err)
	}
	db = openAt(t, db.pool.Config().ConnString())
	if _, err := db.Revision(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := db.pool.Stat().TotalConns(); n != 1 {
		t.Errorf("%d connections before a heartbeat, want 1", n)
	}
	if _, err := db.Extend(t.Context(), "me", "", time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := db.pool.Stat().TotalConns(); n != warmConns {
		t.Errorf("%d connections after the first heartbeat, want %d", n, warmConns)
	}
	few := openAt(t, db.pool.Config().ConnString()+"&pool_max_conns=2")
	if _, err := few.Extend(t.Context(), "me", "", time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := few.pool.Stat().TotalConns(); n > 2 {
		t.Errorf("%d connections of 2", n)
	}
}

// TestRehearsesWhatLanesSay: the statements of a lane run on a new connection without a
// fault and without an effect, and the connection knows them then.
func TestRehearsesWhatLanesSay(t *testing.T) {
	db := openTemp(t)
	err := db.Update(t.Context(), func(tx store.Tx) error {
		for _, name := range []string{"carts", "a;\"b'"} {
			if err := tx.PutProcessor(store.Processor{Name: name, Kind: "projection", Collection: name, Partitions: 1, Live: 1}); err != nil {
				return err
			}
		}
		return tx.PutProcessor(store.Processor{Name: "reactor", Kind: "reactor", Partitions: 1, Live: 1, LastBuild: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	tables, err := db.knownTables(t.Context())
	if err != nil || len(tables) != 2 {
		t.Fatalf("%d tables, %v, want 2", len(tables), err)
	}
	revision, err := db.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := db.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if err := db.rehearse(t.Context(), c, tables, 0); err != nil {
		t.Error(err)
	}
	statements, _ := c.Query(t.Context(), "SELECT left(statement, 200) FROM pg_prepared_statements")
	prepared, err := pgx.CollectRows(statements, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"INSERT INTO " + tables[0].name, "INSERT INTO " + tables[1].name, "WITH "} {
		if !slices.ContainsFunc(prepared, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no statement that begins with %q is prepared, but %q", want, prepared)
		}
	}
	if now, err := db.Revision(t.Context()); err != nil || now != revision {
		t.Errorf("revision %d, %v, was %d", now, err, revision)
	}
}

// TestRehearsalWaitsForNobody: an index that is built on the documents of one processor
// keeps no process from its first heartbeat.
func TestRehearsalWaitsForNobody(t *testing.T) {
	db := openTemp(t)
	err := db.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutProcessor(store.Processor{Name: "carts", Kind: "projection", Collection: "carts", Partitions: 1, Live: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	tables, err := db.knownTables(t.Context())
	if err != nil || len(tables) != 1 {
		t.Fatalf("%d tables, %v, want 1", len(tables), err)
	}
	c := connect(t, db)
	exec(t, c, "BEGIN")
	exec(t, c, "LOCK TABLE "+tables[0].name+" IN SHARE MODE") // as CREATE INDEX does
	c2, err := db.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Release()
	began := time.Now()
	if err := db.rehearse(t.Context(), c2, tables, 0); err == nil {
		t.Error("a table that is locked was written to")
	}
	if _, err := db.Extend(t.Context(), "me", "", time.Minute); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a rehearsal and the first heartbeat took %v", took)
	}
}
