package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

type paid struct{ Amount int }

// A till remembers the order of what was paid into it.
type till struct {
	Payments int
	Sum      int
	Trail    uint64
}

func (x *till) pay(amount int) {
	x.Payments++
	x.Sum += amount
	x.Trail = (x.Trail*31 + uint64(amount)) % 1_000_003
}

// TestRebuildBesideAppends rebuilds while two consumers serve and events come,
// compares, switches, goes back, and compares all documents with the fold of what
// was appended. A tenant's rebuild goes the same way.
func TestRebuildBesideAppends(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	db, err := postgres.Open(ctx, pgtest.Database(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tills := fairlead.NewProjection("tills", fairlead.On("Paid", func(x *till, e fairlead.Event[paid]) error {
		x.pay(e.Data.Amount)
		return nil
	}))
	want := map[store.Key]*till{}
	rng := rand.New(rand.NewPCG(1, 1))
	pay := func(events int) eventlog.Token {
		k := store.Key{Tenant: fmt.Sprintf("shop-%d", rng.IntN(5)), ID: fmt.Sprintf("till-%d", rng.IntN(40))}
		if want[k] == nil {
			want[k] = &till{}
		}
		a := eventlog.StreamAppend{Tenant: k.Tenant, Stream: k.ID}
		for range events {
			amount := 1 + rng.IntN(1000)
			want[k].pay(amount)
			a.Events = append(a.Events, fairlead.MustEvent("Paid", paid{amount}))
		}
		token, err := db.Append(ctx, a)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for range 60 { // enough that the rebuild makes way for what follows
		pay(50)
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	var c *fairlead.Consumer
	for _, name := range []string{"one", "two"} {
		if c, err = fairlead.New(fairlead.Config{Log: db, Store: db, Name: name, Lease: time.Second}); err != nil {
			t.Fatal(err)
		}
		if err := c.Add(ctx, fairlead.Project(tills, fairlead.Options{Partitions: 2})); err != nil {
			t.Fatal(err)
		}
		go func(c *fairlead.Consumer) { ended <- c.Run(run) }(c)
	}
	defer func() {
		stop()
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("a consumer ended: %v", err)
			}
		}
	}()
	admin := fairlead.Admin{Log: db, Store: db}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// until appends until the row is as it should be.
	until := func(what string, is func(store.Processor) bool) {
		t.Helper()
		for {
			ps, err := admin.Processors(ctx)
			must(err)
			if is(ps[0]) {
				return
			}
			pay(1 + rng.IntN(3))
			select { // not a flood: a rebuild makes way for what is live
			case <-time.After(3 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%s: the row is %+v", what, ps[0])
			}
		}
	}
	check := func(what string) {
		t.Helper()
		must(c.WaitFor(ctx, tills.Name(), pay(1)))
		for tenant := range 5 {
			must(c.WaitFor(ctx, tills.Name(), eventlog.Token{Position: must1(db.Head(ctx, 0)), Tenants: []string{fmt.Sprintf("shop-%d", tenant)}}))
		}
		for k, w := range want {
			got, err := fairlead.Get(ctx, db, tills, k.Tenant, k.ID)
			if err != nil || got.State != *w {
				t.Fatalf("%s: till %v is %+v, %v, want %+v", what, k, got.State, err, *w)
			}
		}
	}
	caught := func(p store.Processor) bool {
		lanes, err := admin.Lanes(ctx, p.Name)
		must(err)
		for _, l := range lanes {
			if l.Number == p.Rebuild && l.Behind > 50 {
				return false
			}
		}
		return true
	}
	check("before")
	for _, tenant := range []string{"", "shop-2"} {
		must(admin.Rebuild(ctx, tills.Name(), tenant, fairlead.RebuildOptions{Review: true, Keep: time.Hour}))
		until("catch-up", caught)
		r, err := admin.CompareRebuild(ctx, tills.Name(), "", fairlead.CompareOptions{})
		if err != nil || r.Differences() != 0 || r.Equal == 0 {
			t.Fatalf("rebuild of %q: report %+v, %v, want equal documents only", tenant, r, err)
		}
		must(admin.SwitchRebuild(ctx, tills.Name()))
		until("switch", func(p store.Processor) bool { return p.Rebuild == 0 })
		check("after the switch")
		for range 50 {
			pay(2)
		}
		must(admin.GoBack(ctx, tills.Name(), fairlead.RebuildOptions{Keep: time.Hour}))
		until("way back", func(p store.Processor) bool { return p.Rebuild == 0 && p.Builds.Kept.Number != 0 })
		check("after the way back")
	}
	must(admin.ForgetKept(ctx, tills.Name()))
	until("purge", func(p store.Processor) bool { return len(p.Retired) == 0 })
	check("at the end")
}

func must1(p event.Position, err error) event.Position {
	if err != nil {
		panic(err)
	}
	return p
}
