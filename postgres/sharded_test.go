package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// TestSharded keeps events in one database and the read models of tenants in
// others, and takes one of these away for a while.
func TestSharded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	open := func(url string) *postgres.DB { return openDB(t, url, postgres.Options{}) }
	urls := map[string]string{"east": pgtest.Database(t), "west": pgtest.Database(t)}
	log, control := open(pgtest.Database(t)), open(pgtest.Database(t))
	type total struct{ Sum int }
	sums := fairlead.NewProjection("sums", fairlead.On("Added", func(s *total, e fairlead.Event[int]) error { s.Sum += e.Data; return nil }))
	c, err := fairlead.NewSharded(fairlead.ShardedConfig{
		Config: fairlead.Config{Log: log, Store: control},
		Shard: func(_ context.Context, tenant string) (string, error) {
			where, _, _ := strings.Cut(tenant, " ")
			return where, nil
		},
		Open: func(ctx context.Context, shard string) (store.Store, error) {
			u, ok := urls[shard]
			if !ok {
				return nil, fmt.Errorf("no database %q", shard)
			}
			return postgres.Open(ctx, u)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(ctx, fairlead.Project(sums, fairlead.Options{Partitions: 2})); err != nil {
		t.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(runCtx) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := map[string]int{}
	add := func(where string, n int) (token eventlog.Token) {
		for i := range n {
			tenant := fmt.Sprint(where, " ", i%17)
			want[tenant] += i
			var err error
			token, err = log.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: "s", Events: []eventlog.NewEvent{fairlead.MustEvent("Added", i)}})
			if err != nil {
				t.Fatal(err)
			}
		}
		token.Tenants = nil
		for tenant := range want {
			if strings.HasPrefix(tenant, where+" ") {
				token.Tenants = append(token.Tenants, tenant)
			}
		}
		return token
	}
	wait := func(token eventlog.Token) {
		t.Helper()
		if err := c.WaitFor(ctx, "sums", token); err != nil {
			t.Fatal(err)
		}
	}
	wait(add("east", 100))
	wait(add("west", 100))

	// The west is gone: the east does not notice.
	u, err := url.Parse(urls["west"])
	if err != nil {
		t.Fatal(err)
	}
	server, err := pgx.Connect(ctx, pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	execute := func(sql string, args ...any) {
		t.Helper()
		if _, err := server.Exec(ctx, sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	west := strings.TrimPrefix(u.Path, "/")
	execute("ALTER DATABASE " + west + " ALLOW_CONNECTIONS false")
	execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", west)
	late := add("west", 100)
	wait(add("east", 100))
	short, done := context.WithTimeout(ctx, 500*time.Millisecond)
	defer done()
	if err := c.WaitFor(short, "sums", late); err == nil {
		t.Error("a shard that is gone has its events")
	}
	execute("ALTER DATABASE " + west + " ALLOW_CONNECTIONS true")
	wait(late)

	for tenant, sum := range want {
		d, err := fairlead.Get(ctx, c.Reader(), sums, tenant, "s")
		if err != nil || d.State.Sum != sum {
			t.Errorf("tenant %q: %d, %v, want %d", tenant, d.State.Sum, err, sum)
		}
	}
	for name, u := range urls {
		db := open(u)
		tenants, err := db.Tenants(ctx, "sums", "", 100)
		if err != nil || len(tenants) != 17 || !strings.HasPrefix(tenants[0], name) || !strings.HasPrefix(tenants[16], name) {
			t.Errorf("database %q has documents of %q, %v", name, tenants, err)
		}
		if head, err := db.Head(ctx, 0); err != nil || head != 0 {
			t.Errorf("database %q has events up to %v, %v", name, head, err)
		}
	}
}
