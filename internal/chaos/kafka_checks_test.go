package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// quietTopic runs a fleet on the tests' broker for a while, without faults.
func quietTopic(t *testing.T, lite bool) (*fleet, *mirror) {
	t.Helper()
	f := newTopicFleet(t, 2, 2, newTopic(t, nil), lite, lite)
	f.plan.operate = nil
	f.produces()
	m := &mirror{fleet: f}
	f.chaos(t, 3*time.Second, nil)
	f.endLoad()
	if err := f.finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range f.workers {
		p.busy.Lock()
		p.leave()
		p.busy.Unlock()
	}
	return f, m
}

// TestTopicChecksFind is [TestChecksFind] for fleets on a topic: what is checked of
// them with other witnesses or by other rules.
func TestTopicChecksFind(t *testing.T) {
	for _, lite := range []bool{false, true} {
		f, m := quietTopic(t, lite)
		ctx := t.Context()
		w, done, err := f.witnesses(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(done)
		check := func(t *testing.T, spoil func(*history)) findings {
			t.Helper()
			var bad findings
			h, err := readTopic(ctx, f.topic, &bad)
			if err != nil {
				t.Fatal(err)
			}
			if spoil != nil {
				spoil(h)
			}
			if _, err := h.letters(ctx, f, &bad); err != nil {
				t.Fatal(err)
			}
			if _, err := h.checkTopic(ctx, f, w, f.dir, &bad); err != nil {
				t.Fatal(err)
			}
			return bad
		}
		if bad := check(t, nil); bad.err() != nil {
			t.Fatalf("%s, before anything is spoilt: %v", f.kind(), bad.err())
		}
		audits, commits := w.in.table("audit"), w.in.table("commits")
		lastAudit, lastCommit := "seq = (SELECT max(seq) FROM "+audits+")", "seq = (SELECT max(seq) FROM "+commits+")"
		aDocument := `UPDATE fairlead.documents SET document = jsonb_set(document, '{fold}', '1') WHERE collection_no = (SELECT no FROM fairlead.processors WHERE name = 'counters')`
		if lite {
			aDocument = `UPDATE fairlead_documents SET doc = json_set(doc, '$.fold', 1) WHERE build_no IN (SELECT build_no FROM fairlead_builds WHERE processor = 'counters')`
		}
		// Of a stream with two events at least, all but the first in front of it.
		swap := "UPDATE %[1]s SET seq = -seq WHERE (tenant, stream) = (SELECT tenant, stream FROM %[1]s GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2 LIMIT 1)"
		for _, tt := range []struct {
			name, kind string
			out        bool
			sql        string
			spoil      func(*history)
		}{
			{"documents folded in another order", counters, false, aDocument, nil},
			{"an audit that is lost", audit, false, `DELETE FROM ` + audits + ` WHERE ` + lastAudit, nil},
			{"an audit twice", audit, false, `INSERT INTO ` + audits + ` (tenant, stream, version, position, lane, epoch, worker) SELECT tenant, stream, version, position, lane, epoch, worker FROM ` + audits + ` WHERE ` + lastAudit, nil},
			{"an audit out of order", audit, false, fmt.Sprintf(swap, audits), nil},
			{"an epoch with two owners in the audit", audit, false, `UPDATE ` + audits + ` SET worker = 'zombie' WHERE ` + lastAudit, nil},
			{"a commit by another process in the epoch", "commits", false, `INSERT INTO ` + commits + ` (lane, epoch, owner, before, after, worker) SELECT lane, epoch, owner, after, after + 1, 'zombie' FROM ` + commits + ` WHERE ` + lastCommit, nil},
			{"a commit in an old epoch", "commits", false, `INSERT INTO ` + commits + ` (lane, epoch, owner, before, after, worker) SELECT lane, epoch - 1, owner, after, after + 1, worker FROM ` + commits + ` WHERE ` + lastCommit, nil},
			{"an effect that is lost", mail, true, `DELETE FROM effects WHERE seq = (SELECT max(seq) FROM effects)`, nil},
			{"effects out of order", mail, true, fmt.Sprintf(swap, "effects"), nil},
			{"an effect again that was written down", "repeated", true, `INSERT INTO effects (lane, epoch, tenant, stream, version, key, worker)
				SELECT lane, epoch + 1, tenant, stream, version, key, worker FROM effects WHERE seq = (SELECT max(seq) FROM effects)`, nil},
			{"poison without a letter", "dead letters", false, "", func(h *history) { h.events[0].Poison = mail }},
			{"a record that was acknowledged and lost", "log", false, "", func(h *history) { clear(h.numbers) }},
		} {
			t.Run(f.kind()+"/"+tt.name, func(t *testing.T) {
				if tt.sql != "" {
					defer f.spoil(t, w, tt.out, tt.sql)()
				}
				if bad := check(t, tt.spoil); bad.kinds[tt.kind] == 0 {
					t.Errorf("found %v, want something about %s", bad.kinds, tt.kind)
				}
			})
		}
		t.Run(f.kind()+"/a record twice", func(t *testing.T) {
			var bad findings
			h, err := readTopic(ctx, f.topic, &bad)
			if err != nil {
				t.Fatal(err)
			}
			if h.append(h.events[0], &bad); bad.kinds["log"] != 1 {
				t.Errorf("found %v", bad.kinds)
			}
		})
		t.Run(f.kind()+"/offsets", func(t *testing.T) {
			if err := m.mirrored(ctx); err != nil {
				t.Fatal(err)
			}
			if err := m.look(ctx); err != nil || m.looks != 1 || m.bad.err() != nil {
				t.Fatalf("before anything is spoilt: %v, %v, %d looks", err, m.bad.err(), m.looks)
			}
			heads, err := f.heads(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ahead := kadm.Offsets{}
			ahead.AddOffset(f.topic.name, 3, int64(heads[3])+1, -1)
			if err := f.topic.admin.CommitAllOffsets(ctx, f.group, ahead); err != nil {
				t.Fatal(err)
			}
			if err := m.look(ctx); err != nil || m.bad.kinds["offsets"] == 0 {
				t.Errorf("an offset ahead of the checkpoints: %v, found %v", err, m.bad.kinds)
			}
			n := m.bad.kinds["offsets"]
			if err := m.mirrored(ctx); err != nil || m.bad.kinds["offsets"] != n+1 {
				t.Errorf("an offset that is no checkpoint at the end: %v, found %v", err, m.bad.kinds)
			}
		})
	}
}

// spoil changes what a witness says, until the result is called.
func (f *fleet) spoil(t *testing.T, w witnesses, out bool, sql string) (back func()) {
	t.Helper()
	if lite, ok := w.in.(*liteWitness); ok && !out {
		lite.exec(t, "BEGIN")
		if lite.exec(t, sql) == 0 {
			t.Errorf("%s: nothing is spoilt", sql)
		}
		return func() { lite.exec(t, "ROLLBACK") }
	}
	c := w.out
	if !out {
		c = w.in.(serverWitness).c
	}
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if tag, err := tx.Exec(t.Context(), sql); err != nil || tag.RowsAffected() == 0 {
		t.Errorf("%s: %v, %v", sql, tag, err)
	}
	return func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }
}

// TestTopicChaosFindsABrokenFence is [TestChaosFindsABrokenFence] with a consumer
// group: processes that come back when their partitions are others' commit what they
// had in hand.
func TestTopicChaosFindsABrokenFence(t *testing.T) { untilFound(t, topicWithoutFence) }

func topicWithoutFence(t *testing.T) bool {
	t.Helper()
	const workers = 3
	f := newTopicFleet(t, 2, workers, newTopic(t, nil), false, false)
	f.plan.operate = nil
	f.produces()
	statements(t, f.server.URL, []string{unfence})
	var all []fault
	for i := range 4 {
		d := session + 2500*time.Millisecond
		all = append(all, fault{at: time.Duration(2+4*i) * time.Second, say: fmt.Sprintf("stop w%d for %v", i%workers, d), do: func(ctx context.Context, f *fleet) {
			p := f.workers[i%workers]
			p.busy.Lock()
			defer p.busy.Unlock()
			p.freeze(ctx, d)
		}})
	}
	f.chaos(t, 0, all)
	f.end()
	w, done, err := f.witnesses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	var bad findings
	if _, err := committed(t.Context(), w.in, &bad); err != nil {
		t.Fatal(err)
	}
	t.Logf("found: %.3000v", bad.err())
	return bad.kinds["commits"] > 0
}
