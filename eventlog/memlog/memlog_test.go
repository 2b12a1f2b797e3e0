package memlog_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
)

func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name       string
		partitions int
		opts       []memlog.Option
	}{
		{"one partition", 1, nil},
		{"one partition with gaps", 1, []memlog.Option{memlog.WithGaps(3)}},
		{"three partitions", 3, []memlog.Option{memlog.WithPartitions(3)}},
		{"four partitions with gaps", 4, []memlog.Option{memlog.WithPartitions(4), memlog.WithGaps(2)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eventlogtest.Run(t, func(*testing.T) eventlog.Log { return memlog.New(tt.opts...) }, eventlogtest.Features{
				Append: true, ReadStream: true, Count: true, CountTenants: true, Partitions: tt.partitions,
				Truncate: func(t *testing.T, log eventlog.Log, partition int, before event.Position) {
					if err := log.(*memlog.Log).Truncate(partition, before); err != nil {
						t.Fatal(err)
					}
				},
			})
		})
	}
}

func add(t *testing.T, log *memlog.Log, tenant, stream string, n int) eventlog.Token {
	t.Helper()
	a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
	for range n {
		a.Events = append(a.Events, eventlog.NewEvent{Type: "T", Data: []byte(`{}`)})
	}
	token, err := log.Append(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func positions(t *testing.T, log *memlog.Log, partition int) []event.Position {
	t.Helper()
	page, err := log.Read(t.Context(), eventlog.ReadRequest{Partition: partition})
	if err != nil {
		t.Fatal(err)
	}
	var out []event.Position
	for _, e := range page.Events {
		out = append(out, e.Position)
	}
	return out
}

func TestGaps(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []memlog.Option
		want string
	}{
		{"none", nil, "[1 2 3 4 5 6]"},
		{"every second", []memlog.Option{memlog.WithGaps(2)}, "[1 3 5 7 9 11]"},
		{"every third", []memlog.Option{memlog.WithGaps(3)}, "[1 2 4 5 7 8]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := memlog.New(tt.opts...)
			add(t, log, "a", "s", 6)
			if got := fmt.Sprint(positions(t, log, 0)); got != tt.want {
				t.Errorf("positions = %s, want %s", got, tt.want)
			}
		})
	}
}

// TestDeterministic: equal calls give equal positions in equal partitions.
func TestDeterministic(t *testing.T) {
	run := func() string {
		log := memlog.New(memlog.WithPartitions(5), memlog.WithGaps(4))
		var out strings.Builder
		for i := range 50 {
			fmt.Fprintln(&out, add(t, log, fmt.Sprintf("t%d", i%7), fmt.Sprintf("s%d", i), 1+i%3))
		}
		return out.String()
	}
	if a, b := run(), run(); a != b {
		t.Errorf("two runs of the same calls gave\n%s\nand\n%s", a, b)
	}
}

func TestPartitionsShareTheStreams(t *testing.T) {
	log := memlog.New(memlog.WithPartitions(4))
	var n [4]int
	for i := range 400 {
		n[add(t, log, fmt.Sprintf("tenant-%d", i%20), fmt.Sprintf("order-%d", i), 1).Partition]++
	}
	for p, got := range n {
		if got < 50 || got > 150 {
			t.Errorf("partition %d has %d of 400 streams, want about 100", p, got)
		}
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	for name, option := range map[string]func() memlog.Option{
		"no partitions":   func() memlog.Option { return memlog.WithPartitions(0) },
		"nothing is left": func() memlog.Option { return memlog.WithGaps(1) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("option was accepted, want a panic")
				}
			}()
			option()
		})
	}
}

// TestVirtualTime: in a bubble the log lives by the bubble's clock, and waiting
// costs nothing.
func TestVirtualTime(t *testing.T) {
	outside := memlog.New() // older than the bubble
	synctest.Test(t, func(t *testing.T) {
		for name, log := range map[string]*memlog.Log{"made inside": memlog.New(), "made outside": outside} {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			woken := make(chan error)
			go func() { woken <- log.Wait(ctx, 0, 0) }()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			select {
			case err := <-woken:
				t.Errorf("%s: Wait = %v before the append", name, err)
			default:
			}
			add(t, log, "a", "s", 1)
			if err := <-woken; err != nil || time.Since(start) != 10*time.Minute {
				t.Errorf("%s: Wait = %v after %v, want nil after 10m", name, err, time.Since(start))
			}
			page, err := log.Read(ctx, eventlog.ReadRequest{})
			if err != nil || !page.Events[0].RecordedAt.Equal(time.Now()) {
				t.Errorf("%s: recorded at %v, %v, want %v", name, page.Events[0].RecordedAt, err, time.Now())
			}
			if err := log.Wait(ctx, 0, 99); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Hour {
				t.Errorf("%s: Wait = %v after %v, want %v after 1h", name, err, time.Since(start), context.DeadlineExceeded)
			}
			cancel()
		}
	})
}
