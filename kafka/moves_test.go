package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// moving opens a mixed layout with the tenants t and u in the shared topic, which has one
// partition.
func moving(t *testing.T) (*Tenants, Config) {
	t.Helper()
	prefix := kafkatest.Name(t)
	ly, err := layout.New(layout.Config{Own: prefix + ".{tenant}.own", Shared: prefix + ".all", Dedicated: func(string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: kafkatest.Brokers(t), Layout: ly, Directory: prefix + ".directory"}
	admin := kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() {
		_, _ = admin.DeleteTopics(context.WithoutCancel(t.Context()), prefix+".all", prefix+".directory", prefix+".t.own")
	})
	tenants, err := OpenTenants(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tenants.Close() })
	tenants.settle = 0
	for _, tenant := range []string{"t", "u"} {
		if err := tenants.Add(t.Context(), tenant, AddTenant{}); err != nil {
			t.Fatal(err)
		}
	}
	return tenants, cfg
}

// logOf opens a log as another process does.
func logOf(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// inOrder reads a log from its beginning as lanes do, and returns the tenant's events in an
// order that the barriers allow, and those that have a fault.
func inOrder(t *testing.T, l *Log, tenant string) (values, faults []string) {
	t.Helper()
	n, err := l.Partitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at, passed := map[int]event.Position{}, map[int]event.Position{}
	for more := true; more; {
		more = false
		for p := range n {
			for still := 0; still < 3; { // it waits for the end of a move, in the tenant's own topic
				if b := l.Barrier(p, at[p]); b != nil && b.Tenant == tenant && passed[p] != at[p] {
					behind := slices.ContainsFunc(slices.Collect(maps.Keys(b.After)), func(q int) bool { return at[q] < b.After[q] })
					if behind {
						break
					}
					passed[p], more = at[p], true
				}
				page, err := l.Read(t.Context(), eventlog.ReadRequest{Partition: p, After: at[p]})
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range page.Events {
					switch {
					case e.Fault != nil && e.Tenant == tenant:
						faults = append(faults, e.Fault.Error())
					case e.Tenant == tenant:
						values = append(values, string(e.Data))
					}
				}
				if page.Next == at[p] && page.Head <= at[p] {
					break
				}
				if page.Next > at[p] {
					at[p], more = page.Next, true
				} else {
					still++
				}
			}
		}
	}
	return values, faults
}

// A move that is interrupted after any of its steps goes on when it is called again, or
// is taken back. Meanwhile readers of the shared topic go on, and what they and those
// who read afterwards see of the tenant is in order.
func TestMoveInterrupted(t *testing.T) {
	for _, own := range []bool{true, false} {
		for _, step := range []string{"begun", "own topic marked", "marked", "shared topic marked"} {
			for _, back := range []bool{false, true} {
				t.Run(fmt.Sprintf("own %v, %s, taken back %v", own, step, back), func(t *testing.T) {
					t.Parallel()
					tenants, cfg := moving(t)
					p, err := tenants.NewProducer()
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = p.Close(context.WithoutCancel(t.Context())) })
					var want []string
					put := func() {
						t.Helper()
						for range 2 {
							for _, tenant := range []string{"t", "u"} {
								said := make(chan error, 1)
								value := fmt.Sprintf(`"%s%d"`, tenant, len(want))
								if err := p.Produce(t.Context(), tenant, "k", &kgo.Record{Value: []byte(value)}, func(_ *kgo.Record, err error) { said <- err }); err != nil {
									t.Fatal(err)
								}
								if err := <-said; err != nil {
									t.Fatal(err)
								}
								if tenant == "t" {
									want = append(want, value)
								}
							}
						}
					}
					must := func(err error) {
						t.Helper()
						if err != nil {
							t.Fatal(err)
						}
					}
					put()
					must(tenants.Move(t.Context(), "t", MoveTenant{Own: true}))
					put()
					if own {
						must(tenants.Move(t.Context(), "t", MoveTenant{}))
						put()
					}
					reader := logOf(t, cfg)
					ownTopic, shared := cfg.Layout.Topics("t")
					move := tenants.dir.stay("t").move + 1
					must(tenants.dir.append(t.Context(), statement{Kind: "moving", Tenant: "t", Move: move, Own: own}))
					if step != "begun" {
						marks, err := tenants.mark(t.Context(), "t", move, ownTopic, tenants.dir.partsOf(ownTopic))
						must(err)
						if step != "own topic marked" {
							must(tenants.dir.append(t.Context(), statement{Kind: "marked", Tenant: "t", Move: move, Marks: marks}))
						}
					}
					if step == "shared topic marked" {
						_, err := tenants.mark(t.Context(), "t", move, shared, tenants.dir.partsOf(shared))
						must(err)
					}
					kafkatest.Produce(t, kafkatest.Client(t), &kgo.Record{Topic: shared, Key: []byte("u:k"), Value: []byte(`"u behind it"`)})
					if u, _ := inOrder(t, reader, "u"); !slices.Contains(u, `"u behind it"`) {
						t.Errorf("the other tenant waits for the move: %q", u)
					}
					if t1, faults := inOrder(t, logOf(t, cfg), "t"); !slices.Equal(t1, want) || len(faults) > 0 {
						t.Errorf("while the move is interrupted: %q, faults %q, want %q", t1, faults, want)
					}
					err = tenants.Move(t.Context(), "t", MoveTenant{Own: own != back})
					// With the last mark the move has ended, and whoever comes to that says so: then
					// to be taken back it is moved back.
					must(err)
					if is, err := tenants.Stay(t.Context(), "t"); err != nil || is.Own != (own != back) || is.Moving {
						t.Errorf("it is at %+v, %v", is, err)
					}
					put()
					for _, l := range []*Log{reader, logOf(t, cfg)} {
						if t2, faults := inOrder(t, l, "t"); !slices.Equal(t2, want) || len(faults) > 0 {
							t.Errorf("at the end: %q, faults %q, want %q", t2, faults, want)
						}
					}
				})
			}
		}
	}
}

