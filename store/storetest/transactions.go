package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

func runTransactions(sub func(string, func(*fixture))) {
	sub("UpdateRollsBackOnError", testUpdateError)
	sub("UpdateRollsBackOnPanic", testUpdatePanic)
	sub("UpdateSeesItsOwnWrites", testUpdateSees)
	sub("UpdateContextEnded", testUpdateContext)
	sub("ViewRejectsWrites", testViewRejects)
	sub("Now", testNow)
	sub("Revision", testRevision)
	sub("Changed", testChanged)
	sub("Extend", testExtend)
}

var errTest = errors.New("error of the test")

// change is one kind of write, on what populate has put.
type change struct {
	name string
	do   func(store.Tx) error
}

// populate fills a store with something of everything, and returns all kinds of
// writes, each of which changes something.
func (t *fixture) populate() []change {
	t.Helper()
	t.setup("p", "q")
	t.put(base("p"), doc("a", "1", "one"), doc("a", "2", "two"), doc("b", "1", "one"), doc("", "1", "one"))
	letters := t.addLetters(base("p"), letterOf(base("p"), "a", "k"), letterOf(base("p"), "a", "k"))
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutMember(store.Member{ID: "m", Until: moment(1)}), tx.PutWeight("a", 2), tx.PutWeight("b", 3), tx.PutPool("a", "gold"))
	})
	letter := t.letters(store.LetterFilter{})[0]
	letter.Attempts = 99
	newLane := base("p")
	newLane.Tenant = "new"
	return []change{
		{"PutProcessor, new", func(tx store.Tx) error { return tx.PutProcessor(store.Processor{Name: "r"}) }},
		{"PutProcessor, old", setLive("q", 3)},
		{"PutLane, new", func(tx store.Tx) error { return tx.PutLane(store.Lane{LaneID: newLane, State: store.Running}) }},
		{"PutLane, old", func(tx store.Tx) error {
			return tx.PutLane(store.Lane{LaneID: base("p"), Epoch: 77, State: store.Held, Exclusions: map[string]event.Position{"a": 1}})
		}},
		{"PutLetter", func(tx store.Tx) error { return tx.PutLetter(letter) }},
		{"PutMember, new", func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "n", Until: moment(2)}) }},
		{"PutMember, old", func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "m", Until: moment(3)}) }},
		{"PutWeight, new", func(tx store.Tx) error { return tx.PutWeight("c", 4) }},
		{"PutShard", func(tx store.Tx) error { return tx.PutShard("c", "s") }},
		{"PutWeight, old", func(tx store.Tx) error { return tx.PutWeight("a", 5) }},
		{"PutWeight, to 1", func(tx store.Tx) error { return tx.PutWeight("b", 1) }},
		{"PutPool, new", func(tx store.Tx) error { return tx.PutPool("c", "gold") }},
		{"PutPool, old", func(tx store.Tx) error { return tx.PutPool("a", "silver") }},
		{"PutPool, to none", func(tx store.Tx) error { return tx.PutPool("a", "") }},
		{"MoveDocuments", func(tx store.Tx) error { return tx.MoveDocuments(build("p"), 2, "a") }},
		{"DeleteDocuments, some", func(tx store.Tx) error { _, err := tx.DeleteDocuments(numbered("p", 2).Build, "a", 1); return err }},
		{"DeleteDocuments, all", func(tx store.Tx) error { _, err := tx.DeleteDocuments(build("p"), "", 0); return err }},
		{"DeleteLetters", func(tx store.Tx) error { return tx.DeleteLetters(letters) }},
		{"DeleteMember", func(tx store.Tx) error { return tx.DeleteMember("m") }},
		{"DeleteLane", func(tx store.Tx) error { return tx.DeleteLane(base("q")) }},
		{"DeleteProcessor", func(tx store.Tx) error { return tx.DeleteProcessor("q") }},
	}
}

func testUpdateError(t *fixture) {
	changes := t.populate()
	before, revision := t.snapshot(), t.revision()
	err := t.s.Update(t.Context(), func(tx store.Tx) error {
		for _, c := range changes {
			if err := c.do(tx); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		return errTest
	})
	if err != errTest { //nolint:errorlint // the very error is wanted, not one that wraps it
		t.Errorf("Update = %v, want the very error of its function", err)
	}
	t.unchanged(before, "Update with all kinds of writes and an error")
	if got := t.revision(); got != revision {
		t.Errorf("Revision after an Update that failed = %d, want %d", got, revision)
	}
	t.update(changes[0].do) // and the store goes on
}

func testUpdatePanic(t *fixture) {
	changes := t.populate()
	before, revision := t.snapshot(), t.revision()
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v", r)
			}
		}()
		return t.s.Update(t.Context(), func(tx store.Tx) error {
			for _, c := range changes {
				if err := c.do(tx); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
			panic("boom")
		})
	}()
	if err == nil {
		t.Error("Update whose function panics = nil, want the panic or an error")
	}
	t.unchanged(before, "Update with all kinds of writes and a panic")
	if got := t.revision(); got != revision {
		t.Errorf("Revision after an Update that panicked = %d, want %d", got, revision)
	}
	t.update(changes[0].do)
}

