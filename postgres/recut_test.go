package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/jackc/pgx/v5"
)

type recutAdded struct {
	Doc string
	N   int64
}

// A recutDoc shows by Sum whether its events came in order.
type recutDoc struct{ N, Sum int64 }

func (d *recutDoc) add(n int64) { d.N, d.Sum = d.N+1, (d.Sum*31+n)%1_000_000_007 }

// TestRecutUnderLoad splits every partition of three processors twice and merges
// them again, in two consumers, while four writers append. No document lacks an
// event, and a table that a batch projector writes shows every stream in order.
func TestRecutUnderLoad(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	url := pgtest.Database(t)
	open := func() *postgres.DB {
		db, err := postgres.Open(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	db := open()
	sql, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sql.Close(context.Background()) })
	if _, err := sql.Exec(ctx, `CREATE TABLE audit (seq bigserial PRIMARY KEY, tenant text, stream text, version bigint, position bigint)`); err != nil {
		t.Fatal(err)
	}

	on := func() *projection.Handler[recutDoc, recutAdded] {
		return fairlead.On("added", func(d *recutDoc, e fairlead.Event[recutAdded]) error { d.add(e.Data.N); return nil })
	}
	streams := fairlead.NewProjection("streams", on())
	docs := fairlead.NewProjection("docs", on().By(func(e fairlead.Event[recutAdded]) string { return e.Data.Doc }))
	audit := func(ctx context.Context, tx any, events []event.Event) error {
		var b pgx.Batch
		for i := range events {
			e := &events[i]
			b.Queue("INSERT INTO audit(tenant, stream, version, position) VALUES ($1, $2, $3, $4)", e.Tenant, e.Stream, e.Version, int64(e.Position))
		}
		return tx.(pgx.Tx).SendBatch(ctx, &b).Close()
	}
	names := []string{"streams", "docs", "audit"}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		s := open()
		c, err := fairlead.New(fairlead.Config{Log: s, Store: s, Name: name, Lease: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Add(ctx, fairlead.Project(streams), fairlead.Project(docs), fairlead.ProjectBatch("audit", audit)); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- c.Run(runCtx) }()
	}

	// Each writer has its own tenants, so it knows what is in their documents.
	type key struct{ collection, tenant, id string }
	var mu sync.Mutex
	want := map[key]*recutDoc{}
	var appended atomic.Int64
	writing, done := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				tenant, stream := fmt.Sprintf("t%d.%d", w, n%5), fmt.Sprint("s", n%9)
				a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
				var in []recutAdded
				for i := range 3 {
					e := recutAdded{fmt.Sprint("d", (n+i)%6), int64(n*3 + i)}
					data, err := json.Marshal(e)
					if err != nil {
						t.Error(err)
						return
					}
					in, a.Events = append(in, e), append(a.Events, eventlog.NewEvent{Type: "added", Data: data})
				}
				if _, err := db.Append(ctx, a); err != nil {
					t.Error(err)
					return
				}
				appended.Add(int64(len(in)))
				mu.Lock()
				for _, e := range in {
					for _, k := range []key{{"streams", tenant, stream}, {"docs", tenant, e.Doc}} {
						if want[k] == nil {
							want[k] = &recutDoc{}
						}
						want[k].add(e.N)
					}
				}
				mu.Unlock()
				select {
				case <-time.After(3 * time.Millisecond):
				case <-writing.Done():
				}
			}
		})
	}

	admin := fairlead.Admin{Log: db, Store: db}
	parts := func(name string) (s string, wait bool) {
		lanes, err := admin.Lanes(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, l := range lanes {
			if wait = wait || l.Want != 0; l.Tenant == "" {
				out = append(out, fmt.Sprintf("%d/%d", l.Partition, l.Of))
			}
		}
		return strings.Join(out, " "), wait
	}
	split := func(name string) error { return admin.SplitPartition(ctx, name, -1) }
	merge := func(is ...int) func(string) error {
		return func(name string) (err error) {
			for _, i := range is {
				err = errors.Join(err, admin.MergePartition(ctx, name, i))
			}
			return err
		}
	}
	for _, step := range []struct {
		do   func(name string) error
		want string
	}{
		{split, "0/2 1/2"},
		{split, "0/4 1/4 2/4 3/4"},
		{merge(2, 3), "0/2 1/2"},
		{split, "0/4 1/4 2/4 3/4"}, // lanes of names that were there before
		{merge(0, 1), "0/2 1/2"},
		{merge(1), "0/1"},
	} {
		began, at := time.Now(), appended.Load()
		for _, name := range names {
			if err := step.do(name); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range names {
			for {
				got, wait := parts(name)
				if !wait && got == step.want {
					break
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
					t.Fatalf("%s has the partitions %s (waits: %v), want %s", name, got, wait, step.want)
				}
			}
		}
		t.Logf("%s after %v, %d events meanwhile", step.want, time.Since(began).Round(time.Millisecond), appended.Load()-at)
		select { // under load in the new cut, too
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	done()
	writers.Wait()
	head, err := db.Head(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	caughtUp(ctx, t, db, head)
	stop()
	for range 2 {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}

	for k, w := range want {
		d, err := db.Get(ctx, k.collection, k.tenant, k.id)
		var got recutDoc
		if err == nil {
			err = json.Unmarshal(d.Data, &got)
		}
		if err != nil || got != *w {
			t.Errorf("%v is %+v (%v), want %+v", k, got, err, *w)
		}
	}
	letters, err := admin.DeadLetters(ctx, fairlead.LetterFilter{})
	if len(letters) > 0 || err != nil {
		t.Errorf("%d dead letters (%v), want none: %+v", len(letters), err, letters[:min(1, len(letters))])
	}
	var rows, disorder int64
	err = sql.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE version <> before + 1) FROM
		(SELECT version, lag(version, 1, 0::bigint) OVER (PARTITION BY tenant, stream ORDER BY seq) AS before FROM audit) AS x`).Scan(&rows, &disorder)
	if err != nil || rows != appended.Load() || disorder != 0 {
		t.Errorf("the table has %d events, %d of them not behind the one before (%v), want %d and 0", rows, disorder, err, appended.Load())
	}
	t.Logf("%d events, %d documents", appended.Load(), len(want))
}
