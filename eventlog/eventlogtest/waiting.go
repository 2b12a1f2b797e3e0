package eventlogtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// patience is how long something that must happen may take, on a slow machine.
const patience = 10 * time.Second

func runWaiting(sub func(string, func(*fixture))) {
	sub("WaitReturnsAtOnceBelowTheHead", testWaitBelowHead)
	sub("WaitReturnsWhenTheContextEnds", testWaitContext)
	sub("WaitWakesUp", testWaitWakesUp)
	sub("WaitMissesNoWakeUp", testWaitMissesNothing)
}

// pause lets some time pass.
func (t *fixture) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// waitPast waits as a lane does, until the head has passed after.
func (t *fixture) waitPast(ctx context.Context, partition int, after event.Position) error {
	for {
		head, err := t.log.Head(ctx, partition)
		if err != nil || head > after {
			return err
		}
		if err := t.log.Wait(ctx, partition, after); err != nil {
			return err
		}
	}
}

// home returns the partition of stream "s" of tenant "a", which it begins.
func (t *fixture) home() int {
	t.Helper()
	t.fill(one("a", "s", "T", 1))
	for p := range t.partitions() {
		if len(t.read(eventlog.ReadRequest{Partition: p}).Events) > 0 {
			return p
		}
	}
	t.Fatal("the event that was appended is in no partition")
	return 0
}

func testWaitBelowHead(t *fixture) {
	p := t.home()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, after := range []event.Position{event.Beginning, t.head(p) - 1} {
		if err := t.log.Wait(ctx, p, after); err != nil {
			t.Errorf("Wait(%v) with head %v = %v, want nil", after, t.head(p), err)
		} else if knows, ok := t.log.(eventlog.HeadKnower); ok && (knows.KnownHead(p) <= after || knows.KnownHead(p) > t.head(p)) {
			t.Errorf("Wait(%v) has returned, and the known head is %v of %v", after, knows.KnownHead(p), t.head(p))
		}
	}
}

func testWaitContext(t *fixture) {
	p := t.home()
	const span = 300 * time.Millisecond
	start, returns := time.Now(), 0
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	for {
		err := t.log.Wait(ctx, p, t.head(p))
		returns++
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Wait = %v, want %v", err, context.DeadlineExceeded)
			}
			break
		}
		if time.Since(start) > patience {
			t.Fatalf("Wait goes on returning nil after its context ended")
		}
	}
	if took := time.Since(start); took < span || took > span+patience/2 {
		t.Errorf("Wait gave up after %v, want about %v", took, span)
	}
	if returns > 300 {
		t.Errorf("Wait returned %d times in %v with nothing new, want it to wait", returns, span)
	}
}

func testWaitWakesUp(t *fixture) {
	p := t.home()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const waiters = 5
	head := t.head(p)
	errs := make(chan error, waiters)
	for range waiters {
		go func() { errs <- t.waitPast(ctx, p, head) }()
	}
	t.pause(30 * time.Millisecond) // most likely all wait by now; if not, it must work too
	t.fill(one("a", "s", "T", 1))
	for range waiters {
		if err := <-errs; err != nil {
			t.Errorf("waiting for the head to pass %v: %v", head, err)
		}
	}
}

// testWaitMissesNothing plays ping-pong: each append is made only when the one
// before it was seen, so one lost wake-up ends the game.
func testWaitMissesNothing(t *fixture) {
	p := t.home()
	const rounds = 50
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ready, seen := make(chan event.Position), make(chan error, 1)
	wg.Go(func() {
		for after := range ready {
			seen <- t.waitPast(ctx, p, after)
		}
	})
	defer close(ready)
	for i := range rounds {
		ready <- t.head(p)
		if i%2 == 1 {
			t.pause(time.Duration(i) * 20 * time.Microsecond)
		}
		t.fill(one("a", "s", "T", 1))
		if err := <-seen; err != nil {
			t.Fatalf("round %d: %v: a wake-up was missed", i, err)
		}
	}
}
