package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/internal/kafkatest"
)

// What a producer has on its way while its tenant leaves and comes back arrives where the
// tenant is again, in a later stay: it is written again for each reader, or for none.
// And a header of an earlier stay, in a record that somebody copies, says nothing.
func TestOnTheWayForTwoMoves(t *testing.T) {
	tenants, cfg := moving(t)
	process, err := OpenTenants(t.Context(), cfg) // another one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Close() })
	p, err := process.NewProducer(kgo.ProducerLinger(time.Minute)) // sent when the test says so
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.WithoutCancel(t.Context())) })
	var promised sync.WaitGroup
	var want []string
	put := func(headers ...kgo.RecordHeader) {
		t.Helper()
		value := fmt.Sprintf("%q", fmt.Sprint("v", len(want)))
		promised.Add(1)
		if err := p.Produce(t.Context(), "t", "k", &kgo.Record{Value: []byte(value), Headers: headers}, func(_ *kgo.Record, err error) {
			defer promised.Done()
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		want = append(want, value)
	}
	for range 3 {
		put()
	}
	for _, own := range []bool{true, false} {
		if err := tenants.Move(t.Context(), "t", MoveTenant{Own: own}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for p.Again() < 3 && t.Context().Err() == nil {
		pause(t.Context(), time.Millisecond)
	}
	put(kgo.RecordHeader{Key: stayHeader, Value: []byte("0")})
	if err := p.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	promised.Wait()
	if got, faults := inOrder(t, logOf(t, cfg), "t"); !slices.Equal(got, want) || len(faults) > 0 {
		t.Errorf("read %q, faults %q, want %q", got, faults, want)
	}
}

// A removed tenant's records that came too late for a move are gone, too: they are no
// new tenant's of that name.
func TestRemovedWithLateRecords(t *testing.T) {
	tenants, cfg := moving(t)
	_, shared := cfg.Layout.Topics("t")
	client := kafkatest.Client(t)
	kafkatest.Produce(t, client, &kgo.Record{Topic: shared, Key: []byte("t:k"), Value: nil})
	if err := tenants.Move(t.Context(), "t", MoveTenant{Own: true}); err != nil {
		t.Fatal(err)
	}
	kafkatest.Produce(t, client, &kgo.Record{Topic: shared, Key: []byte("t:l"), Value: []byte(`"late"`), Headers: []kgo.RecordHeader{{Key: stayHeader, Value: []byte("0")}}})
	removed, err := tenants.Remove(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if removed.Tombstones != 1 {
		t.Errorf("%d tombstones, want one, of the key that is there still", removed.Tombstones)
	}
	if err := tenants.Add(t.Context(), "t", AddTenant{}); err != nil {
		t.Fatal(err)
	}
	if got, faults := inOrder(t, logOf(t, cfg), "t"); len(got)+len(faults) > 0 {
		t.Errorf("a new tenant of that name has %q, faults %q", got, faults)
	}
}
