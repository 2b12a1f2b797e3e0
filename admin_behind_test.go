package fairlead_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// askedLog counts the questions of operators.
type askedLog struct {
	*memlog.Log
	heads, counts, tenants int
}

func (l *askedLog) Head(ctx context.Context, part int) (event.Position, error) {
	l.heads++
	return l.Log.Head(ctx, part)
}

func (l *askedLog) Count(ctx context.Context, part int, f eventlog.Filter, after, until event.Position, limit int) (int, time.Time, error) {
	l.counts++
	return l.Log.Count(ctx, part, f, after, until, limit)
}

func (l *askedLog) CountTenants(ctx context.Context, part int, tenants []eventlog.TenantAfter, until event.Position, limit int) ([]eventlog.Counted, error) {
	l.tenants++
	return l.Log.CountTenants(ctx, part, tenants, until, limit)
}

// countingLog is a log that can count for one lane only.
type countingLog struct {
	eventlog.Log
	eventlog.Counter
}

// plainLog is a log that cannot count.
type plainLog struct{ eventlog.Log }

// TestLanesOfManyTenants: how far thousands of lanes are behind is asked of the log
// in a few questions, and the answers are those for each lane alone.
func TestLanesOfManyTenants(t *testing.T) {
	const tenants, parts = 5000, 3
	log, st := &askedLog{Log: memlog.New(memlog.WithPartitions(parts))}, memstore.New()
	ctx := t.Context()
	for i := range tenants {
		for range 1 + i%3 {
			appendTo(ctx, log, fmt.Sprint("t", i), "s", fairlead.MustEvent("T", i))
		}
	}
	check(st.Update(ctx, func(tx store.Tx) error {
		for _, name := range []string{"p", "q"} {
			if err := tx.PutProcessor(store.Processor{Name: name, Kind: "reactor", Partitions: parts, Live: 1, LastBuild: 1}); err != nil {
				return err
			}
			for part := range parts {
				base := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: name, Number: 1}, Partition: part}, State: store.Running, Exclusions: map[string]event.Position{}}
				for i := range tenants {
					if i%50 == 0 || i%parts != part {
						continue
					}
					own := base
					own.Tenant, own.Exclusions, own.Position = fmt.Sprint("t", i), nil, event.Position(i%700)
					base.Exclusions[own.Tenant] = event.Unbounded
					if err := tx.PutLane(own); err != nil {
						return err
					}
				}
				if err := tx.PutLane(base); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	lanes, err := fairlead.Admin{Log: log, Store: st}.Lanes(ctx, "")
	check(err)
	if log.heads != parts || log.tenants != parts || log.counts != 2*parts {
		t.Errorf("the log was asked %d times for a head, %d times to count, %d times for many tenants: want %d, %d and %d",
			log.heads, log.counts, log.tenants, parts, 2*parts, parts)
	}
	each, err := fairlead.Admin{Log: countingLog{log.Log, log.Log}, Store: st}.Lanes(ctx, "")
	check(err)
	behind := 0
	for i, l := range lanes {
		if l.Behind != each[i].Behind || (l.Lag-each[i].Lag).Abs() > time.Minute || (l.Lag == 0) != (each[i].Lag == 0) {
			t.Fatalf("lane %v is %d events and %v behind, want %d and %v", l.LaneID, l.Behind, l.Lag, each[i].Behind, each[i].Lag)
		}
		if l.Tenant != "" && l.Behind > 0 {
			behind++
		}
	}
	if behind < tenants/10 {
		t.Errorf("%d lanes of tenants are behind, want many of them", behind)
	}
	some, err := fairlead.Admin{Log: plainLog{log.Log}, Store: st}.Lanes(ctx, "p")
	check(err)
	for _, l := range some {
		head, err := log.Log.Head(ctx, l.Partition)
		check(err)
		if want := int64(max(0, head-l.Position)); l.Behind != want {
			t.Fatalf("of a log that cannot count: lane %v is %d behind, want %d, what is between it and the head", l.LaneID, l.Behind, want)
		}
	}
}
