package fairlead

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A RouteKeeper is the baseline's part in a route ledger beside reading it: it closes
// the registrations of sandboxes whose leases have ended, and settles the letters of
// events that are routed to sandboxes. Any number of processes may have one.
type RouteKeeper struct {
	Store   store.Store // the baseline's
	Ledger  ledger.Ledger
	Log     string // the log's name in the ledger
	Service string
	Policy  ledger.Policy // for events that their sandbox has not processed; default [ledger.TakeOver]
	Every   time.Duration // default 1 s
	Logger  *slog.Logger  // default: says nothing
}

// Settled is what became of letters of routed events.
type Settled = lane.Settled

// Run settles until ctx ends, and returns ctx's error.
func (k RouteKeeper) Run(ctx context.Context) error {
	logger := cmp.Or(k.Logger, slog.New(slog.DiscardHandler))
	tick := time.NewTicker(cmp.Or(k.Every, time.Second))
	defer tick.Stop()
	for {
		n, err := k.Settle(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			logger.Error("events that are routed to sandboxes were not settled: their letters wait", "error", err)
		case n.Released > 0:
			logger.Info("events of sandboxes that are gone", "released", n.Released, "policy", string(cmp.Or(k.Policy, ledger.TakeOver)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Settle does it once.
func (k RouteKeeper) Settle(ctx context.Context) (n Settled, err error) {
	all, err := k.Ledger.Sandboxes(ctx, k.Log, k.Service, nil)
	if err != nil || len(all) == 0 {
		return n, err
	}
	closed := false
	for i := range all {
		if s := &all[i]; s.Open && s.Expired {
			ended, err := k.Ledger.End(ctx, s.ID, ledger.Expired)
			if err != nil {
				return n, fmt.Errorf("close sandbox %q: %w", s.Host, err)
			}
			closed = closed || ended
		}
	}
	if closed {
		if all, err = k.Ledger.Sandboxes(ctx, k.Log, k.Service, nil); err != nil {
			return n, err
		}
	}
	return lane.SettleRouted(ctx, k.Store, all, cmp.Or(k.Policy, ledger.TakeOver), k.Ledger.Lanes)
}
