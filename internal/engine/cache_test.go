package engine

import (
	"errors"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A tenant leaves and comes back at the position at which it had come back
// before, so that its exclusion is as it was, and its dead letters were drained
// outside: what its base lane has in its cache is old.
func TestCacheOfATenantThatCameBackAsBefore(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	sick := map[int]bool{1: true, 2: true}
	def := projection.New("docs", projection.On("added", func(s *tally, e projection.Event[added]) error {
		if sick[e.Data.N] {
			return errors.New("told to fail")
		}
		s.N++
		return nil
	}))
	r.add(Processor{Projection: def, Name: "docs"})
	p, err := Processor{Projection: def, Name: "docs"}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	own := func(id store.LaneID) *batchLane {
		row, err := lane.Acquire(ctx, r.st, id, "me")
		must(err)
		l := r.e.batchRunner(&p, row, 0).l
		must(l.restart(ctx))
		return l
	}
	work := func(l *batchLane) {
		for again := true; again; {
			page, err := r.e.pages.read(ctx, eventlog.ReadRequest{After: l.at}, l.bucket)
			must(err)
			b := l.prepare(page, 10)
			err = l.fold(ctx, b)
			if err == nil {
				err = l.seal(ctx, b)
			}
			if errors.Is(err, errAgain) {
				must(l.restart(ctx))
				continue
			}
			must(l.commit(ctx, b))
			l.committed(b)
			again = false
		}
	}
	base := store.LaneID{Build: store.Build{Processor: "docs", Number: 1}}
	id := base
	id.Tenant = "t"
	outside := func(f func(l *batchLane)) {
		must(lane.Detach(ctx, r.st, "docs", "t"))
		l := own(id)
		f(l)
		must(lane.Unpin(ctx, r.st, "docs", "t"))
		_, err := lane.TryMerge(ctx, r.st, id, l.row.Epoch)
		must(err)
	}
	drain := func(l *batchLane) {
		_, err := lane.RetryKey(ctx, r.st, "docs", "t", "")
		must(err)
		must(l.restart(ctx))
		for _, k := range l.retry {
			must(l.drain(ctx, k))
		}
	}
	r.append("t", "s", added{N: 1}, added{N: 2})
	l := own(base)
	work(l)
	outside(func(*batchLane) {})
	must(l.restart(ctx))
	if got := l.row.Exclusions["t"]; got != l.at || got == event.Beginning {
		t.Fatalf("excluded up to %v at %v, want the same", got, l.at)
	}
	delete(sick, 1)
	drain(l) // the first one, and its document is in the cache
	delete(sick, 2)
	outside(drain) // the second one
	must(l.restart(ctx))
	r.append("t", "s", added{N: 3})
	work(l)
	if got := r.get(def, "t", "s").N; got != 3 {
		t.Errorf("the document has %d events, want 3: it was made from one that was out of date", got)
	}
}
