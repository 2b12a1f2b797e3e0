package fairlead_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestRebuildThatAPoolCannotMake: a tenant is given to a pool whose processes have
// another version of the projection than the one that a rebuild is made with. Its
// lane says so, and what to do, and the rebuild ends when that is done.
func TestRebuildThatAPoolCannotMake(t *testing.T) {
	for _, tt := range []struct {
		name string
		mend func(a fairlead.Admin, run func(name, pool, version string)) error
	}{
		{"a process of the pool with the version", func(_ fairlead.Admin, run func(name, pool, version string)) error {
			run("special-2", "gold", "v2")
			return nil
		}},
		{"the tenant back", func(a fairlead.Admin, _ func(name, pool, version string)) error {
			return a.ClearPool(context.Background(), "acme")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				log, st := memlog.New(), memstore.New()
				a := fairlead.Admin{Log: log, Store: st}
				ended := make(chan error, 10)
				running := 0
				run := func(name, pool, version string) {
					t.Helper()
					c, err := fairlead.New(fairlead.Config{Log: log, Store: st, Name: name, Pool: pool})
					if err != nil {
						t.Fatal(err)
					}
					if err := c.Add(ctx, fairlead.Project(accounts().WithVersion(version))); err != nil {
						t.Fatal(err)
					}
					running++
					go func() { ended <- c.Run(ctx) }()
				}
				defer func() {
					cancel()
					for range running {
						if err := <-ended; !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
					}
				}()
				for _, tenant := range []string{"acme", "zoo"} {
					if _, err := log.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: "account", Events: []eventlog.NewEvent{fairlead.MustEvent("Deposited", Deposited{1})}}); err != nil {
						t.Fatal(err)
					}
				}
				run("special", "gold", "v1")
				run("shared-1", "", "v1")
				time.Sleep(time.Second)
				if _, err := a.SetPool(ctx, "acme", "gold"); err != nil {
					t.Fatal(err)
				}
				run("shared-2", "", "v2")
				time.Sleep(10 * time.Second)
				if err := a.Rebuild(ctx, "accounts", ""); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				lanes, err := a.Lanes(ctx, "accounts")
				if err != nil {
					t.Fatal(err)
				}
				stands := 0
				for _, l := range lanes {
					if l.Live || l.Tenant == "" {
						if l.Unserved != "" || !l.Alive {
							t.Errorf("lane %v: alive %t, unserved %q, want it worked", l.LaneID, l.Alive, l.Unserved)
						}
						continue
					}
					stands++
					for _, want := range []string{`version "v2"`, `pool "gold"`, `have version "v1"`, "start one", "clear the tenant's pool", "cancel the rebuild"} {
						if !strings.Contains(l.Unserved, want) {
							t.Errorf("lane %v: unserved %q, want %q in it", l.LaneID, l.Unserved, want)
						}
					}
				}
				if stands != 1 {
					t.Errorf("%d lanes of the tenant in the build, want 1", stands)
				}
				ps, err := a.Processors(ctx)
				if err != nil || ps[0].Rebuild == 0 {
					t.Fatalf("the rebuild has ended: %+v, %v", ps, err)
				}
				if why := fairlead.RebuildWaits(ps[0], lanes); !strings.Contains(why, `of pool "gold" with version "v2"`) {
					t.Errorf("it waits for %q, want the pool and the version", why)
				}
				if err := tt.mend(a, run); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if ps, err = a.Processors(ctx); err != nil || ps[0].Rebuild != 0 {
					t.Errorf("after that the rebuild is still there: %+v, %v", ps, err)
				}
			})
		})
	}
}
