package postgres

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
)

// TestCrashLosesCommits: a server that does not wait for its disk loses commits
// in a crash, and hands out their positions again. What a reader knew of the gaps
// between them is worth nothing then: it must not skip what comes there late.
func TestCrashLosesCommits(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	db := openAt(t, server.URL)
	mustAppend(t, db, one("0"))
	for _, sql := range []string{
		"ALTER SYSTEM SET synchronous_commit = off", "ALTER SYSTEM SET wal_writer_delay = '10s'",
		"ALTER SYSTEM SET wal_writer_flush_after = '1GB'", "SELECT pg_reload_conf()", "CHECKPOINT",
	} {
		exec(t, db.pool, sql)
	}
	for value[string](t, db.pool, "SHOW synchronous_commit") != "off" {
		sleep(t.Context(), listOften)
	}
	var late pgx.Tx
	var position event.Position
	for try := 1; ; try++ {
		// The first wakes up the server's writer, which then sleeps for 10 s. And
		// the sequence is on the disk with 32 numbers to come: more are needed.
		mustAppend(t, db, one("0"))
		sleep(t.Context(), 300*time.Millisecond)
		for range 100 {
			mustAppend(t, db, one("lost"))
		}
		before, err := db.Head(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		for range 50 { // who comes first finds the connections cut
			if _, err = db.Versions(t.Context()); err == nil {
				break
			}
		}
		if late, position = begin(t, db, "late"); position <= before {
			break
		}
		if try == 5 {
			t.Fatalf("after the crash the log goes on at %v, want at most %v: nothing was lost, and so nothing is tested", position, before)
		}
		if err := late.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustAppend(t, db, one("1"))
	head, err := db.Head(t.Context(), 0)
	if err != nil || head >= position {
		t.Errorf("head = %v, %v, want it before %v, where an event may still appear", head, err, position)
	}
	readable := streams(t, db)
	if strings.HasSuffix(readable, " 1") {
		t.Errorf("the log has the streams %q, want nothing behind the gap", readable)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := value[string](t, db.pool, "SELECT string_agg(stream, ' ' ORDER BY position) FROM fairlead.events")
	if !strings.HasSuffix(all, " late 1") {
		t.Fatalf("the log has %q, want the late one before the last", all)
	}
	wantStreams(t, db, all)
}

// TestStandby: a standby knows nothing of the transactions of its primary. It is
// refused at start, and also where connections come to lead to one later.
func TestStandby(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	db := openAt(t, server.URL)
	gone, _ := begin(t, db, "gone")
	mustAppend(t, db, one("1"))
	if err := gone.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Standby(); err != nil {
		t.Fatal(err)
	}
	if other, err := Open(t.Context(), server.URL); !errors.Is(err, ErrStandby) {
		if err == nil {
			_ = other.Close()
		}
		t.Errorf("Open = %v, want ErrStandby", err)
	}
	for range 50 { // who comes first finds the connections cut
		if _, err := db.Versions(t.Context()); err == nil {
			break
		}
	}
	if page, err := db.Read(t.Context(), eventlog.ReadRequest{}); !errors.Is(err, ErrStandby) {
		t.Errorf("Read = %+v, %v, want ErrStandby at the gap", page, err)
	}
	if _, err := db.Append(t.Context(), one("2")); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Append = %v, want ErrReadOnly", err)
	}
}
