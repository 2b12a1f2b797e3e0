package postgres_test

import (
	"context"
	"fmt"
	"strings"
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

type drop struct {
	N   int
	Cup string
}

type glass struct {
	Drops int
	Sum   uint64
}

// TestPools: four consumers on one database, two of them a pool of which one
// leaves, with a tenant that goes to the pool and back while it is busy. Its lanes are the pool's as long as it is in it, and the documents
// are the fold of the log in the end. A document knows how far it is, and so hides an
// event that comes again: a table, which batch projectors write, does not.
func TestPools(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	url := pgtest.Database(t)
	db, err := postgres.Open(ctx, url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	sql, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sql.Close(context.Background()) })
	if _, err := sql.Exec(ctx, `CREATE TABLE spilt (seq bigserial PRIMARY KEY, processor text, tenant text, stream text, version bigint, position bigint)`); err != nil {
		t.Fatal(err)
	}
	on := func() *projection.Handler[glass, drop] {
		return projection.On("drop", func(g *glass, e projection.Event[drop]) error {
			g.Drops++
			g.Sum = g.Sum*31 + uint64(e.Data.N)
			return nil
		})
	}
	glasses := projection.New("glasses", on())
	cups := projection.New("cups", on().By(func(e projection.Event[drop]) string { return e.Data.Cup })) // of several streams
	// With one partition each, so that many a lane of the tenant ends with an event of
	// its own: a merge that is one position short applies that one twice.
	const spills = 4
	spill := func(name string) fairlead.Processor {
		return fairlead.ProjectBatch(name, func(ctx context.Context, tx any, events []event.Event) error {
			var b pgx.Batch
			for i := range events {
				e := &events[i]
				b.Queue("INSERT INTO spilt(processor, tenant, stream, version, position) VALUES ($1, $2, $3, $4, $5)", name, e.Tenant, e.Stream, e.Version, int64(e.Position))
			}
			return tx.(pgx.Tx).SendBatch(ctx, &b).Close()
		})
	}
	const lanes = 3 + 3 + spills // of all processors
	run := func(name, pool string) (stop func()) {
		c, err := fairlead.New(fairlead.Config{Log: db, Store: db, Name: name, Pool: pool, Lease: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		o := fairlead.Options{Partitions: 3}
		all := []fairlead.Processor{fairlead.Project(glasses, o), fairlead.Project(cups, o)}
		for i := range spills {
			all = append(all, spill(fmt.Sprint("spill", i)))
		}
		if err := c.Add(ctx, all...); err != nil {
			t.Fatal(err)
		}
		return start(ctx, t, c)
	}
	for _, name := range []string{"a", "b"} {
		defer run(name, "")()
	}
	defer run("g", "gold")()
	stopH := run("h", "gold")

	type key struct{ collection, tenant, id string }
	want := map[key]*glass{}
	loadCtx, endLoad := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	go func() {
		for n := 1; ; n++ {
			tenant := "acme"
			if n%5 == 0 {
				tenant = "zoo"
			}
			stream, cup := fmt.Sprint("s", n%30), fmt.Sprint("c", n%7)
			data, _ := projection.JSON{}.Encode(&drop{n, cup})
			if _, err := db.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: stream, Events: []eventlog.NewEvent{{Type: "drop", Data: data}}}); err != nil {
				loaded <- err
				return
			}
			for _, k := range []key{{"glasses", tenant, stream}, {"cups", tenant, cup}} {
				if want[k] == nil {
					want[k] = &glass{}
				}
				want[k].Drops++
				want[k].Sum = want[k].Sum*31 + uint64(n)
			}
			if loadCtx.Err() != nil {
				loaded <- nil
				return
			}
		}
	}()
	admin := fairlead.Admin{Log: db, Store: db}
	// owners returns which hosts have acme's lanes, and which the others.
	owners := func() (its, others map[string]int) {
		its, others = map[string]int{}, map[string]int{}
		lanes, err := admin.Lanes(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for i := range lanes {
			l := &lanes[i]
			host, _, _ := strings.Cut(l.Owner, "/")
			if !l.Alive {
				host = ""
			}
			switch l.Tenant {
			case "acme":
				its[host]++
			case "":
				others[host]++
			}
		}
		return its, others
	}
	eventually := func(what string, ok func(its, others map[string]int) bool) {
		t.Helper()
		// A lane whose calls did not end in time, as on a machine that stalls, tries again in a minute.
		for until := time.Now().Add(100 * time.Second); ; {
			its, others := owners()
			if ok(its, others) {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("%s: acme is with %v, the others with %v", what, its, others)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	pooled := func(its, others map[string]int) bool {
		return its["g"]+its["h"] == lanes && len(its) <= 2 && others["a"]+others["b"] == lanes
	}
	shared := func(its, others map[string]int) bool { return len(its) == 0 && others["a"]+others["b"] == lanes }
	eventually("at first", shared)
	for round := range 3 {
		if _, err := admin.SetPool(ctx, "acme", "gold"); err != nil {
			t.Fatal(err)
		}
		eventually(fmt.Sprint("round ", round, ", pool set"), pooled)
		if round == 1 {
			stopH()
			eventually("one of the pool has left", func(its, others map[string]int) bool { return its["g"] == lanes && pooled(its, others) })
		}
		if err := admin.ClearPool(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
		eventually(fmt.Sprint("round ", round, ", pool clear"), shared)
	}
	if _, err := admin.SetPool(ctx, "acme", "gold"); err != nil {
		t.Fatal(err)
	}
	eventually("at last", pooled)
	endLoad()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	head, err := db.Head(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for behind := true; behind; {
		lanes, err := admin.Lanes(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		behind = false
		for i := range lanes {
			behind = behind || lanes[i].Behind > 0 || lanes[i].Position < head && lanes[i].Tenant == ""
		}
	}
	events := 0
	for k, w := range want {
		d, err := db.Get(ctx, k.collection, k.tenant, k.id)
		if err != nil {
			t.Fatalf("%v: %v", k, err)
		}
		got, err := glasses.Decode(d.Data)
		if err != nil {
			t.Fatal(err)
		}
		if g := got.(*glass); *g != *w {
			t.Errorf("%v: %+v, want %+v", k, *g, *w)
		}
		if k.collection == "glasses" {
			events += w.Drops
		}
	}
	var rows, distinct, unordered int
	err = sql.QueryRow(ctx, `SELECT count(*), count(DISTINCT (processor, position)), count(*) FILTER (WHERE version <> n)
		FROM (SELECT processor, position, version, row_number() OVER (PARTITION BY processor, tenant, stream ORDER BY seq) AS n FROM spilt) s`).Scan(&rows, &distinct, &unordered)
	if err != nil || rows != events*spills || distinct != events*spills || unordered != 0 {
		t.Errorf("the batch projectors got %d events, %d different ones, %d out of their order, %v: want %d, each once and in order", rows, distinct, unordered, err, events*spills)
	}
	t.Logf("%d events", events)
	if events < 50 {
		t.Errorf("only %d events", events)
	}
}
