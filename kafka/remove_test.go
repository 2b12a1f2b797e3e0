package kafka_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
)

// A tenant is removed from the shared topic while two processes apply what it has there,
// and others write: nothing of it is left or comes back, the others have all that is
// theirs, and a new tenant of its name begins anew.
func TestRemoveBesideConsumers(t *testing.T) {
	m := newMixture(t, "gone", "stays")
	cfg := m.cfg
	cfg.Group = kafkatest.Name(t)
	// While hold is set, handlers have events of the tenant in hand.
	var hold atomic.Bool
	reached, release := make(chan struct{}), make(chan struct{})
	first, let := sync.OnceFunc(func() { close(reached) }), sync.OnceFunc(func() { close(release) })
	url, p := pgtest.Database(t), fairlead.NewProjection("tallies", fairlead.On("Added", func(c *tally, e fairlead.Event[added]) error {
		if e.Tenant == "gone" && hold.Load() {
			first()
			<-release
		}
		c.add(e.Data.N)
		return nil
	}))
	a := start(t, url, cfg, fairlead.Project(p))
	start(t, url, cfg, fairlead.Project(p))
	t.Cleanup(let)
	producer, err := m.tenants.NewProducer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = producer.Close(context.WithoutCancel(t.Context())) })
	want := map[tenantStream]*tally{}
	var there sync.WaitGroup
	put := func(tenant string, n int) {
		t.Helper()
		for i := range n {
			k := tenantStream{tenant, fmt.Sprint("s", i%20)}
			if want[k] == nil {
				want[k] = &tally{}
			}
			want[k].add(want[k].Count + 1)
			there.Add(1)
			r := &kgo.Record{Value: fmt.Appendf(nil, `{"N":%d}`, want[k].Count), Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Added")}}}
			err := producer.Produce(t.Context(), k.tenant, k.stream, r, func(_ *kgo.Record, err error) {
				defer there.Done()
				if err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	has := func(k tenantStream) (tally, bool) {
		d, err := fairlead.Get(t.Context(), a.db, p, k.tenant, k.stream)
		return d.State, err == nil
	}
	applied := func(tenant string) func() bool {
		return func() bool {
			for k, w := range want {
				if got, _ := has(k); k.tenant == tenant && got != *w {
					return false
				}
			}
			return true
		}
	}
	put("gone", 200)
	put("stays", 200)
	there.Wait()
	eventually(t, 60*time.Second, "the tenant is being applied", func() bool {
		_, ok := has(tenantStream{"gone", "s0"})
		return ok
	})
	hold.Store(true)
	put("gone", 2000)
	put("stays", 2000)
	there.Wait()
	select {
	case <-reached:
	case <-time.After(time.Minute):
		t.Fatal("nobody has an event of the tenant in hand")
	}
	r, err := m.tenants.Remove(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	admin := fairlead.Admin{Store: a.db, Log: a.log}
	n, err := admin.RemoveTenant(t.Context(), "gone", r.UpTo)
	if err != nil || r.Tombstones != 20 || n == 0 {
		t.Errorf("%d tombstones and %d documents, %v", r.Tombstones, n, err)
	}
	let()
	put("stays", 2000)
	there.Wait()
	eventually(t, 60*time.Second, "the other tenant has all", applied("stays"))
	for k := range want {
		if got, ok := has(k); ok && k.tenant == "gone" {
			t.Errorf("%v is there again: %+v", k, got)
		}
		if k.tenant == "gone" {
			delete(want, k)
		}
	}
	if err := m.tenants.Add(t.Context(), "gone", kafka.AddTenant{}); err != nil {
		t.Fatal(err)
	}
	put("gone", 100)
	there.Wait()
	eventually(t, 60*time.Second, "the new tenant of that name has what is its own", applied("gone"))
	if letters, err := admin.DeadLetters(t.Context(), fairlead.LetterFilter{Limit: 3}); err != nil || len(letters) > 0 {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
}
