package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// noPosition is a commit that leaves its lane's position alone, as that of a
// reactor does: only Done changes, which no fence looks at.
func noPosition(l store.Lane, done byte) *store.Commit {
	return &store.Commit{
		Lane: l.LaneID, Fence: fenceOf(l), Position: l.Position, Done: []byte{done},
		Letters: []store.DeadLetter{{Build: l.Build, Key: string([]byte{done}), State: store.Skipped}},
	}
}

func letterKeys(t testing.TB, db *DB) string {
	t.Helper()
	var keys []byte
	err := db.View(t.Context(), func(tx store.Tx) error {
		found, err := tx.Letters(store.LetterFilter{})
		for i := range found {
			keys = append(keys, found[i].Key...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(keys)
}

// TestCommitOnItsWayDoesNotComeTooLate: no answer comes to a commit, its owner
// looks at the row, finds it unchanged, and commits that again. Then the first
// one arrives at the server.
func TestCommitOnItsWayDoesNotComeTooLate(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p, through := newProxy(t, url)
	db := openAt(t, through)
	id, _ := laneOf(t, db, "p")
	// The statements are to be prepared, so that what is held is all of a commit.
	if err := db.Commit(t.Context(), noPosition(store.Lane{LaneID: id}, 'w')); err != nil {
		t.Fatal(err)
	}
	before, err := readLane(t, db, id)
	if err != nil {
		t.Fatal(err)
	}
	p.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := db.Commit(ctx, noPosition(before, 'a')); !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("Commit without an answer = %v, want ErrOutcomeUnknown", err)
	}
	l, err := readLane(t, db, id)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(l.Done, before.Done) || l.Position != before.Position {
		t.Fatalf("the lane has changed: %+v", l)
	}
	if err := db.Commit(t.Context(), noPosition(l, 'b')); err != nil {
		t.Fatal(err)
	}
	p.release()
	waitForNobody(t, url)
	if got := letterKeys(t, db); got != "wb" {
		t.Errorf("letters of commits %q took effect, want w and b", got)
	}
}

// waitForNobody waits until no session of the database is at work but this one
// and those that wait for their clients.
func waitForNobody(t testing.TB, url string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	quiet := 0
	retried(t, func() error {
		n := value[int](t, c, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND backend_type = 'client backend' AND state <> 'idle'`)
		if quiet++; n > 0 {
			quiet = 0
		}
		if quiet < 5 {
			return fmt.Errorf("%d sessions are at work", n)
		}
		return nil
	})
}

// TestCommitUnderWayIsWaitedFor: the server works on a commit whose client was
// cut off. Until it is known what becomes of it, nothing is told about the lane,
// and all about the others.
func TestCommitUnderWayIsWaitedFor(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p, through := newProxy(t, url)
	db := openAt(t, through)
	id, _ := laneOf(t, db, "p")
	other, _ := laneOf(t, db, "q")
	first := noPosition(store.Lane{LaneID: id}, 'w')
	first.Writes = someWrites(1, 0)
	if err := db.Commit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	before, err := readLane(t, db, id)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	// The commit stands in the middle, at its document, with the lane locked.
	exec(t, c, "BEGIN")
	exec(t, c, "SELECT FROM fairlead.documents FOR UPDATE")
	ended := make(chan error, 1)
	second := noPosition(before, 'a')
	second.Writes = first.Writes
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { ended <- db.Commit(ctx, second) }()
	retried(t, func() error {
		if value[int](t, c, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
			return errors.New("nobody waits")
		}
		return nil
	})
	p.cutClients()
	if err := <-ended; !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, ErrUnreachable) {
		t.Fatalf("Commit that was cut off = %v, want ErrOutcomeUnknown and ErrUnreachable", err)
	}
	if l, err := readLane(t, db, id); err == nil {
		t.Errorf("the lane is told about while a commit of it is under way: %+v", l)
	}
	if _, err := readLane(t, db, other); err != nil {
		t.Errorf("another lane: %v", err)
	}
	if err := db.Commit(ctx, noPosition(before, 'b')); err == nil || errors.Is(err, store.ErrFenced) {
		t.Errorf("Commit while another is under way = %v, want an error that is no answer", err)
	}
	exec(t, c, "COMMIT")
	retried(t, func() error {
		l, err := readLane(t, db, id)
		if err == nil && string(l.Done) != "a" {
			err = fmt.Errorf("the lane has done %q, want that of the commit that was under way", l.Done)
		}
		return err
	})
	if got := letterKeys(t, db); got != "wa" {
		t.Errorf("letters of commits %q took effect, want w and a", got)
	}
}

// TestCommitTimeout: a commit that takes longer than the limit has an unknown outcome,
// and then a known one.
func TestCommitTimeout(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openAt(t, url, Options{Timeout: 500 * time.Millisecond})
	id, commit := laneOf(t, db, "p")
	c := connect(t, db)
	exec(t, c, "BEGIN")
	exec(t, c, "SELECT FROM fairlead.lanes FOR UPDATE")
	err := commit(func(c *store.Commit) { c.Writes = someWrites(3, 0) })
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("Commit that waits = %v, want ErrTimeout and ErrOutcomeUnknown", err)
	}
	if err := db.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Lane(id); return err }); !errors.Is(err, ErrTimeout) {
		t.Errorf("Update that waits = %v, want ErrTimeout", err)
	}
	exec(t, c, "COMMIT")
	retried(t, func() error {
		l, err := readLane(t, db, id)
		if err != nil {
			return err
		}
		docs, err := db.List(t.Context(), "p", "tenant-0", "", 10)
		if want := int(l.Position); len(docs) != want {
			t.Errorf("the lane is at %d with %d documents of a tenant, want all or nothing", l.Position, len(docs))
		}
		return err
	})
}
