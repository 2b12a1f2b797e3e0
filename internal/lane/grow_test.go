package lane_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestGrowFromOne: while a process lives that reads one partition for all its lanes,
// there are no lanes of others that it could take.
func TestGrowFromOne(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	setup := store.Processor{Name: "p", Collection: "p", Partitions: 1, Builds: store.Builds{Log: "log", LogPartitions: 1}}
	if _, err := lane.Setup(ctx, s, setup, func(int) event.Position { return 0 }); err != nil {
		t.Fatal(err)
	}
	if err := lane.Join(ctx, s, store.Member{ID: "old", Host: "web-1"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := lane.Grow(ctx, s, "p", 4); !errors.Is(err, lane.ErrState) || !strings.Contains(err.Error(), "web-1") {
		t.Errorf("beside an old process: %v", err)
	}
	if err := lane.Leave(ctx, s, "old"); err != nil {
		t.Fatal(err)
	}
	p, err := lane.Grow(ctx, s, "p", 4)
	if err != nil || p.Partitions != 4 || p.Builds.LogPartitions != 4 {
		t.Errorf("after it: %+v, %v", p, err)
	}
	if err := lane.Join(ctx, s, store.Member{ID: "new"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if p, err = lane.Grow(ctx, s, "p", 6); err != nil || p.Partitions != 6 {
		t.Errorf("from several: %+v, %v", p, err)
	}
}
