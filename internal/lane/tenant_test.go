package lane_test

import (
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestCommandsThatChangeNothing leave the rows alone, so that no owner begins again
// at its checkpoint for them.
func TestCommandsThatChangeNothing(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 2}, func(int) event.Position { return 0 })
	must(err)
	must(lane.Detach(ctx, s, "p", "a"))
	must(lane.Pause(ctx, s, "p", "a", "why"))
	revision := func() int64 {
		n, err := s.Revision(ctx)
		must(err)
		return n
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"resume", func() error { return lane.Resume(ctx, s, "p", "a") }},
		{"unpin", func() error { return lane.Unpin(ctx, s, "p", "a") }},
	} {
		before := revision()
		must(c.do())
		once := revision()
		must(c.do())
		if twice := revision(); once == before || twice != once {
			t.Errorf("%s: revision %d, %d after it and %d after it was repeated", c.name, before, once, twice)
		}
	}
}
