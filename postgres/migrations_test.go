package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

type sum struct {
	Count int `json:"count"`
	Sum   int `json:"sum"`
}

type plus struct {
	N int `json:"n"`
}

// sums is not idempotent.
func sums() *projection.Projection[sum] {
	return projection.New("sums", projection.On("plus", func(s *sum, e projection.Event[plus]) error {
		s.Count++
		s.Sum = 10*s.Sum + e.Data.N
		return nil
	}))
}

// oldData is what a program of a schema's version left: twelve events of three
// tenants, of which the base lanes have applied the first six. Tenant b is in a lane of
// its own, which has applied one; c's second event is a dead letter.
func oldData(t *testing.T, c querier, version int) {
	t.Helper()
	exec(t, c, "INSERT INTO fairlead.streams SELECT t, 's', 4 FROM unnest('{a,b,c}'::text[]) t")
	exec(t, c, `INSERT INTO fairlead.events (tenant, stream, version, type, occurred_at, id, data)
		SELECT t, 's', v, 'plus', '2024-02-29 12:00:00Z', t || v, json_build_object('n', v)::text
		FROM generate_series(1, 4) v, unnest('{a,b,c}'::text[]) t ORDER BY v, t`)
	if version < 2 {
		return
	}
	exec(t, c, `INSERT INTO fairlead.processors (name, kind, collection, partitions, live, last_build, rebuild, rebuild_tenant, retired, cross_tenant, version, paused)
		VALUES ('sums', 'projection', 'sums', 2, 1, 1, 0, '', '{}', false, '', false)`)
	for i := range 2 {
		exec(t, c, `INSERT INTO fairlead.lanes (processor, number, partition, tenant, epoch, position, exclusions, revision, state, reason, pinned, owner, applied_at, updated_at)
			VALUES ('sums', 1, $1, '', 7, 6, '{"b": 9223372036854775807}', 3, 'running', '', false, 'long gone', now(), now()),
			('sums', 1, $1, 'b', 5, 2, NULL, 2, 'running', '', true, '', now(), now())`, i)
	}
	docs := []struct {
		tenant   string
		position int
		doc      string
	}{{"a", 4, `{"count":2,"sum":12}`}, {"b", 2, `{"count":1,"sum":1}`}, {"c", 3, `{"count":1,"sum":1}`}}
	if version < 7 {
		exec(t, c, "INSERT INTO fairlead.builds (processor, number) VALUES ('sums', 1)")
		for _, d := range docs {
			exec(t, c, `INSERT INTO fairlead.documents (build_no, tenant, id, version, position, updated_at, doc)
				SELECT build_no, $1, 's', ($3::json->>'count')::bigint, $2, now(), $3 FROM fairlead.builds`, d.tenant, d.position, d.doc)
		}
	} else {
		exec(t, c, "SELECT fairlead.make_collection('sums')")
		for _, d := range docs {
			exec(t, c, `INSERT INTO fairlead.documents (collection_no, build, tenant, id, version, position, updated, document)
				SELECT no, 1, $1, 's', ($3::jsonb->>'count')::bigint, $2, now(), $3 FROM fairlead.processors`, d.tenant, d.position, d.doc)
		}
	}
	exec(t, c, `INSERT INTO fairlead.dead_letters (processor, number, partition, tenant, key, state, retry, reason, error, attempts, at, position,
		event_id, event_tenant, stream, version, type, occurred_at, recorded_at, data, withheld)
		VALUES ('sums', 1, $1, 'c', 's', 'poison', false, 'handler', 'no', 1, now(), 6, 'c2', 'c', 's', 2, 'plus', now(), now(), '{"n":2}', 0)`,
		partition.Bucket("c\x00s", 2))
	exec(t, c, "INSERT INTO fairlead.weights VALUES ('a', 2.5)")
	exec(t, c, "INSERT INTO fairlead.members VALUES ('long gone', now() - interval '10 min', 'h', now() - interval '1 h', '')")
	if version >= 3 {
		exec(t, c, "INSERT INTO fairlead.shards VALUES ('a', 'north')")
	}
	if version >= 4 {
		exec(t, c, "INSERT INTO fairlead.pools VALUES ('b', 'gold')")
	}
	if version >= 5 {
		exec(t, c, `UPDATE fairlead.processors SET builds = '{"seen":["v0"]}'`)
	}
	if version >= 6 {
		exec(t, c, "UPDATE fairlead.lanes SET modulus = 2")
	}
}

// TestMigrateEachVersion: a database of each version, with data, is brought to the
// newest one by one. Programs of before refuse it on the way, nothing is lost, and the
// lanes go on where they were, exactly once.
func TestMigrateEachVersion(t *testing.T) {
	t.Parallel()
	for version := 1; version <= len(migrations); version++ {
		t.Run(fmt.Sprint("from ", version), func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			at := func(v int) error {
				db, err := prepare(t.Context(), url)
				if err != nil {
					return err
				}
				db.migrations = before(t, v)
				return errors.Join(db.migrate(t.Context()), db.Close())
			}
			if err := at(version); err != nil {
				t.Fatal(err)
			}
			c, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close(context.WithoutCancel(t.Context())) }()
			oldData(t, c, version)
			for v := version + 1; v <= len(migrations); v++ {
				if err := at(v); err != nil {
					t.Fatalf("from version %d to %d: %v", v-1, v, err)
				}
				for older := 1; older < v; older++ {
					err := at(older)
					if !errors.Is(err, store.ErrNewerSchema) || !strings.Contains(err.Error(), fmt.Sprintf("version %d, this program knows %d", v, older)) {
						t.Errorf("a program of version %d opens version %d: %v, want %v with both", older, v, err, store.ErrNewerSchema)
					}
				}
			}
			goesOn(t, openAt(t, url), version)
		})
	}
}