func testUpdateSees(t *fixture) {
	t.populate()
	t.update(func(tx store.Tx) error {
		id := base("p")
		id.Tenant = "new"
		if err := tx.PutLane(store.Lane{LaneID: id, Position: 5, State: store.Running}); err != nil {
			return err
		}
		if l, err := tx.Lane(id); err != nil || l.Position != 5 {
			t.Errorf("Lane after PutLane = %s, %v, want position 5", fields(l), err)
		}
		if err := tx.DeleteLane(id); err != nil {
			return err
		}
		if l, err := tx.Lane(id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Lane after DeleteLane = %s, %v, want ErrNotFound", fields(l), err)
		}
		if err := tx.MoveDocuments(build("p"), 2, "a"); err != nil {
			return err
		}
		old, err1 := tx.CountDocuments(build("p"), "")
		moved, err2 := tx.CountDocuments(numbered("p", 2).Build, "")
		if old != 2 || moved != 2 {
			t.Errorf("after MoveDocuments the builds have %d and %d documents, want 2 and 2", old, moved)
		}
		return errors.Join(err1, err2)
	})
}

func testUpdateContext(t *fixture) {
	changes := t.populate()
	before := t.snapshot()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := t.s.Update(ctx, changes[0].do); !errors.Is(err, context.Canceled) {
		t.Errorf("Update = %v, want %v", err, context.Canceled)
	}
	t.unchanged(before, "Update with an ended context")
	if err := t.s.View(ctx, func(store.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("View = %v, want %v", err, context.Canceled)
	}
}

func testViewRejects(t *fixture) {
	changes := t.populate()
	before, revision := t.snapshot(), t.revision()
	for _, c := range changes {
		t.Run(c.name, func(sub *testing.T) {
			t := t.with(sub)
			var write error
			err := t.s.View(t.Context(), func(tx store.Tx) error { write = c.do(tx); return nil })
			if write == nil {
				t.Errorf("the write in a View = nil (View = %v), want an error", err)
			}
		})
	}
	t.unchanged(before, "writes in a View")
	if got := t.revision(); got != revision {
		t.Errorf("Revision after writes in a View = %d, want %d", got, revision)
	}
	if err := t.s.View(t.Context(), func(store.Tx) error { return errTest }); err != errTest { //nolint:errorlint // as above
		t.Errorf("View = %v, want the very error of its function", err)
	}
}

func testNow(t *fixture) {
	t.setup("p")
	check := func(tx store.Tx) error {
		now := tx.Now()
		if !about(now) {
			t.Errorf("Now = %v, want about now", now)
		}
		if _, err := tx.Lanes(""); err != nil {
			return err
		}
		if again := tx.Now(); !again.Equal(now) {
			t.Errorf("Now = %v and then %v, want the same through the transaction", now, again)
		}
		return nil
	}
	t.update(check)
	t.view(check)
}

func testRevision(t *fixture) {
	changes := t.populate()
	last := t.revision()
	for _, c := range changes {
		t.Run(c.name, func(sub *testing.T) {
			t := t.with(sub)
			t.update(c.do)
			if got := t.revision(); got <= last {
				t.Errorf("Revision after an Update that wrote = %d, want above %d", got, last)
			}
			last = t.revision()
		})
	}
	for name, quiet := range map[string]func() error{
		"View": func() error {
			return t.s.View(t.Context(), func(tx store.Tx) error { _, err := tx.Lanes(""); return err })
		},
		"Update that only reads": func() error {
			return t.s.Update(t.Context(), func(tx store.Tx) error { _, err := tx.Lanes(""); return err })
		},
		"List":     func() error { _, err := t.s.List(t.Context(), "p", "a", "", 10); return err },
		"Revision": func() error { _, err := t.s.Revision(t.Context()); return err },
	} {
		if err := quiet(); err != nil {
			t.Fatalf("%s = %v", name, err)
		}
		if got := t.revision(); got != last {
			t.Errorf("Revision after %s = %d, want %d", name, got, last)
			last = got
		}
	}
	t.commit(base("p"), func(c *store.Commit) {
		l := store.Lane{LaneID: c.Lane, State: store.Running, Position: c.Position}
		l.Tenant = "leaves"
		c.Detach = []store.Lane{l}
	})
	if got := t.revision(); got <= last {
		t.Errorf("Revision after a Commit that detaches = %d, want above %d", got, last)
		last = got
	}
	t.commit(base("p"), func(*store.Commit) {}) // may raise it, may not
	if got := t.revision(); got < last {
		t.Errorf("Revision after a Commit = %d, want at least %d", got, last)
	}
}

// testChanged: who waits is told of another revision, and of nothing else.
func testChanged(t *fixture) {
	changes := t.populate()
	last := t.revision()
	for _, known := range []int64{-1, last - 1, last + 1} { // the last: of a store that was restored from a copy
		if got, err := t.s.Changed(t.Context(), known); got != last || err != nil {
			t.Errorf("Changed(%d) = %d, %v, want %d at once", known, got, err, last)
		}
	}
	type answer struct {
		revision int64
		err      error
	}
	waiting := func(ctx context.Context) <-chan answer {
		out := make(chan answer, 1)
		go func() {
			n, err := t.s.Changed(ctx, last)
			out <- answer{n, err}
		}()
		return out
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	quiet := waiting(ctx)
	if ok, err := t.s.Extend(t.Context(), "m", "", time.Minute); ok || err != nil { // its lease ended long ago
		t.Errorf("Extend = %v, %v, want false", ok, err)
	}
	t.view(func(tx store.Tx) error { _, err := tx.Lanes(""); return err })
	if got := <-quiet; !errors.Is(got.err, context.DeadlineExceeded) {
		t.Errorf("Changed while nothing changes = %d, %v, want %v", got.revision, got.err, context.DeadlineExceeded)
	}
	for range 3 {
		two := []<-chan answer{waiting(t.Context()), waiting(t.Context())}
		t.update(changes[0].do)
		now := t.revision()
		for _, c := range two {
			select {
			case got := <-c:
				if got.revision != now || got.err != nil {
					t.Errorf("Changed = %d, %v, want %d", got.revision, got.err, now)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("Changed has not returned 5 s after an Update")
			}
		}
		last = now
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := t.s.Changed(ctx, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("Changed with an ended context = %v, want %v", err, context.Canceled)
	}
}

// testExtend: only a lease that has not ended is extended, of the member that is
// meant, and nobody is told.
func testExtend(t *fixture) {
	var now time.Time
	m := store.Member{ID: "m", Host: "h", Since: moment(1), Notes: `{"processors":["p"]}`}
	t.update(func(tx store.Tx) error {
		now = tx.Now()
		m.Until = now.Add(time.Minute)
		other, ended := m, m
		other.ID, ended.ID, ended.Until = "other", "ended", now.Add(-time.Microsecond)
		return errors.Join(tx.PutMember(m), tx.PutMember(other), tx.PutMember(ended))
	})
	members := func() (out []store.Member) {
		t.view(func(tx store.Tx) (err error) { now = tx.Now(); out, err = tx.Members(); return err })
		return out
	}
	before, revision := members(), t.revision()
	for _, tt := range []struct{ name, id, notes string }{
		{"other notes", "m", `{}`},
		{"no such member", "n", m.Notes},
		{"ended", "ended", m.Notes},
	} {
		if ok, err := t.s.Extend(t.Context(), tt.id, tt.notes, time.Hour); ok || err != nil {
			t.Errorf("%s: Extend = %v, %v, want false", tt.name, ok, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, err := t.s.Extend(ctx, "m", m.Notes, time.Hour); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("Extend with an ended context = %v, %v, want %v", ok, err, context.Canceled)
	}
	if got := members(); !reflect.DeepEqual(got, before) {
		t.Errorf("members after Extend that must do nothing: %+v, want %+v", got, before)
	}
	begun := now
	if ok, err := t.s.Extend(t.Context(), "m", m.Notes, time.Hour); !ok || err != nil {
		t.Fatalf("Extend = %v, %v, want true", ok, err)
	}
	got := members() // by id: ended, m, other
	if end := got[1].Until; end.Before(begun.Add(time.Hour-time.Millisecond)) || end.After(now.Add(time.Hour+time.Millisecond)) {
		t.Errorf("the lease was extended by an hour at %v to %v and ends at %v", begun, now, end)
	}
	got[1].Until = before[1].Until
	if !reflect.DeepEqual(got, before) {
		t.Errorf("Extend has changed more than the end of the lease: %+v, want %+v", got, before)
	}
	if got := t.revision(); got != revision {
		t.Errorf("Revision after Extend = %d, want %d: everybody would look at all rows", got, revision)
	}
}
