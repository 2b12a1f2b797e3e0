package postgres

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// An append to several streams that are all there goes another way than one of which
// some are new: both give each event its stream, its version and its place.
func TestAppendToSeveral(t *testing.T) {
	db := openTemp(t)
	random := rand.New(rand.NewPCG(3, 4))
	versions, order := map[string]int64{}, []string{}
	for round := range 60 {
		var as []eventlog.StreamAppend
		for _, s := range random.Perm(8)[:2+random.IntN(6)] {
			stream := fmt.Sprint("s", s)
			a := eventlog.StreamAppend{Tenant: "t", Stream: stream}
			if random.IntN(2) == 0 {
				a.Expected = eventlog.ExactVersion(versions[stream])
			}
			for range 1 + random.IntN(3) {
				a.Events = append(a.Events, eventlog.NewEvent{Type: fmt.Sprintf("%d of %s", len(order), stream)})
				versions[stream]++
				order = append(order, fmt.Sprintf("%s@%d %s", stream, versions[stream], a.Events[len(a.Events)-1].Type))
			}
			as = append(as, a)
		}
		if _, err := db.Append(t.Context(), as...); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		// The first one in the caller's order that is not as expected is told, and nothing is there.
		i := random.IntN(len(as))
		for j := range as {
			as[j].Expected = eventlog.ExactVersion(versions[as[j].Stream])
			if j >= i {
				as[j].Expected = eventlog.ExactVersion(versions[as[j].Stream] + 5)
			}
		}
		_, err := db.Append(t.Context(), as...)
		conflict, ok := errors.AsType[*eventlog.ConflictError](err)
		if !ok || conflict.Stream.Stream != as[i].Stream || conflict.Actual != versions[as[i].Stream] {
			t.Fatalf("round %d: got %v, want a conflict of %s at %d", round, err, as[i].Stream, versions[as[i].Stream])
		}
	}
	page, err := db.Read(t.Context(), eventlog.ReadRequest{MaxEvents: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range page.Events {
		got = append(got, fmt.Sprintf("%s@%d %s", e.Stream, e.Version, e.Type))
	}
	if !slices.Equal(got, order) {
		t.Errorf("the log has\n%q, want\n%q", got, order)
	}
}

// Appends to the same streams at once, in whatever order they name them, follow one
// another: none fails, and no version is given twice or left out.
func TestAppendToSeveralAtOnce(t *testing.T) {
	db := openTemp(t)
	const writers, rounds, streams = 6, 40, 5
	several := func(random *rand.Rand) error {
		var as []eventlog.StreamAppend
		for _, s := range random.Perm(streams)[:2+random.IntN(streams-1)] {
			as = append(as, eventlog.StreamAppend{Tenant: "t", Stream: fmt.Sprint("s", s), Events: []eventlog.NewEvent{{Type: "x"}}})
		}
		c, err := newAppendCall(as)
		if err == nil { // not by Append, which runs again what a deadlock has ended
			_, err = c.answer(db.pool.QueryRow(t.Context(), db.q(callAppend), c.args()...))
		}
		return err
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for range rounds {
				if err := several(random); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	next := map[string]int64{}
	page, err := db.Read(t.Context(), eventlog.ReadRequest{MaxEvents: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Events {
		if next[e.Stream]++; e.Version != next[e.Stream] {
			t.Fatalf("stream %s: version %d comes at %v, want %d", e.Stream, e.Version, e.Position, next[e.Stream])
		}
	}
	if len(next) != streams {
		t.Errorf("%d streams, want %d", len(next), streams)
	}
}