// slowAgain holds up what is given to the client a second time: others could come first.
type slowAgain struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (s *slowAgain) OnProduceRecordBuffered(r *kgo.Record) {
	s.mu.Lock()
	again := s.seen[string(r.Value)]
	s.seen[string(r.Value)] = true
	s.mu.Unlock()
	if again {
		time.Sleep(5 * movingEvery)
	}
}

// What a producer has on its way while its tenant moves comes behind the mark, however long
// the move waits. It is written again, in order and before what follows it, and counts
// once; where it was written first nobody has it.
func TestWrittenAgain(t *testing.T) {
	tenants, cfg := moving(t)
	process, err := OpenTenants(t.Context(), cfg) // another one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Close() })
	slow := &slowAgain{seen: map[string]bool{}}
	p, err := process.NewProducer(kgo.ProducerLinger(time.Minute), kgo.WithHooks(slow)) // sent when the test says so
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.WithoutCancel(t.Context())) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var promised sync.WaitGroup
	var mu sync.Mutex
	var said, want []string // in the order of the promises, and of the calls
	put := func(ctx context.Context) error {
		value := fmt.Sprintf("%q", fmt.Sprint("v", len(want)))
		promised.Add(1)
		err := p.Produce(ctx, "t", "k", &kgo.Record{Value: []byte(value)}, func(r *kgo.Record, err error) {
			defer promised.Done()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			said = append(said, string(r.Value))
		})
		if err != nil {
			promised.Done()
			return err
		}
		want = append(want, value)
		return nil
	}
	for _, own := range []bool{true, false, true} {
		for range 3 {
			must(put(t.Context()))
		}
		must(tenants.Move(t.Context(), "t", MoveTenant{Own: own}))
		must(process.dir.sync(t.Context())) // it learns of it, with those records on their way
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := put(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a record was sent to the new place before those in the old one: %v", err)
		}
		cancel()
		must(p.client.Flush(t.Context()))
		must(put(t.Context())) // behind them, although they take their time
		must(p.client.Flush(t.Context()))
		promised.Wait()
	}
	if n := p.Again(); n != 9 {
		t.Errorf("%d records were written again, want 9", n)
	}
	if !slices.Equal(said, want) {
		t.Errorf("promises in the order %q, want %q", said, want)
	}
	if got, faults := inOrder(t, logOf(t, cfg), "t"); !slices.Equal(got, want) || len(faults) > 0 {
		t.Errorf("read %q, faults %q, want %q", got, faults, want)
	}
}

