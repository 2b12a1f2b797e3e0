package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// spread is a log and stores, and where tenants are: "b-7" in shard "b", "7" in
// the control store.
type spread struct {
	t   *testing.T
	log *memlog.Log

	mu     sync.Mutex
	stores map[string]*memstore.Store
	asked  map[string]int   // how often for a tenant
	broken map[string]error // shards and tenants
	moved  string           // added to each answer
	want   map[string]int   // balance of a tenant's only account
}

func newSpread(t *testing.T) *spread {
	return &spread{t: t, log: memlog.New(), stores: map[string]*memstore.Store{"": memstore.New()}, asked: map[string]int{}, broken: map[string]error{}, want: map[string]int{}}
}

func (s *spread) config() fairlead.ShardedConfig {
	return fairlead.ShardedConfig{
		Config: fairlead.Config{Log: s.log, Store: s.stores[""]},
		Shard: func(_ context.Context, tenant string) (string, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked[tenant]++
			name, _, ok := strings.Cut(tenant, "-")
			if !ok {
				name = ""
			}
			return name + s.moved, s.broken[tenant]
		},
		Open: func(_ context.Context, shard string) (store.Store, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if err := s.broken[shard]; err != nil {
				return nil, err
			}
			if s.stores[shard] == nil {
				s.stores[shard] = memstore.New()
			}
			return s.stores[shard], nil
		},
	}
}

func (s *spread) fail(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken[name] = err
}

// sharded starts a sharded consumer of the accounts.
func (s *spread) start() (c *fairlead.Sharded, stop func()) {
	s.t.Helper()
	c, err := fairlead.NewSharded(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Add(s.t.Context(), fairlead.Project(accounts())); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	return c, func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			s.t.Errorf("Run = %v", err)
		}
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// deposit appends an event to the account of each tenant.
func (s *spread) deposit(tenants ...string) eventlog.Token {
	s.t.Helper()
	var appends []eventlog.StreamAppend
	for i, t := range tenants {
		appends = append(appends, eventlog.StreamAppend{Tenant: t, Stream: "account", Events: []eventlog.NewEvent{fairlead.MustEvent("Deposited", Deposited{i + 1})}})
		s.want[t] += i + 1
	}
	token, err := s.log.Append(s.t.Context(), appends...)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

func (s *spread) wait(c *fairlead.Sharded, token eventlog.Token) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitFor(ctx, "accounts", token); err != nil {
		s.t.Fatal(err)
	}
}

// check compares every document of every store.
func (s *spread) check(c *fairlead.Sharded) {
	s.t.Helper()
	ctx := s.t.Context()
	var all []string
	for tenant, want := range s.want {
		all = append(all, tenant)
		d, err := fairlead.Get(ctx, c.Reader(), accounts(), tenant, "account")
		if err != nil || d.State.Balance != want {
			s.t.Errorf("tenant %q: balance %d, %v, want %d", tenant, d.State.Balance, err, want)
		}
	}
	slices.Sort(all)
	if got, err := c.Reader().Tenants(ctx, "accounts", "", 1000); err != nil || !slices.Equal(got, all) {
		s.t.Errorf("Tenants = %q, %v, want %q", got, err, all)
	}
	if got, err := c.Reader().Tenants(ctx, "accounts", all[0], 1); err != nil || len(all) > 1 && !slices.Equal(got, all[1:2]) {
		s.t.Errorf("Tenants above %q, 1 = %q, %v", all[0], got, err)
	}
	for name, st := range s.stores {
		tenants, err := st.Tenants(ctx, "accounts", "", 1000)
		if err != nil {
			s.t.Error(err)
		}
		for _, tenant := range tenants {
			if where, _, ok := strings.Cut(tenant, "-"); ok && where != name || !ok && name != "" {
				s.t.Errorf("shard %q has documents of tenant %q", name, tenant)
			}
		}
	}
}

func TestSharded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpread(t)
		early := s.deposit("b-0", "0", "c-0") // there before anybody looks
		c, stop := s.start()
		defer stop()
		s.wait(c, early)
		s.wait(c, s.deposit("0", "a-0", "b-0", "b-1", "a-0"))
		s.check(c)
		// Tenants sign up, in shards that are new too.
		for i := range 40 {
			s.wait(c, s.deposit(fmt.Sprintf("%c-%d", 'a'+i%6, i/7), "0", "a-0"))
		}
		s.wait(c, eventlog.Token{Position: s.deposit("0").Position}) // everybody's
		s.check(c)
		for tenant, n := range s.asked {
			if n != 1 {
				t.Errorf("the resolver was asked %d times for tenant %q", n, tenant)
			}
		}
		names, err := c.Shards(t.Context())
		if want := []string{"", "a", "b", "c", "d", "e", "f"}; err != nil || !slices.Equal(names, want) {
			t.Errorf("Shards = %q, %v, want %q", names, err, want)
		}
		if st, err := c.Stats("b", "accounts"); err != nil || st.Events == 0 {
			t.Errorf("Stats of shard b = %+v, %v", st, err)
		}
	})
}

