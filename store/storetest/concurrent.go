package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// patience is how long something that must happen may take, on a slow machine.
const patience = 60 * time.Second

func runConcurrent(sub func(string, func(*fixture))) {
	sub("ConcurrentUpdatesSerialise", testConcurrentUpdates)
	sub("ConcurrentCommitsOfLanes", testConcurrentCommits)
	sub("ConcurrentCommitsOfOneLane", testOneLane)
	sub("ZombieCannotCommit", testZombie)
	sub("ViewIsASnapshot", testViewSnapshot)
}

// testConcurrentUpdates: read, add one, write; none is lost.
func testConcurrentUpdates(t *fixture) {
	t.setup("p")
	const workers, rounds = 8, 20
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				err := t.s.Update(ctx, func(tx store.Tx) error {
					l, err := tx.Lane(base("p"))
					if err != nil {
						return err
					}
					p, err := tx.Processor("p")
					if err != nil {
						return err
					}
					l.Epoch++
					p.LastBuild++
					return errors.Join(tx.PutLane(l), tx.PutProcessor(p))
				})
				if err != nil {
					t.Errorf("Update = %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := t.lane(base("p")).Epoch; got != workers*rounds {
		t.Errorf("the lane counted to %d, want %d", got, workers*rounds)
	}
	t.view(func(tx store.Tx) error {
		p, err := tx.Processor("p")
		if err == nil && p.LastBuild != 1+workers*rounds {
			t.Errorf("the processor counted to %d, want %d", p.LastBuild, 1+workers*rounds)
		}
		return err
	})
}

// testConcurrentCommits: lanes do not disturb each other.
func testConcurrentCommits(t *fixture) {
	const lanes, rounds = 8, 20
	var names []string
	for i := range lanes {
		names = append(names, fmt.Sprintf("p%d", i))
	}
	t.setup(names...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for _, name := range names {
		wg.Go(func() {
			for i := range rounds {
				err := t.s.Commit(ctx, &store.Commit{
					Lane: base(name), Fence: store.Fence{Position: event.Position(i)}, Position: event.Position(i + 1),
					Writes:  writes(doc("a", "counter", strconv.Itoa(i+1)), doc("a", strconv.Itoa(i), name)),
					Letters: []store.DeadLetter{letterOf(base(name), "a", strconv.Itoa(i))},
				})
				if err != nil {
					t.Errorf("lane %s, round %d: %v", name, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, name := range names {
		if got := t.lane(base(name)).Position; got != rounds {
			t.Errorf("lane %s is at %v, want %d", name, got, rounds)
		}
		if got := string(t.get(name, "a", "counter").Data); got != strconv.Quote(strconv.Itoa(rounds)) {
			t.Errorf("lane %s counted to %s, want %d", name, got, rounds)
		}
		if got := len(t.list(name, "a")); got != rounds+1 {
			t.Errorf("lane %s has %d documents, want %d", name, got, rounds+1)
		}
		letters := t.letters(store.LetterFilter{Build: build(name)})
		for i, d := range letters {
			if d.Key != strconv.Itoa(i) {
				t.Errorf("lane %s: letter %d is that of round %s", name, i, d.Key)
			}
		}
		if len(letters) != rounds {
			t.Errorf("lane %s has %d letters, want %d", name, len(letters), rounds)
		}
	}
}

// testOneLane: of several owners that prepare the same batch, one commits it.
func testOneLane(t *fixture) {
	t.setup("p")
	const workers, rounds = 4, 15
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range rounds {
		var won, fenced atomic.Int64
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				err := t.s.Commit(ctx, &store.Commit{
					Lane: base("p"), Fence: store.Fence{Position: event.Position(i)}, Position: event.Position(i + 1),
					Writes:  writes(doc("a", fmt.Sprintf("%d by %d", i, w), "x")),
					Letters: []store.DeadLetter{letterOf(base("p"), "a", "k")},
				})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, store.ErrFenced):
					fenced.Add(1)
				default:
					t.Errorf("round %d: %v, want nil or a FenceError", i, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || fenced.Load() != workers-1 {
			t.Errorf("round %d: %d commits won and %d were fenced, want 1 and %d", i, won.Load(), fenced.Load(), workers-1)
		}
	}
	if docs, letters := len(t.list("p", "a")), len(t.letters(store.LetterFilter{})); docs != rounds || letters != rounds {
		t.Errorf("there are %d documents and %d letters, want %d of each", docs, letters, rounds)
	}
}

// testZombie: while owners take a lane from each other all the time, each event
// is counted once.
func testZombie(t *fixture) {
	t.setup("p")
	const owners, target = 4, 20
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for range owners {
		wg.Go(func() {
			for {
				var l store.Lane
				err := t.s.Update(ctx, func(tx store.Tx) (err error) {
					if l, err = tx.Lane(base("p")); err != nil {
						return err
					}
					l.Epoch++
					return tx.PutLane(l)
				})
				if err != nil {
					t.Errorf("take over: %v", err)
					return
				}
				for range 5 {
					if l.Position >= target {
						return
					}
					err := count(ctx, t.s, l)
					if f, ok := errors.AsType[*store.FenceError](err); ok {
						if !f.Lost() {
							t.Errorf("fenced by %+v, want by a new epoch only", f)
						}
						break
					}
					if err != nil {
						t.Errorf("count: %v", err)
						return
					}
					l.Position++
				}
			}
		})
	}
	wg.Wait()
	if got := string(t.get("p", "a", "counter").Data); got != strconv.Quote(strconv.Itoa(target)) {
		t.Errorf("counted to %s, want %d", got, target)
	}
}

// count applies one event of a lane to a counter document, whose changes are not
// idempotent.
func count(ctx context.Context, s store.Store, l store.Lane) error {
	n := 0
	docs, err := s.Load(ctx, l.Build, []store.Key{{Tenant: "a", ID: "counter"}})
	if err != nil {
		return err
	}
	if len(docs) > 0 {
		text, err := strconv.Unquote(string(docs[0].Data))
		if err != nil {
			return err
		}
		if n, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	return s.Commit(ctx, &store.Commit{
		Lane: l.LaneID, Fence: fence(l), Position: l.Position + 1, Writes: writes(doc("a", "counter", strconv.Itoa(n+1))),
	})
}

// testViewSnapshot: two rows that always change together are never seen apart.
func testViewSnapshot(t *fixture) {
	t.setup("p", "q")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				err := t.s.View(ctx, func(tx store.Tx) error {
					p, err := tx.Lane(base("p"))
					if err != nil {
						return err
					}
					q, err := tx.Lane(base("q"))
					if err == nil && p.Epoch != q.Epoch {
						t.Errorf("the lanes have epochs %d and %d, want them equal in one snapshot", p.Epoch, q.Epoch)
					}
					return err
				})
				if err != nil {
					t.Errorf("View = %v", err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range int64(40) {
		err := t.s.Update(ctx, func(tx store.Tx) error {
			for _, id := range []store.LaneID{base("p"), base("q")} {
				if err := tx.PutLane(store.Lane{LaneID: id, Epoch: i + 1, State: store.Running}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("Update %d = %v", i, err)
			break
		}
	}
	close(done)
	wg.Wait()
}