// Close waits for what has to be written again, and not for the linger of that.
func TestCloseWritesAgain(t *testing.T) {
	tenants, cfg := moving(t)
	process, err := OpenTenants(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Close() })
	p, err := process.NewProducer(kgo.ProducerLinger(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 3)
	for range 3 {
		if err := p.Produce(t.Context(), "t", "k", &kgo.Record{Value: []byte("1")}, func(_ *kgo.Record, err error) { said <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := tenants.Move(t.Context(), "t", MoveTenant{Own: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil || p.Again() != 3 {
		t.Errorf("Close = %v, %d records were written again, want 3", err, p.Again())
	}
	for range 3 {
		if err := <-said; err != nil {
			t.Error(err)
		}
	}
	err = p.Produce(t.Context(), "t", "k", &kgo.Record{}, nil)
	if !errors.Is(err, kgo.ErrClientClosed) || !strings.Contains(err.Error(), `"t"`) {
		t.Errorf("Produce after Close = %v", err)
	}
}

// Who begins to read behind a mark, in a process that has read nothing since the move,
// knows of the barrier there.
func TestBarrierOfBefore(t *testing.T) {
	tenants, cfg := moving(t)
	before := logOf(t, cfg)
	if err := tenants.Move(t.Context(), "t", MoveTenant{Own: true}); err != nil {
		t.Fatal(err)
	}
	if err := tenants.Move(t.Context(), "t", MoveTenant{}); err != nil {
		t.Fatal(err)
	}
	reader := logOf(t, cfg)
	var at event.Position
	var partition int
	for p := range reader.several.parts {
		if reader.several.parts[p].topic == cfg.Layout.String() {
			continue
		}
		for _, b := range reader.bordersOf(p).all {
			if b.begins && b.move == 2 {
				partition, at = p, b.at
			}
		}
	}
	if at == 0 {
		t.Fatal("the tenant's stay in the shared topic has no begin")
	}
	if before.Barrier(partition, at) != nil || before.Moved("t") {
		t.Fatal("it is known before anything was read: this shows nothing")
	}
	if _, err := before.Read(t.Context(), eventlog.ReadRequest{Partition: partition, After: at}); err != nil {
		t.Fatal(err)
	}
	if b := before.Barrier(partition, at); b == nil || b.Tenant != "t" || b.Alone || len(b.After) != 1 || !before.Moved("t") {
		t.Errorf("barrier %+v, moved %v", b, before.Moved("t"))
	}
}

// A record that looks like a mark of a move that never began is a record like others, and
// holds up nobody; and marks of a tenant that was removed count no more.
func TestMarksOfNoMove(t *testing.T) {
	tenants, cfg := moving(t)
	_, shared := cfg.Layout.Topics("t")
	client := kafkatest.Client(t)
	forge := func(tenant, move string) {
		t.Helper()
		kafkatest.Produce(t, client, &kgo.Record{Topic: shared, Key: []byte("u:k"), Value: []byte(tenant), Headers: []kgo.RecordHeader{{Key: moveHeader, Value: []byte(move)}}})
	}
	forge("t", "1")
	forge("u", "9223372036854775807")
	forge("nobody", "1")
	forge("t", "one")
	l := logOf(t, cfg)
	if got, _ := inOrder(t, l, "u"); len(got) != 4 {
		t.Errorf("forged marks came as %q, want 4 records", got)
	}
	if err := tenants.Move(t.Context(), "t", MoveTenant{Own: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := tenants.Remove(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if err := tenants.Add(t.Context(), "t", AddTenant{}); err != nil {
		t.Fatal(err)
	}
	kafkatest.Produce(t, client, &kgo.Record{Topic: shared, Key: []byte("t:k"), Value: []byte(`"anew"`)})
	for _, l := range []*Log{l, logOf(t, cfg)} {
		if got, faults := inOrder(t, l, "t"); !slices.Equal(got, []string{`"anew"`}) || len(faults) > 0 {
			t.Errorf("a new tenant of that name: %q, faults %q", got, faults)
		}
	}
	if err := tenants.Move(t.Context(), "t", MoveTenant{Own: true}); err != nil {
		t.Fatal(err)
	}
	if is, err := tenants.Stay(t.Context(), "t"); err != nil || !is.Own || is.Moves != 2 {
		t.Errorf("%+v, %v", is, err)
	}
}

// Tenants that cannot be moved are refused, with the reason.
func TestMoveRefused(t *testing.T) {
	tenants, cfg := moving(t)
	if err := tenants.Move(t.Context(), "a:b", MoveTenant{Own: true}); !errors.Is(err, layout.ErrTenant) {
		t.Errorf("a tenant with the separator: %v", err)
	}
	if _, err := tenants.Stay(t.Context(), "nobody"); !errors.Is(err, ErrUnknownTenant) {
		t.Errorf("a tenant that nobody has added: %v", err)
	}
	own, err := layout.New(layout.Config{Own: strings.TrimSuffix(cfg.Directory, ".directory") + "2.{tenant}"})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Layout, cfg.Directory = own, cfg.Directory+"2"
	admin := kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() { _, _ = admin.DeleteTopics(context.WithoutCancel(t.Context()), cfg.Directory) })
	alone, err := OpenTenants(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = alone.Close() })
	if err := alone.Move(t.Context(), "t", MoveTenant{}); err == nil || !strings.Contains(err.Error(), "nothing can be moved") {
		t.Errorf("in a layout of own topics alone: %v", err)
	}
}
