package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/store"
)

// laneOn returns a lane that has adopted row, for tests without goroutines.
func laneOn(t *testing.T, row store.Lane) *streamLane {
	t.Helper()
	p := &Processor{Name: "r", Concurrency: 4}
	row.Build, row.State = store.Build{Processor: "r", Number: 1}, store.Running
	l := newStreamLane(p, row, newKeyQueue(4))
	l.ctx = context.Background()
	if err := l.adopt(laneView{row: row}); err != nil {
		t.Fatal(err)
	}
	return l
}

// reads takes events in, each of a stream of its own: tenants[i] at from+i.
func (l *streamLane) reads(from event.Position, tenants ...string) {
	var tasks []*task
	var keys []string
	for i, tenant := range tenants {
		p := from + event.Position(i)
		tasks = append(tasks, &task{Event: event.Event{Position: p, Tenant: tenant, ID: fmt.Sprint(p)}})
		keys = append(keys, fmt.Sprint("s", p))
	}
	l.admit(tasks, keys)
	l.advance(from + event.Position(len(tenants)) - 1)
}

// handles runs the events at the positions given, in that order.
func (l *streamLane) handles(t *testing.T, positions ...event.Position) {
	t.Helper()
	for _, p := range positions {
		k := l.keys[store.Key{Tenant: l.tenantOf(p), ID: fmt.Sprint("s", p)}]
		if k == nil {
			t.Fatalf("the event at %v is not in the window", p)
		}
		l.queue.withdraw(l, k.tenant)
		l.begin(k, time.Time{})
		l.finish(k, verdict{}, time.Time{})
		l.goOn(k)
	}
}

func (l *streamLane) tenantOf(p event.Position) string {
	for x := l.first; x != nil; x = x.after {
		if x.Position == p {
			return x.Tenant
		}
	}
	return ""
}

func set(ranges ...event.Position) []byte {
	var s done.Set
	for i := 0; i < len(ranges); i += 2 {
		s.AddRange(ranges[i], ranges[i+1])
	}
	b, _ := s.MarshalBinary()
	return b
}

func runs(t *testing.T, b []byte) string {
	t.Helper()
	var s done.Set
	if err := s.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for r := range s.All() {
		fmt.Fprintf(&out, "(%v,%v]", r.From, r.To)
	}
	return out.String()
}

