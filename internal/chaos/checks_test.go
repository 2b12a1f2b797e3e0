package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestChecksFind: each check of what a run has left behind finds what it is there
// for. The witnesses and the read models of a run without faults are spoilt, one at
// a time, each in a transaction that is rolled back.
func TestChecksFind(t *testing.T) {
	f := newFleet(t, 1, 2)
	f.workers[0].env = append(f.workers[0].env, poolVar+"="+pool)
	f.chaos(t, 3*time.Second, nil)
	for _, p := range f.loaders {
		p.busy.Lock()
		p.leave()
		p.busy.Unlock()
	}
	ctx := t.Context()
	if err := f.finish(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range f.workers {
		p.busy.Lock()
		p.leave()
		p.busy.Unlock()
	}
	connect := func(url string) *pgx.Conn {
		c, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return c
	}
	c, out := connect(f.server.URL), connect(f.outside)

	check := func(t *testing.T, spoil func(*history)) findings {
		t.Helper()
		var bad findings
		h, err := readLog(ctx, c, &bad)
		if err != nil {
			t.Fatal(err)
		}
		if spoil != nil {
			spoil(h)
		}
		for _, do := range []func() error{
			func() error { _, err := h.acknowledged(f.dir, &bad); return err },
			func() error { _, err := h.letters(ctx, f, &bad); return err },
			func() error { return h.documents(ctx, onServer(c), &bad) },
			func() error { return h.audited(ctx, onServer(c), &bad) },
			func() error { _, err := committed(ctx, onServer(c), &bad); return err },
			func() error { _, err := h.effects(ctx, out, &bad); return err },
			func() error { return timely(ctx, c, &bad) },
			func() error { return apart(ctx, c, &bad) },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		return bad
	}
	if bad := check(t, nil); bad.err() != nil {
		t.Fatalf("before anything is spoilt: %v", bad.err())
	}

	const (
		ofCounters = "collection_no = (SELECT no FROM fairlead.processors WHERE name = 'counters')"
		one        = "(tenant, id) = (SELECT tenant, id FROM fairlead.documents WHERE " + ofCounters + " ORDER BY 1, 2 LIMIT 1) AND " + ofCounters
		lastAudit  = "seq = (SELECT max(seq) FROM chaos.audit)"
		lastEffect = "seq = (SELECT max(seq) FROM effects)"
		lastCommit = "seq = (SELECT max(seq) FROM chaos.commits)"
		// Of a stream with two events at least, the last two.
		pair = "(SELECT tenant, stream FROM %[1]s GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2 LIMIT 1)"
		swap = `UPDATE %[1]s x SET seq = -x.seq WHERE (tenant, stream) = ` + pair
	)
	for _, tt := range []struct {
		name, kind string
		on         *pgx.Conn
		sql        string
		spoil      func(*history)
	}{
		{"a document that counts an event twice", counters, c, `UPDATE fairlead.documents SET document = jsonb_set(document, '{count}', to_jsonb((document->>'count')::int + 1)) WHERE ` + one, nil},
		{"a document folded in another order", counters, c, `UPDATE fairlead.documents SET document = jsonb_set(document, '{fold}', '1') WHERE ` + one, nil},
		{"a document that is gone", counters, c, `DELETE FROM fairlead.documents WHERE ` + one, nil},
		{"a document of nobody", counters, c, `UPDATE fairlead.documents SET id = 'nobody' WHERE ` + one, nil},
		{"an event lost by the log", "log", c, fmt.Sprintf(`DELETE FROM fairlead.events WHERE (tenant, stream) = `+pair+` AND version = 1`, "fairlead.events"), nil},
		{"a version twice", "log", c, `UPDATE fairlead.events SET version = version + 1 WHERE position = (SELECT max(position) FROM fairlead.events)`, nil},
		{"an audit that is lost", audit, c, `DELETE FROM chaos.audit WHERE ` + lastAudit, nil},
		{"an audit twice", audit, c, `INSERT INTO chaos.audit (tenant, stream, version, position, lane, epoch, worker) SELECT tenant, stream, version, position, lane, epoch, worker FROM chaos.audit WHERE ` + lastAudit, nil},
		{"an audit out of order", audit, c, fmt.Sprintf(swap, "chaos.audit"), nil},
		{"an epoch with two owners in the audit", audit, c, `UPDATE chaos.audit SET worker = 'zombie' WHERE ` + lastAudit, nil},
		{"a commit by another process in the epoch", "commits", c, `INSERT INTO chaos.commits (lane, epoch, owner, before, after, worker) SELECT lane, epoch, owner, after, after + 1, 'zombie' FROM chaos.commits WHERE ` + lastCommit, nil},
		{"a commit that counts again", "commits", c, `INSERT INTO chaos.commits (lane, epoch, owner, before, after, worker) SELECT lane, epoch, owner, before, after, worker FROM chaos.commits WHERE ` + lastCommit, nil},
		{"a commit in an old epoch", "commits", c, `INSERT INTO chaos.commits (lane, epoch, owner, before, after, worker) SELECT lane, epoch - 1, owner, after, after + 1, worker FROM chaos.commits WHERE ` + lastCommit, nil},
		{"a commit that goes back", "commits", c, `INSERT INTO chaos.commits (lane, epoch, owner, before, after, worker) SELECT lane, epoch, owner, after, after - 1, worker FROM chaos.commits WHERE ` + lastCommit, nil},
		{"an effect that is lost", mail, out, `DELETE FROM effects WHERE ` + lastEffect, nil},
		{"an effect twice", mail, out, `INSERT INTO effects (lane, epoch, tenant, stream, version, key, worker) SELECT lane, epoch, tenant, stream, version, key, worker FROM effects WHERE ` + lastEffect, nil},
		{"an effect again with another key", mail, out, `INSERT INTO effects (lane, epoch, tenant, stream, version, key, worker) SELECT lane, epoch + 1, tenant, stream, version, 'other', worker FROM effects WHERE ` + lastEffect, nil},
		{"effects out of order", mail, out, fmt.Sprintf(swap, "effects"), nil},
		{"a time by a clock that is ahead", "times", c, `UPDATE fairlead.lanes SET updated_at = updated_at + interval '2 hours' WHERE processor = 'mail'`, nil},
		{"a time by a clock that is behind", "times", c, `UPDATE fairlead.events SET recorded_at = recorded_at - interval '2 hours'`, nil},
		{"a base lane worked by the pool", "pool", c, `UPDATE chaos.commits SET worker = 'chaos-w0-9' WHERE seq = (SELECT max(seq) FROM chaos.commits WHERE lane LIKE '% ')`, nil},
		{"poison without a letter", "dead letters", nil, "", func(h *history) { h.events[0].Poison = mail }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.on != nil {
				tx, err := tt.on.Begin(ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(ctx) }()
				tag, err := tx.Exec(ctx, tt.sql)
				if err != nil || tag.RowsAffected() == 0 {
					t.Fatalf("spoil: %v, %v", tag, err)
				}
			}
			bad := check(t, tt.spoil)
			if bad.kinds[tt.kind] == 0 {
				t.Errorf("found %v, want something about %s", bad.kinds, tt.kind)
			}
		})
	}
	t.Run("an acknowledged event that is not there", func(t *testing.T) {
		name := filepath.Join(f.dir, "acks-spoilt")
		if err := os.WriteFile(name, []byte("1234567890123\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(name)
		if bad := check(t, nil); bad.kinds["log"] != 1 {
			t.Errorf("found %v, want one of the log", bad.kinds)
		}
	})
	t.Run("faults that never came", func(t *testing.T) {
		var bad findings
		if err := f.happened(ctx, f.witnessed(onServer(c), out), wholeList, &bad); err != nil {
			t.Fatal(err)
		}
		if bad.kinds["faults"] < len(weighted) {
			t.Errorf("found %v, want that no fault has come", bad.kinds)
		}
	})
}
