package postgres

import (
	"bytes"
	"encoding/json"
	"fmt"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// TestEmmett reads Emmett's store while Emmett itself appends to it, by 8
// appenders of which some fail, roll back or are slow. What comes must be every
// stream in the order of its versions, and complete by Emmett's own account.
func TestEmmett(t *testing.T) {
	t.Parallel()
	f := emmett()
	f.mapping.Tenant = "message_metadata ->> 'tenant'"
	url := f.database(t)
	log := openLog(t, url, f.mapping)
	dir := pgtest.NPM(t, "bench/peers/emmett")
	cmd := osexec.CommandContext(t.Context(), "node", filepath.Join(dir, "append.mjs"), url, `{"appenders":8,"events":5000,"aborts":0.08}`)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	versions := map[string]int64{}
	var after event.Position
	n, waits, whileWriting, running := 0, 0, 0, true
	for {
		p, err := log.Read(t.Context(), eventlog.ReadRequest{After: after, MaxEvents: 300})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Events {
			if e.Position <= after {
				t.Fatalf("position %v comes after %v", e.Position, after)
			}
			after = e.Position
			if e.Version != versions[e.Stream]+1 {
				t.Fatalf("stream %s: version %d at position %v comes after version %d", e.Stream, e.Version, e.Position, versions[e.Stream])
			}
			versions[e.Stream] = e.Version
			if !strings.HasPrefix(e.Stream, "cart-"+e.Tenant+":") || !json.Valid(e.Data) || e.Type != "Added" || e.ID == "" || e.RecordedAt.IsZero() {
				t.Fatalf("odd event %+v", e)
			}
			n++
			if running {
				whileWriting++
			}
		}
		after = p.Next
		if p.Next < p.Head {
			continue
		}
		if !running {
			break
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("append.mjs: %v\n%s", err, said.String())
			}
			running = false
		case <-time.After(2 * time.Millisecond):
			waits++
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var account struct {
		Appended, Conflicts, Aborts, Races int
		Versions                           map[string]int64
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &account); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if n != account.Appended || fmt.Sprint(versions) != fmt.Sprint(account.Versions) {
		t.Errorf("read %d events in %d streams, Emmett has appended %d in %d:\n%v\n%v", n, len(versions), account.Appended, len(account.Versions), versions, account.Versions)
	}
	if account.Aborts == 0 || account.Conflicts == 0 || whileWriting < n/4 {
		t.Errorf("%d aborts, %d conflicts, %d of %d events read while writing: the test has not tested much", account.Aborts, account.Conflicts, whileWriting, n)
	}
	dead := value[int64](t, log.db.pool, "SELECT max(global_position) - count(*) FROM emt_messages")
	t.Logf("%d events, %d of them read while Emmett wrote, in %d streams; %d dead positions, %d conflicts, %d lost races", n, whileWriting, len(versions), dead, account.Conflicts, account.Races)
	if dead == 0 {
		t.Error("no position was rolled back")
	}
	if advice := log.Advice(); len(advice) != 1 || !strings.Contains(advice[0], "CREATE INDEX") {
		t.Errorf("advice %q, want one that names an index", advice)
	}
}

// TestEmmettArchived: a stream that is archived moves to another partition, and
// its events keep their positions.
func TestEmmettArchived(t *testing.T) {
	t.Parallel()
	f := emmett()
	log, c := openForeign(t, &f)
	appendTo(t, &f, c, "emt:default", "s1", 2)
	appendTo(t, &f, c, "emt:default", "s2", 1)
	exec(t, c, "UPDATE emt_messages SET is_archived = true WHERE stream_id = 's1'")
	var got []string
	for _, e := range allOf(t, log) {
		got = append(got, fmt.Sprintf("%s@%d %s", e.Stream, e.Version, e.Metadata["archived"]))
	}
	if want := []string{"s1@1 true", "s1@2 true", "s2@1 "}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(log.Advice()) == 0 {
		t.Error("no advice about a table without an index")
	}
	for _, part := range []string{"emt_messages_emt_default_active", "emt_messages_emt_default_archived"} {
		exec(t, c, "CREATE INDEX CONCURRENTLY ON "+part+" (global_position)")
	}
	if advice := openLog(t, log.db.pool.Config().ConnString(), f.mapping).Advice(); len(advice) != 0 {
		t.Errorf("advice %q about a table with an index on each partition", advice)
	}
}