// The first answer holds: another one would have events skipped here and applied
// without those before them there.
func TestShardedAnswerHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpread(t)
		c, stop := s.start()
		s.wait(c, s.deposit("a-0", "0"))
		stop()
		s.moved = "x"
		c, stop = s.start()
		defer stop()
		s.wait(c, s.deposit("a-0", "0"))
		s.check(c)
		if where, err := c.ShardOf(t.Context(), "a-0"); err != nil || where != "a" {
			t.Errorf("ShardOf = %q, %v", where, err)
		}
	})
}

func TestShardedResolverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpread(t)
		c, stop := s.start()
		defer stop()
		s.wait(c, s.deposit("a-0", "b-0"))
		s.fail("a-1", errors.New("billing is down"))
		token := s.deposit("a-1", "b-0", "a-0")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := c.WaitFor(ctx, "accounts", token); err == nil || !strings.Contains(err.Error(), "billing is down") || !strings.Contains(err.Error(), "a-1") {
			t.Errorf("WaitFor = %v, want the resolver's error with the tenant", err)
		}
		s.fail("a-1", nil)
		s.wait(c, token)
		s.check(c)
	})
}

// While the resolver hangs for a tenant, lanes come up to its first event, those of
// other partitions go on behind it, and whoever waits for it is told.
func TestShardedResolverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions = 4
		s := newSpread(t)
		cfg, back := s.config(), make(chan struct{})
		resolve := cfg.Shard
		cfg.Shard = func(ctx context.Context, tenant string) (string, error) {
			if tenant == "b-stuck" {
				<-back // it does not look at its context
			}
			return resolve(ctx, tenant)
		}
		c, err := fairlead.NewSharded(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var seen sync.Map // what a reactor with the same partitions got
		react := fairlead.React("mail", func(_ context.Context, d fairlead.Delivery) error {
			seen.Store(d.Tenant, true)
			return nil
		}, fairlead.Options{Partitions: partitions})
		if err := c.Add(t.Context(), fairlead.Project(accounts(), fairlead.Options{Partitions: partitions}), react); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run = %v", err)
			}
		}()
		bucket := func(tenant string) int { return partition.Bucket(tenant+"\x00account", partitions) }
		var beside, behind []string // tenants of other partitions, and of its own
		for i := 0; len(beside) < 6 || len(behind) < 3; i++ {
			name := fmt.Sprintf("%c-%d", 'a'+i%3, i)
			if bucket(name) != bucket("b-stuck") {
				beside = append(beside, name)
			} else {
				behind = append(behind, name)
			}
		}
		s.wait(c, s.deposit("a-0", "c-0"))
		began := time.Now()
		// WaitFor waits for all partitions, because the streams of a tenant may be in any.
		applied := func(tenants ...string) {
			t.Helper()
			for _, name := range tenants {
				for {
					d, err := fairlead.Get(ctx, c.Reader(), accounts(), name, "account")
					if err == nil && d.State.Balance == s.want[name] {
						break
					}
					if time.Since(began) > 30*time.Second {
						t.Fatalf("tenant %q still waits: balance %d, %v, want %d", name, d.State.Balance, err, s.want[name])
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		}
		s.wait(c, s.deposit(behind[0])) // before it
		late := s.deposit(append([]string{"b-stuck"}, append(beside, behind...)...)...)
		applied(beside...)
		for range 5 {
			s.deposit(beside...)
			applied(beside...)
		}
		late.Tenants = []string{"b-stuck"}
		if err := c.WaitFor(ctx, "accounts", late); err == nil || !strings.Contains(err.Error(), "b-stuck") || !strings.Contains(err.Error(), "5s") {
			t.Errorf("WaitFor = %v, want an error that names the tenant", err)
		}
		for _, name := range behind[1:] {
			if _, err := fairlead.Get(ctx, c.Reader(), accounts(), name, "account"); !errors.Is(err, fairlead.ErrNotFound) {
				t.Errorf("tenant %q, behind it in its partition: %v, want that it waits", name, err)
			}
			if _, ok := seen.Load(name); ok {
				t.Errorf("the reactor got an event of %q, which is behind it in its partition", name)
			}
		}
		for _, name := range beside {
			if _, ok := seen.Load(name); !ok {
				t.Errorf("the reactor got no event of %q, which is in another partition", name)
			}
		}
		close(back)
		synctest.Wait() // it has answered
		late.Tenants = append(behind, "b-stuck")
		s.wait(c, late)
		s.check(c)
	})
}