func TestStreamCommitSaysWhatIsDone(t *testing.T) {
	for _, tt := range []struct {
		name     string
		row      store.Lane
		do       func(l *streamLane)
		position event.Position
		done     string
		detach   string // tenant@position done
	}{
		{"in order", store.Lane{}, func(l *streamLane) {
			l.reads(1, "a", "b", "c")
			l.handles(t, 1, 2)
		}, 2, "", ""},
		{"out of order", store.Lane{}, func(l *streamLane) {
			l.reads(1, "a", "b", "c", "d", "e")
			l.handles(t, 4, 2, 5)
		}, 0, "(1,2](3,5]", ""},
		{"gaps and what is of no interest join runs", store.Lane{}, func(l *streamLane) {
			l.reads(1, "a", "b")
			l.reads(10, "c", "d")
			l.advance(20)
			l.handles(t, 2, 10, 11)
		}, 0, "(1,11]", ""},
		{"a tenant that is elsewhere holds nothing back, and breaks runs", store.Lane{Exclusions: map[string]event.Position{"x": event.Unbounded}}, func(l *streamLane) {
			l.reads(1, "a", "b", "x", "c")
			l.handles(t, 2, 4)
		}, 0, "(1,2](3,4]", ""},
		{"what was done before the restart stays done", store.Lane{Done: set(2, 10)}, func(l *streamLane) {
			l.reads(1, "a", "b", "c", "d", "e")
			l.handles(t, 1, 2)
		}, 5, "(5,10]", ""},
		{"it is not read again", store.Lane{Position: 5, Done: set(5, 7, 8, 9)}, func(l *streamLane) {
			l.reads(6, "a", "b", "c", "d", "e")
			l.handles(t, 10)
		}, 7, "(8,10]", ""},
		{"a tenant leaves before its first event that is not done", store.Lane{}, func(l *streamLane) {
			l.reads(1, "a", "x", "b", "x", "x", "c")
			l.handles(t, 1, 2, 5)
			l.depart("x", leaving{state: store.Running})
		}, 2, "(4,5]", "x@3 (4,5]"},
		{"a tenant that left before begins no earlier than its last lane ended", store.Lane{Exclusions: map[string]event.Position{"x": 7}}, func(l *streamLane) {
			l.reads(1, "a", "x", "b")
			l.handles(t, 1)
			l.depart("x", leaving{state: store.Running})
		}, 2, "", "x@7 "},
		{"while one of its events is in progress a tenant stays", store.Lane{}, func(l *streamLane) {
			l.reads(1, "x", "x", "b")
			l.handles(t, 3)
			k := l.keys[store.Key{Tenant: "x", ID: "s2"}]
			l.queue.withdraw(l, k.tenant)
			l.begin(k, time.Time{})
			l.depart("x", leaving{state: store.Running})
		}, 0, "(2,3]", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := laneOn(t, tt.row)
			tt.do(l)
			c := l.build(false)
			if c == nil {
				t.Fatal("nothing to commit")
			}
			l.complete(c)
			if got := runs(t, c.Done); c.Position != tt.position || got != tt.done {
				t.Errorf("commit at %v, done %s; want at %v, done %s", c.Position, got, tt.position, tt.done)
			}
			var detach strings.Builder
			for _, d := range c.Detach {
				fmt.Fprintf(&detach, "%s@%v %s", d.Tenant, d.Position, runs(t, d.Done))
			}
			if detach.String() != tt.detach {
				t.Errorf("detach %q, want %q", detach.String(), tt.detach)
			}
			// A refusal takes nothing away, and what was committed is not again.
			l.refused(c)
			again := l.build(false)
			l.complete(again)
			if again.Position != c.Position || runs(t, again.Done) != runs(t, c.Done) || len(again.Detach) != len(c.Detach) {
				t.Errorf("after a refusal: %+v, want %+v", again.Commit, c.Commit)
			}
			l.tidy(again)
			l.committed(again)
			if x := l.build(false); x != nil {
				t.Errorf("after the commit there is another one: %+v", x.Commit)
			}
		})
	}
}

// A tenant that comes back is read again from where its lane ended, in its place
// in the order, but for what was done.
func TestStreamCommitAfterATenantCameBack(t *testing.T) {
	l := laneOn(t, store.Lane{Exclusions: map[string]event.Position{"x": event.Unbounded}})
	l.reads(1, "a", "x", "b", "x", "c", "x")
	l.handles(t, 3, 5)
	row := l.row
	row.Exclusions, row.Revision = map[string]event.Position{"x": 3}, 1
	if err := l.adopt(laneView{row: row}); err != nil {
		t.Fatal(err)
	}
	tenant, r, ok := l.refillNext()
	if !ok || tenant != "x" || r != (done.Range{From: 3, To: 6}) {
		t.Fatalf("refill %q %v %v, want x from 3 to 6", tenant, r, ok)
	}
	l.handles(t, 1)
	if low := l.low(nil); low != 3 {
		t.Errorf("low %v before the refill, want 3", low)
	}
	var tasks []*task
	var keys []string
	for _, p := range []event.Position{2, 4, 6} {
		tasks, keys = append(tasks, &task{Event: event.Event{Position: p, Tenant: "x", ID: fmt.Sprint(p)}}), append(keys, fmt.Sprint("s", p))
	}
	l.readmit("x", tasks, keys, 6)
	var order []event.Position
	for x := l.first; x != nil; x = x.after {
		order = append(order, x.Position)
	}
	if got := fmt.Sprint(order); got != "[4 6]" {
		t.Errorf("undone after the refill: %s, want [4 6]", got)
	}
	l.handles(t, 6)
	c := l.build(false)
	l.complete(c)
	if got := runs(t, c.Done); c.Position != 3 || got != "(4,6]" {
		t.Errorf("commit at %v, done %s; want at 3, done (4,6]", c.Position, got)
	}
}

