package engine

import (
	"context"
	"errors"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// recut is what the supervisor does now and then for splits and merges.
func (h *simHost) recut() {
	if h.dead {
		return
	}
	if h.s.rng.IntN(4) == 0 {
		clear(h.recuts) // as a process that knows nothing of it
	}
	var v view
	_ = h.s.mem.View(context.Background(), func(tx store.Tx) (err error) {
		if v.procs, err = tx.Processors(); err == nil {
			v.lanes, err = tx.Lanes("")
		}
		return err
	})
	before := len(v.lanes)
	h.e.recuts(context.Background(), &v, h.recuts)
	_ = h.s.mem.View(context.Background(), func(tx store.Tx) error {
		lanes, err := tx.Lanes("")
		if len(lanes) != before {
			h.s.logf("%s: there are %d lanes, and were %d", h.id, len(lanes), before)
		}
		return err
	})
	select {
	case <-h.e.wakes:
	default:
	}
}

// operateParts asks for a partition to be split or merged.
func (s *sim) operateParts(p string) {
	ctx := context.Background()
	var parts []store.Lane
	_ = s.mem.View(ctx, func(tx store.Tx) error {
		row, err := tx.Processor(p)
		if err != nil {
			return err
		}
		all, err := tx.Lanes(p)
		for _, l := range all {
			if l.Number == row.Live && l.Tenant == "" {
				parts = append(parts, l)
			}
		}
		return err
	})
	l := parts[s.rng.IntN(len(parts))]
	var what string
	var err error
	switch n := s.rng.IntN(10); {
	case n == 0:
		what = "cancel cuts"
		_, err = lane.CancelRecut(ctx, s.mem, p)
	case n < 5 && len(parts) < 6 && s.logParts == 1:
		what, err = "split", lane.RequestSplit(ctx, s.mem, p, l.Partition)
	case s.logParts == 1:
		if s.cuts == 2 { // who wants it calls the tenants home
			for _, t := range tenants {
				_, _ = s.free(p, t, lane.Resume), s.free(p, t, lane.Unpin)
			}
		}
		what, err = "merge partition", lane.RequestMerge(ctx, s.mem, p, l.Partition)
	}
	s.logf("%s %s/%d of %d: %v", what, p, l.Partition, l.Of, err)
	if err != nil && !errors.Is(err, lane.ErrState) && !errors.Is(err, lane.ErrUnknown) {
		s.fail("%s: %v", what, err)
	}
}
