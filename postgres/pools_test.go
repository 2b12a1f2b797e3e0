package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/projection"
)

type drop struct{ N int }

type glass struct {
	Drops int
	Sum   uint64
}

// TestPools: four consumers on one database, two of them a pool of which one
// leaves, with a tenant that goes to the pool and back while it is busy. Its lanes are the pool's as long as it is in it, and the documents
// are the fold of the log in the end.
func TestPools(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	db, err := postgres.Open(ctx, pgtest.Database(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	glasses := projection.New("glasses", projection.On("drop", func(g *glass, e projection.Event[drop]) error {
		g.Drops++
		g.Sum = g.Sum*31 + uint64(e.Data.N)
		return nil
	}))
	run := func(name, pool string) (stop func()) {
		c, err := fairlead.New(fairlead.Config{Log: db, Store: db, Name: name, Pool: pool, Lease: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Add(ctx, fairlead.Project(glasses, fairlead.Options{Partitions: 3})); err != nil {
			t.Fatal(err)
		}
		return start(ctx, t, c)
	}
	for _, name := range []string{"a", "b"} {
		defer run(name, "")()
	}
	defer run("g", "gold")()
	stopH := run("h", "gold")

	type key struct{ tenant, stream string }
	want := map[key]*glass{}
	loadCtx, endLoad := context.WithCancel(ctx)
	loaded := make(chan error, 1)
	go func() {
		for n := 1; ; n++ {
			k := key{[]string{"acme", "zoo"}[n%2], fmt.Sprint("s", n%30)}
			data, _ := projection.JSON{}.Encode(&drop{n})
			if _, err := db.Append(ctx, eventlog.StreamAppend{Tenant: k.tenant, Stream: k.stream, Events: []eventlog.NewEvent{{Type: "drop", Data: data}}}); err != nil {
				loaded <- err
				return
			}
			if want[k] == nil {
				want[k] = &glass{}
			}
			want[k].Drops++
			want[k].Sum = want[k].Sum*31 + uint64(n)
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
		lanes, err := admin.Lanes(ctx, "glasses")
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
		for until := time.Now().Add(20 * time.Second); ; {
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
		return its["g"]+its["h"] == 3 && len(its) <= 2 && others["a"]+others["b"] == 3
	}
	shared := func(its, others map[string]int) bool { return len(its) == 0 && others["a"]+others["b"] == 3 }
	eventually("at first", shared)
	for round := range 3 {
		if _, err := admin.SetPool(ctx, "acme", "gold"); err != nil {
			t.Fatal(err)
		}
		eventually(fmt.Sprint("round ", round, ", pool set"), pooled)
		if round == 1 {
			stopH()
			eventually("one of the pool has left", func(its, others map[string]int) bool { return its["g"] == 3 && pooled(its, others) })
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
		lanes, err := admin.Lanes(ctx, "glasses")
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
		d, err := db.Get(ctx, "glasses", k.tenant, k.stream)
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
		events += w.Drops
	}
	t.Logf("%d events", events)
	if events < 50 {
		t.Errorf("only %d events", events)
	}
}
