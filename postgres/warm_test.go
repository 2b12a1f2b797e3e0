package postgres

import (
	"testing"
	"time"
)

// TestConnectsBeforeItIsGivenWork: with its first heartbeat a process has the connections
// that its first lanes need; who only looks has not.
func TestConnectsBeforeItIsGivenWork(t *testing.T) {
	db := openTemp(t)
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