// While a dead letter is in progress an operator gives it up: it is not tried
// again, whatever became of it, and its key goes on by what the letters say then.
func TestStreamLetterGivenUpInProgress(t *testing.T) {
	id := store.Key{Tenant: "a", ID: "s1"}
	letter := func(n int64) store.DeadLetter {
		return store.DeadLetter{ID: n, Tenant: id.Tenant, Key: id.ID, State: store.Waiting,
			Event: event.Event{Position: event.Position(n), Tenant: id.Tenant, Stream: id.ID, ID: fmt.Sprint(n)}}
	}
	for _, verdict := range []verdict{{err: errFault, pause: time.Second}, {err: errFault, final: true}} {
		for _, others := range []bool{true, false} {
			t.Run(fmt.Sprintf("final=%v, others behind it=%v", verdict.final, others), func(t *testing.T) {
				l := laneOn(t, store.Lane{Position: 10})
				l.p.Poison = ParkKey
				view := laneView{row: l.row, parked: []store.ParkedKey{{Tenant: id.Tenant, Key: id.ID, Retry: true}}}
				adopt := func() {
					t.Helper()
					if err := l.adopt(view); err != nil {
						t.Fatal(err)
					}
				}
				adopt()
				d := l.drainNext()
				if d == nil {
					t.Fatal("nothing is drained")
				}
				d.load, d.loading = false, true
				l.drainLoaded(d, []store.DeadLetter{letter(1), letter(2)})
				now := time.Now()
				turn, _ := l.queue.pop(now)
				l.begin(turn.key, now)
				if !others {
					view.parked = nil
				}
				adopt()
				if !others { // the key flows again, but for what is in progress
					l.admit([]*task{{Event: event.Event{Position: 11, Tenant: id.Tenant, ID: "11"}}}, []string{id.ID})
					l.advance(11)
				}
				l.finish(turn.key, verdict, now)
				l.queue.fair.Done(turn.grant, time.Millisecond, now)
				l.goOn(turn.key)
				if len(l.waiting) > 0 || l.drains[id] != nil && l.drains[id].failed != nil {
					t.Errorf("the letter that was given up is tried again, or its failure is recorded")
				}
				next, ok := l.queue.pop(now)
				switch {
				case others && (ok || l.drainNext() != d || !d.load):
					t.Errorf("the letters of the key are not loaded again: %+v", d)
				case !others && (!ok || next.key.head.Position != 11):
					t.Errorf("the next event of the key is not handed out")
				}
			})
		}
	}
}

// TestStreamDrainOfATenantThatGoes: a tenant of which nothing is in the window
// goes while its dead letters are being loaded. They are not the lane's to
// handle any more.
func TestStreamDrainOfATenantThatGoes(t *testing.T) {
	for name, goes := range map[string]func(*streamLane){
		"claimed":  func(l *streamLane) { l.claim("b") },
		"departed": func(l *streamLane) { l.depart("b", leaving{state: store.Running}) },
	} {
		t.Run(name, func(t *testing.T) {
			row := store.Lane{Position: 10}
			row.State, row.Build = store.Running, store.Build{Processor: "r", Number: 1}
			l := laneOn(t, row)
			parked := store.ParkedKey{Tenant: "b", Key: "s5", Retry: true, Letters: 1}
			if err := l.adopt(laneView{row: l.row, parked: []store.ParkedKey{parked}}); err != nil {
				t.Fatal(err)
			}
			d := l.drainNext()
			if d == nil {
				t.Fatal("no drain")
			}
			d.load, d.loading = false, true
			goes(l)
			l.drainLoaded(d, []store.DeadLetter{{ID: 1, State: store.Poison, Tenant: "b", Key: "s5", Event: event.Event{Position: 5, Tenant: "b", ID: "5"}}})
			if len(l.keys) > 0 || len(l.drains) > 0 {
				t.Errorf("keys %v and drains %v, want none", l.keys, l.drains)
			}
		})
	}
}