// A shard that is down holds up its own tenants only.
func TestShardedShardIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpread(t)
		s.fail("b", errors.New("no route to host"))
		c, stop := s.start()
		defer stop()
		late := s.deposit("b-0", "b-1")
		s.wait(c, s.deposit("0", "a-0"))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := c.WaitFor(ctx, "accounts", late); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitFor of a shard that is down = %v", err)
		}
		if _, err := c.Reader().Get(t.Context(), "accounts", "b-0", "account"); err == nil || !strings.Contains(err.Error(), "no route to host") {
			t.Errorf("Get from a shard that is down = %v", err)
		}
		s.fail("b", nil)
		s.wait(c, late)
		s.check(c)
	})
}

// What one process has met, another serves when that one is gone.
func TestShardedTwoProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpread(t)
		one, stopOne := s.start()
		two, stopTwo := s.start()
		defer stopTwo()
		s.wait(one, s.deposit("a-0", "0", "b-0"))
		stopOne()
		s.wait(two, s.deposit("a-0", "0", "b-0"))
		s.check(two)
		if len(s.asked) != 3 {
			t.Errorf("asked for %v", s.asked)
		}
	})
}

func TestShardedAddLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpread(t)
		c, stop := s.start()
		defer stop()
		s.wait(c, s.deposit("a-0", "0"))
		seen := make(chan string, 10)
		err := c.Add(t.Context(), fairlead.React("mail", func(_ context.Context, d fairlead.Delivery) error {
			seen <- d.Tenant
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		got := []string{<-seen, <-seen}
		slices.Sort(got)
		if !slices.Equal(got, []string{"0", "a-0"}) {
			t.Errorf("the reactor got events of %q", got)
		}
		synctest.Wait()
		if len(seen) > 0 {
			t.Errorf("the reactor got an event twice: %q", <-seen)
		}
	})
}

func TestShardedRefuses(t *testing.T) {
	s := newSpread(t)
	for name, change := range map[string]func(*fairlead.ShardedConfig){
		"Shard": func(c *fairlead.ShardedConfig) { c.Shard = nil },
		"Open":  func(c *fairlead.ShardedConfig) { c.Open = nil },
		"Log":   func(c *fairlead.ShardedConfig) { c.Log = nil },
		"Store": func(c *fairlead.ShardedConfig) { c.Store = nil },
	} {
		cfg := s.config()
		change(&cfg)
		if _, err := fairlead.NewSharded(cfg); err == nil {
			t.Errorf("NewSharded without %s: no error", name)
		}
	}
	c, err := fairlead.NewSharded(s.config())
	if err != nil {
		t.Fatal(err)
	}
	err = c.Add(t.Context(), fairlead.Project(accounts(), fairlead.Options{Start: fairlead.FromNow()}))
	if err == nil || !strings.Contains(err.Error(), "FromPosition") {
		t.Errorf("Add of a processor from now on = %v", err)
	}
	if _, err := c.Stats("nowhere", "accounts"); !errors.Is(err, fairlead.ErrUnknown) {
		t.Errorf("Stats = %v", err)
	}
	if err := c.WaitFor(t.Context(), "none", eventlog.Token{Tenants: []string{"0"}}); !errors.Is(err, fairlead.ErrUnknownProcessor) {
		t.Errorf("WaitFor = %v", err)
	}
	if _, err := c.Reader().Get(t.Context(), "accounts", "unheard of", "x"); !errors.Is(err, fairlead.ErrNotFound) {
		t.Errorf("Get = %v", err)
	}
	if s.asked["unheard of"] != 0 {
		t.Error("a reader decided where a tenant is")
	}
}

// A groupLog is a log that a consumer group shares out.
type groupLog struct{ eventlog.Log }

func (groupLog) Shares() bool                                        { return true }
func (groupLog) Assign(ctx context.Context, _ eventlog.Worker) error { <-ctx.Done(); return ctx.Err() }
func (groupLog) Assigned() []int                                     { return nil }

// A group would be lost behind the shards' views of the log: each process would work
// all lanes by leases, and none what the group gave to it.
func TestShardedRefusesGroup(t *testing.T) {
	cfg := newSpread(t).config()
	cfg.Log = groupLog{cfg.Log}
	if _, err := fairlead.NewSharded(cfg); err == nil || !strings.Contains(err.Error(), "without a group") {
		t.Errorf("NewSharded = %v, want that the group is refused", err)
	}
}
