package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// A publisher of the directory's tenants follows one that moves: each event counts where
// its tenant is, none is parked, and what is published while it moves waits.
func TestPublisherFollows(t *testing.T) {
	tenants, cfg := moving(t)
	process, err := OpenTenants(t.Context(), cfg) // another one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Close() })
	p, err := process.NewPublisher(tenancy.Names{}, kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	var want []string
	publish := func(ctx context.Context) error {
		value := fmt.Sprintf("%q", fmt.Sprint("v", len(want)))
		err := p.Publish(ctx, &event.Event{Tenant: "t", Stream: "k", Type: "T", Position: 7, Data: []byte(value)}, "id"+fmt.Sprint(len(want)))
		if err == nil {
			want = append(want, value)
		}
		return err
	}
	for _, own := range []bool{true, false, true} {
		if err := publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		move := process.dir.stay("t").move + 1
		if err := tenants.dir.append(t.Context(), statement{Kind: "moving", Tenant: "t", Move: move, Own: own}); err != nil {
			t.Fatal(err)
		}
		pause(t.Context(), knownFor) // and so it asks
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := publish(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the tenant is being moved: %v, want %v", err, context.DeadlineExceeded)
		}
		cancel()
		if err := tenants.Move(t.Context(), "t", MoveTenant{Own: own}); err != nil {
			t.Fatal(err)
		}
	}
	err = p.Publish(t.Context(), &event.Event{Tenant: "t", Stream: "k", Type: "T", Position: 7, Data: make([]byte, 2<<20)}, "large")
	if !errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), `tenant "t"`) {
		t.Errorf("what no broker takes: %v", err)
	}
	if err := p.Publish(t.Context(), &event.Event{Tenant: "a:b", Stream: "k", Type: "T"}, "x"); !errors.Is(err, forward.ErrRefused) {
		t.Errorf("a tenant with the separator: %v", err)
	}
	if err := publish(t.Context()); err != nil {
		t.Error(err)
	}
	if got, faults := inOrder(t, logOf(t, cfg), "t"); !slices.Equal(got, want) || len(faults) > 0 {
		t.Errorf("read %q, faults %q, want %q", got, faults, want)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := publish(t.Context()); !errors.Is(err, kgo.ErrClientClosed) {
		t.Errorf("a closed publisher: %v", err)
	}
}

// A broker refuses a batch for one record in it: the others are taken all the same.
func TestPublisherFollowsRefused(t *testing.T) {
	tenants, cfg := moving(t)
	limit := "1000"
	_, shared := cfg.Layout.Topics("t")
	if _, err := kadm.NewClient(kafkatest.Client(t)).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, shared); err != nil {
		t.Fatal(err)
	}
	p, err := tenants.NewPublisher(tenancy.Names{}, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			data := []byte(`"small"`)
			if i == 1 {
				data = make([]byte, 2000)
			}
			errs[i] = p.Publish(t.Context(), &event.Event{Tenant: "t", Stream: fmt.Sprint(i), Type: "T", Position: 7, Data: data}, fmt.Sprint(i))
		})
	}
	wg.Wait()
	if errs[0] != nil || errs[2] != nil || !errors.Is(errs[1], forward.ErrRefused) {
		t.Errorf("errors %v, want that of the large one alone", errs)
	}
	if got, _ := inOrder(t, logOf(t, cfg), "t"); len(got) != 2 {
		t.Errorf("read %d events, want 2", len(got))
	}
}