// goesOn checks what oldData left of a version, and works on.
func goesOn(t *testing.T, db *DB, version int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	page, err := db.Read(ctx, eventlog.ReadRequest{MaxEvents: 100})
	if err != nil || len(page.Events) != 12 {
		t.Fatalf("%d events, %v, want 12", len(page.Events), err)
	}
	for i, e := range page.Events {
		want := fmt.Sprintf("%s s %d %d plus {\"n\" : %d}", []string{"a", "b", "c"}[i%3], i/3+1, i+1, i/3+1)
		if got := fmt.Sprintf("%s %s %d %d %s %s", e.Tenant, e.Stream, e.Version, e.Position, e.Type, e.Data); got != want || e.OccurredAt.Year() != 2024 {
			t.Errorf("event %d is %s at %v, want %s in 2024", i, got, e.OccurredAt, want)
		}
	}
	admin := fairlead.Admin{Log: db, Store: db}
	if version >= 2 {
		kept(t, db, version)
	}
	var procs sync.WaitGroup
	defer procs.Wait()
	defer stop()
	for _, pool := range []string{"", "gold"} {
		c, err := fairlead.New(fairlead.Config{Log: db, Store: db, Name: "new" + pool, Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Add(ctx, fairlead.Project(sums(), fairlead.Options{Partitions: 2})); err != nil {
			t.Fatal(err)
		}
		procs.Go(func() {
			if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	if version >= 2 {
		if n, err := admin.Retry(ctx, "sums", "c", "s"); err != nil || n == 0 {
			t.Errorf("retry of the dead letter: %d, %v", n, err)
		}
	}
	for _, tenant := range []string{"a", "b", "c", "new"} {
		n := int64(4)
		expected := eventlog.ExactVersion(4)
		if tenant == "new" {
			n, expected = 0, eventlog.NoStream()
		}
		_, err := db.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: "s", Expected: expected, Events: []eventlog.NewEvent{fairlead.MustEvent("plus", plus{int(n) + 1})}})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]sum{"a": {5, 12345}, "b": {5, 12345}, "c": {5, 12345}, "new": {1, 1}}
	deadline := time.Now().Add(30 * time.Second)
	for tenant, w := range want {
		for {
			d, err := fairlead.Get(ctx, db, sums(), tenant, "s")
			if err == nil && d.State == w {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("document of %q is %+v, %v, want %+v", tenant, d.State, err, w)
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	letters, err := admin.DeadLetters(ctx, fairlead.LetterFilter{})
	if err != nil || len(letters) != 0 {
		t.Errorf("dead letters %v, %v, want none", letters, err)
	}
}

// kept checks the rows of the store.
func kept(t *testing.T, db *DB, version int) {
	t.Helper()
	for tenant, w := range map[string]sum{"a": {2, 12}, "b": {1, 1}, "c": {1, 1}} {
		if d, err := fairlead.Get(t.Context(), db, sums(), tenant, "s"); err != nil || d.State != w || d.Version != int64(w.Count) {
			t.Errorf("document of %q: %+v, %v, want %+v", tenant, d, err, w)
		}
	}
	err := db.View(t.Context(), func(tx store.Tx) error {
		lanes, err := tx.Lanes("sums")
		if err != nil {
			return err
		}
		for _, l := range lanes {
			ok := l.State == store.Running && l.Epoch == 7 && l.Position == 6 && l.Exclusions["b"] == event.Unbounded && l.Owner == "long gone"
			if l.Tenant == "b" {
				ok = l.State == store.Running && l.Epoch == 5 && l.Position == 2 && l.Pinned
			}
			if !ok {
				t.Errorf("lane %+v", l)
			}
		}
		letters, err := tx.Letters(store.LetterFilter{Build: store.Build{Processor: "sums", Number: 1}})
		if err != nil || len(lanes) != 4 || len(letters) != 1 || letters[0].Tenant != "c" || letters[0].State != store.Poison || string(letters[0].Event.Data) != `{"n":2}` {
			t.Errorf("%d lanes, dead letters %+v, %v", len(lanes), letters, err)
		}
		weights, err := tx.Weights()
		if err != nil || weights["a"] != 2.5 {
			t.Errorf("weights %v, %v", weights, err)
		}
		members, err := tx.Members()
		if err != nil || len(members) != 1 || members[0].ID != "long gone" {
			t.Errorf("members %v, %v", members, err)
		}
		shards, err := tx.Shards([]string{"a"})
		if want := map[bool]string{true: "north"}[version >= 3]; err != nil || shards["a"] != want {
			t.Errorf("shards %v, %v, want a in %q", shards, err, want)
		}
		pools, err := tx.Pools()
		if want := map[bool]string{true: "gold"}[version >= 4]; err != nil || pools["b"] != want {
			t.Errorf("pools %v, %v, want b in %q", pools, err, want)
		}
		p, err := tx.Processor("sums")
		if err != nil || slices.Equal(p.Builds.Seen, []string{"v0"}) != (version >= 5) {
			t.Errorf("processor %+v, %v", p, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
