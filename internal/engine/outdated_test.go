package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// A newerStore becomes one that a newer program has changed: some statements do not
// fit any more.
type newerStore struct {
	store.Store
	commits, rows, beats atomic.Bool // which do not
}

func (s *newerStore) fail(is *atomic.Bool) error {
	if is.Load() {
		return fmt.Errorf("no such column: %w", store.ErrNewerSchema)
	}
	return nil
}

func (s *newerStore) Commit(ctx context.Context, c *store.Commit) error {
	if err := s.fail(&s.commits); err != nil {
		return err
	}
	return s.Store.Commit(ctx, c)
}

func (s *newerStore) View(ctx context.Context, f func(store.Tx) error) error {
	if err := s.fail(&s.rows); err != nil {
		return err
	}
	return s.Store.View(ctx, f)
}

func (s *newerStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	if err := s.fail(&s.beats); err != nil {
		return false, err
	}
	return s.Store.Extend(ctx, id, notes, ttl)
}

// TestOutdated: a program that does not fit the store any more ends, whichever of its
// statements it is, and says so; another one has its lanes at once.
func TestOutdated(t *testing.T) {
	react := Processor{Name: "p", React: func(context.Context, Delivery) error { return nil }}
	for _, tt := range []struct {
		name  string
		p     Processor
		which func(s *newerStore) *atomic.Bool
	}{
		{"a projection's commit", Processor{Name: "p", Projection: tallies("p", false)}, func(s *newerStore) *atomic.Bool { return &s.commits }},
		{"a reactor's commit", react, func(s *newerStore) *atomic.Bool { return &s.commits }},
		{"the rows", react, func(s *newerStore) *atomic.Bool { return &s.rows }},
		{"the heartbeat", react, func(s *newerStore) *atomic.Bool { return &s.beats }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				s := &newerStore{Store: r.st}
				e, err := New(Config{Log: r.log, Store: s, Name: "old"})
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Add(t.Context(), tt.p); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- e.Run(t.Context()) }()
				r.append("t", "s", added{})
				time.Sleep(time.Second)
				tt.which(s).Store(true)
				r.append("t", "s", added{})
				select {
				case err := <-ended:
					if !errors.Is(err, store.ErrNewerSchema) {
						t.Errorf("Run = %v, want %v", err, store.ErrNewerSchema)
					}
				case <-time.After(2 * time.Minute):
					t.Fatal("Run goes on")
				}
				for _, l := range r.lanes("p") {
					if l.Owner != "" {
						t.Errorf("lane %v has the owner %q still", l.LaneID, l.Owner)
					}
				}
				next := r.engine("new")
				if err := next.Add(t.Context(), tt.p); err != nil {
					t.Fatal(err)
				}
				defer r.run(next)()
				r.append("t", "s", added{})
				time.Sleep(5 * time.Second)
				for _, l := range r.lanes("p") {
					if l.Position < 3 {
						t.Errorf("lane %v is at %d, want 3", l.LaneID, l.Position)
					}
				}
			})
		})
	}
}
