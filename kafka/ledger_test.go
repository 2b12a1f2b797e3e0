package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A routing is a baseline or a sandbox with the ledger of a database.
type routing struct {
	*fairlead.Consumer
	log  *kafka.Log
	db   *postgres.DB
	l    *postgres.Ledger
	reg  *ledger.Registration
	stop func()
}

func schemaOf(host string) string { return "notes_" + strings.ReplaceAll(host, "-", "_") }

const routingLease = 2 * time.Second

func router(t testing.TB, host string) *tenancy.Router {
	t.Helper()
	return routerBy(t, tenancy.Names{}, host)
}

func routerBy(t testing.TB, names tenancy.Names, host string) *tenancy.Router {
	t.Helper()
	rules := tenancy.Rules{Service: "notes", Host: host, Names: names}
	if host != "" {
		rules.Environment = tenancy.Sandbox
	}
	r, _, err := tenancy.NewRouter(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// startRouting starts the baseline (host "") or a sandbox, each with a schema of its own.
func startRouting(t testing.TB, database, topic, host string, policy ledger.Policy, processors ...fairlead.Processor) *routing {
	t.Helper()
	return startRoutingBy(t, tenancy.Names{}, database, topic, host, policy, processors...)
}

// startRoutingBy is startRouting with other headers.
func startRoutingBy(t testing.TB, names tenancy.Names, database, topic, host string, policy ledger.Policy, processors ...fairlead.Processor) *routing {
	t.Helper()
	ctx := t.Context()
	m := &routing{}
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	if m.db, err = postgres.Open(ctx, database, postgres.Options{Schema: schemaOf(host)}); err != nil {
		t.Fatal(err)
	}
	if m.l, err = postgres.OpenLedger(ctx, database); err != nil {
		t.Fatal(err)
	}
	if m.log, err = kafka.Open(ctx, kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Router: routerBy(t, names, host), Ledger: m.l, Unowned: policy, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	if m.Consumer, err = fairlead.New(fairlead.Config{Log: m.log, Store: m.db, Logger: logger, Lease: routingLease}); err != nil {
		t.Fatal(err)
	}
	if err := m.Add(ctx, processors...); err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	if host == "" {
		wg.Go(func() {
			k := fairlead.RouteKeeper{Store: m.db, Ledger: m.l, Log: m.log.LedgerLog(), Service: "notes", Policy: policy, Every: 100 * time.Millisecond, Logger: logger, Start: m.log.Start, Bind: m.log.Bind}
			if err := k.Run(run); !errors.Is(err, context.Canceled) {
				t.Errorf("the keeper's Run = %v", err)
			}
		})
	} else {
		if m.reg, err = m.log.Register(ctx, m.db, routingLease); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _ = m.reg.Keep(run, func(err error) { t.Log("keep:", err) }) })
	}
	wg.Go(func() {
		if err := m.Run(run); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
	m.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if m.reg != nil {
			if err := m.reg.Leave(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		}
		_ = m.log.Close()
		_ = m.db.Close()
		_ = m.l.Close()
	})
	t.Cleanup(m.stop)
	return m
}

// workRouted is a process that is a baseline or a sandbox until it is killed, or its
// registration is closed.
func workRouted(ctx context.Context, cfg workerConfig) error {
	db, err := postgres.Open(ctx, cfg.URL, postgres.Options{Schema: schemaOf(cfg.Host)})
	if err != nil {
		return err
	}
	l, err := postgres.OpenLedger(ctx, cfg.URL)
	if err != nil {
		return err
	}
	rules := tenancy.Rules{Service: cfg.Service, Host: cfg.Host}
	if cfg.Host != "" {
		rules.Environment = tenancy.Sandbox
	}
	r, _, err := tenancy.NewRouter(rules)
	if err != nil {
		return err
	}
	log, err := kafka.Open(ctx, kafka.Config{Brokers: cfg.Brokers, Topic: cfg.Topic, Router: r, Ledger: l})
	if err != nil {
		return err
	}
	c, err := fairlead.New(fairlead.Config{Log: log, Store: db, Lease: routingLease})
	if err != nil {
		return err
	}
	said := sync.OnceFunc(func() { fmt.Println("busy") })
	p := fairlead.NewProjection("notes", fairlead.On("Noted", func(n *noted, e fairlead.Event[string]) error {
		said()
		n.Events = append(n.Events, e.Data)
		return nil
	}))
	if err := c.Add(ctx, fairlead.Project(p)); err != nil {
		return err
	}
	ended := make(chan error, 2)
	if cfg.Host == "" {
		k := fairlead.RouteKeeper{Store: db, Ledger: l, Log: log.LedgerLog(), Service: cfg.Service, Every: 100 * time.Millisecond, Start: log.Start}
		go func() { ended <- k.Run(ctx) }()
	} else {
		reg, err := log.Register(ctx, db, routingLease)
		if err != nil {
			return err
		}
		go func() { ended <- reg.Keep(ctx, func(error) {}) }()
	}
	go func() { ended <- c.Run(ctx) }()
	return <-ended
}

// TestKilledSandbox has a baseline and a sandbox, a process each. The sandbox is
// killed, or stopped as if by a long pause of the machine, while what is routed to it
// arrives. The baseline, killed as well, takes over: each event is applied by one of
// them, and those of a stream in order. What a zombie has in hand when it goes on is
// refused, and it ends.
func TestKilledSandbox(t *testing.T) {
	for _, name := range []string{"killed", "zombie"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const parts = 3
			topic, database := kafkatest.Topic(t, parts), pgtest.Database(t)
			cfg := workerConfig{Brokers: kafkatest.Brokers(t), Topic: topic, URL: database, Service: "notes"}
			base := startProcess(t, cfg)
			l := newRoutedLoad(t, topic, parts)
			l.write("", 5)
			base.waitBusy(t)
			cfg.Host = "pr-1"
			box := startProcess(t, cfg)
			busy := false
			for range 1000 {
				l.write("pr-1", 3)
				l.write("", 3)
				select {
				case <-box.busy:
					busy = true
				case <-time.After(5 * time.Millisecond):
				}
				if busy {
					break
				}
			}
			if !busy {
				t.Fatal("the sandbox does nothing")
			}
			// It is busy before it has committed anything, and on a busy machine for long.
			eventually(t, 30*time.Second, "the sandbox has something of its own", func() bool {
				db, err := postgres.Open(t.Context(), database, postgres.Options{Schema: schemaOf("pr-1")})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = db.Close() }()
				return len(applied(t, db)) > 0
			})
			for i := range 40 {
				switch {
				case i == 10 && name == "killed":
					box.kill()
				case i == 10:
					if err := box.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
						t.Fatal(err)
					}
				case i == 20:
					base.kill()
					cfg.Host = ""
					base = startProcess(t, cfg)
				}
				l.write("pr-1", 3)
				l.write("", 3)
			}
			var stores []store.Store
			for _, host := range []string{"", "pr-1"} {
				db, err := postgres.Open(t.Context(), database, postgres.Options{Schema: schemaOf(host)})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = db.Close() }()
				stores = append(stores, db)
			}
			if name == "zombie" {
				led, err := postgres.OpenLedger(t.Context(), database)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = led.Close() }()
				log := open(t, kafka.Config{Topic: topic})
				eventually(t, time.Minute, "the sandbox is closed", func() bool {
					all, err := led.Sandboxes(t.Context(), log.LedgerLog(), "notes", nil)
					return err == nil && len(all) == 1 && !all[0].Open
				})
				if err := box.cmd.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				l.write("pr-1", 20)
				box.wait(t)
			}
			var faults []string
			ok := func() bool {
				faults = l.missing(stores...)
				return len(faults) == 0 && routed(t, stores[0]) == 0
			}
			defer func() {
				if t.Failed() {
					t.Logf("%d faults, the first: %q", len(faults), faults[:min(len(faults), 10)])
				}
			}()
			eventually(t, time.Minute, "each event is applied once", ok)
			own := 0
			for stream, events := range applied(t, stores[1]) {
				if !strings.HasPrefix(stream, "pr-1/") {
					t.Errorf("the sandbox has stream %q", stream)
				}
				own += len(events)
			}
			t.Logf("of %d events that were routed to the sandbox it has %d", parts*l.next["pr-1/0"], own)
			if own == 0 || own == parts*l.next["pr-1/0"] {
				t.Error("nothing was taken over in the middle")
			}
		})
	}
}

