package fairlead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead-dev/fairlead/event"
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
	Every   time.Duration // default 1 s; less often where it takes long
	Logger  *slog.Logger  // default: says nothing

	// Start returns where a log partition begins: nothing up to there can be read any
	// more. With it the keeper has the ledger forget sandboxes that are closed, when no
	// event that they have processed is in the log, and Store is past them. Store must
	// then be the service's only baseline. Nil: the ledger keeps them for ever.
	Start func(ctx context.Context, partition int) (event.Position, error)

	// Bind has changes of routes take effect where events carry routing keys, as that of a
	// Kafka log does: those too that another service has made, and in partitions that were
	// added. Nil: consumers do so when they come to an event that carries the key.
	Bind func(ctx context.Context, names []string) error
}

// Settled is what became of letters of routed events.
type Settled = lane.Settled

// Run settles until ctx ends, and returns ctx's error.
func (k RouteKeeper) Run(ctx context.Context) error {
	logger := cmp.Or(k.Logger, slog.New(slog.DiscardHandler))
	forgot := time.Time{}
	for {
		began := time.Now()
		forget := began.Sub(forgot) >= forgetEvery
		n, err := k.settle(ctx, forget)
		if forget {
			forgot = began
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			logger.Error("events that are routed to sandboxes were not settled: their letters wait", "error", err)
		case n.Released > 0:
			logger.Info("events of sandboxes that are gone", "released", n.Released, "policy", string(cmp.Or(k.Policy, ledger.TakeOver)))
		}
		// Letters that stay are looked at each time: however many there are, that takes a
		// tenth of the time at most.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(cmp.Or(k.Every, time.Second), 9*time.Since(began))):
		}
	}
}

// forgetEvery is how often a keeper looks for what the ledger can forget.
const forgetEvery = time.Minute

// Settle does it once. A sandbox that cannot be closed or read keeps its letters, and
// those of the others are settled; its error is returned.
func (k RouteKeeper) Settle(ctx context.Context) (n Settled, err error) { return k.settle(ctx, true) }

func (k RouteKeeper) settle(ctx context.Context, forget bool) (n Settled, err error) {
	read := func(ctx context.Context, hosts []string) ([]ledger.Sandbox, error) {
		return k.Ledger.Sandboxes(ctx, k.Log, k.Service, hosts)
	}
	var errs []error
	if k.Bind != nil {
		if err := k.Bind(ctx, nil); err != nil {
			errs = append(errs, err)
		}
	}
	all, err := read(ctx, nil)
	if err != nil {
		return n, errors.Join(append(errs, err)...)
	}
	closed := false
	for i := range all {
		if s := &all[i]; s.Open && s.Expired {
			ended, err := k.Ledger.End(ctx, s.ID, ledger.Expired)
			if err != nil {
				errs = append(errs, fmt.Errorf("close sandbox %q: %w", s.Host, err))
			}
			closed = closed || ended
		}
	}
	if closed {
		if all, err = read(ctx, nil); err != nil {
			return n, err
		}
	}
	known := lane.Registrations{All: all, Lanes: k.Ledger.Lanes, Newest: read, Start: k.Start}
	if n, err = lane.SettleRouted(ctx, k.Store, cmp.Or(k.Policy, ledger.TakeOver), known); err != nil {
		return n, errors.Join(append(errs, err)...)
	}
	if forget && k.Start != nil {
		ids, err := lane.Forgettable(ctx, k.Store, known)
		for i := 0; err == nil && i < len(ids); i++ {
			err = k.Ledger.Forget(ctx, ids[i])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("forget sandboxes that are gone: %w", err))
		}
	}
	if forget && k.Start != nil && k.Bind != nil {
		upTo, err := lane.Unread(ctx, k.Store, known)
		if err == nil {
			err = k.Ledger.ForgetKeys(ctx, k.Log, k.Service, upTo)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("forget what routing keys stood for: %w", err))
		}
	}
	return n, errors.Join(errs...)
}