// applied returns what documents have, by stream, in the order in which it was applied.
func applied(t testing.TB, s store.Store) map[string][]string {
	t.Helper()
	docs := map[string][]string{}
	found, err := s.List(t.Context(), "notes", "acme", "", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found {
		v, err := notes().Decode(d.Data)
		if err != nil {
			t.Fatal(err)
		}
		docs[d.ID] = v.(*noted).Events
	}
	return docs
}

// A routedLoad writes events of a stream each for a route.
type routedLoad struct {
	t      testing.TB
	client *kgo.Client
	topic  string
	parts  int
	next   map[string]int
}

func newRoutedLoad(t testing.TB, topic string, parts int) *routedLoad {
	return &routedLoad{t: t, client: kafkatest.Client(t, kgo.WithHooks(kafka.Stamp(tenancy.Presets["fairlead"]))), topic: topic, parts: parts, next: map[string]int{}}
}

// write produces n events of each stream of a host; "": production's.
func (l *routedLoad) write(host string, n int) {
	l.t.Helper()
	o := tenancy.Origin{Tenant: "acme", Class: "prod"}
	if host != "" {
		o.Class, o.Route = "test", map[string]string{"notes": host}
	}
	ctx := tenancy.NewContext(l.t.Context(), o)
	var records []*kgo.Record
	for range n {
		for p := range l.parts {
			stream := fmt.Sprintf("%s/%d", host, p)
			l.next[stream]++
			records = append(records, &kgo.Record{Topic: l.topic, Partition: int32(p), Key: []byte(stream), Value: fmt.Appendf(nil, "%q", fmt.Sprint(l.next[stream])),
				Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Noted")}, {Key: "tenant", Value: []byte("acme")}}})
		}
	}
	if err := l.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		l.t.Fatal(err)
	}
}

// missing returns what not exactly one of the stores has, and streams out of order.
func (l *routedLoad) missing(stores ...store.Store) (faults []string) {
	times := map[string]int{}
	for _, s := range stores {
		for stream, events := range applied(l.t, s) {
			last := 0
			for _, e := range events {
				times[stream+" "+e]++
				n := 0
				_, _ = fmt.Sscan(e, &n)
				if n <= last {
					faults = append(faults, fmt.Sprintf("stream %s: %d after %d", stream, n, last))
				}
				last = n
			}
		}
	}
	for stream, n := range l.next {
		for i := range n {
			if k := times[fmt.Sprint(stream, " ", i+1)]; k != 1 {
				faults = append(faults, fmt.Sprintf("stream %s: event %d was applied %d times", stream, i+1, k))
			}
		}
	}
	slices.Sort(faults)
	return faults
}

func routed(t testing.TB, s store.Store) (n int) {
	t.Helper()
	letters, err := fairlead.Admin{Store: s}.DeadLetters(t.Context(), store.LetterFilter{})
	if err != nil {
		t.Fatal(err)
	}
	return len(letters)
}

// TestTakeOver: what is routed to a sandbox is the baseline's before that has
// registered and after it has stopped, and each event is applied once.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	const parts = 3
	topic, database := kafkatest.Topic(t, parts), pgtest.Database(t)
	l := newRoutedLoad(t, topic, parts)
	l.write("", 5)
	l.write("pr-1", 5)
	base := startRouting(t, database, topic, "", "", fairlead.Project(notes()))
	eventually(t, 30*time.Second, "the baseline has what is before the sandbox", func() bool { return len(l.missing(base.db)) == 0 })
	box := startRouting(t, database, topic, "pr-1", "", fairlead.Project(notes()))
	l.write("pr-1", 5)
	l.write("", 5)
	eventually(t, 30*time.Second, "both have all", func() bool { return len(l.missing(base.db, box.db)) == 0 })
	if got := slices.Sorted(maps.Keys(applied(t, box.db))); len(got) != parts || !strings.HasPrefix(got[0], "pr-1/") {
		t.Errorf("the sandbox has the streams %q", got)
	}
	eventually(t, 30*time.Second, "the letters of what the sandbox has are gone", func() bool { return routed(t, base.db) == 0 })
	box.stop()
	l.write("pr-1", 5)
	l.write("", 5)
	again, err := postgres.Open(t.Context(), database, postgres.Options{Schema: schemaOf("pr-1")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	eventually(t, 30*time.Second, "the baseline took over", func() bool { return len(l.missing(base.db, again)) == 0 })
	box = startRouting(t, database, topic, "pr-1", "", fairlead.Project(notes()))
	l.write("pr-1", 5)
	eventually(t, 30*time.Second, "the sandbox has what came since it registered again", func() bool { return len(l.missing(base.db, box.db)) == 0 })
}
