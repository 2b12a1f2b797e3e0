package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// joinEvery is how often a member does more than extend its lease, although there
// is nothing new to tell of it.
const joinEvery = 20 * time.Minute

func (e *Engine) member() store.Member {
	return store.Member{ID: e.id, Host: e.cfg.Name, Notes: e.notes(time.Now()).String()}
}

// heartbeats keeps the process's lease, whatever its lanes are doing, and the others'. What
// there is to tell besides is told beside it: that waits for all other Updates of the store,
// for longer than a lease where there are many.
func (e *Engine) heartbeats(ctx context.Context) {
	tick := time.NewTicker(e.cfg.Lease / 3)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	telling, news, told, joined := false, false, make(chan struct{}, 1), time.Now()
	for {
		select {
		case <-tick.C:
		case <-e.changed: // the others are to know of the new processor now
		case <-told:
			if telling = false; !news {
				continue
			}
			news = false
		case <-ctx.Done():
			return
		}
		waited := e.untold()
		m := e.member()
		has, kept, err := e.keep(ctx)
		switch {
		case err != nil:
			e.unbeaten(ctx, err)
		case telling: // whatever the store has now, it is about to have something else
			news = true
		case kept && has == m.Notes && time.Since(joined) <= joinEvery: // else somebody must forget those who died long ago
			e.toldAll(waited)
		default:
			telling, joined = true, time.Now()
			wg.Go(func() {
				switch err := e.join(ctx); {
				case err == nil || ctx.Err() != nil:
				case kept:
					e.logger.Error("the others were not told what is new of this process; it tries again", "error", err)
					e.outdated(err)
				default:
					e.unbeaten(ctx, err)
				}
				told <- struct{}{}
			})
		}
	}
}

func (e *Engine) unbeaten(ctx context.Context, err error) {
	if ctx.Err() == nil {
		e.logger.Error("heartbeat failed: another process may take over", "error", err)
		e.outdated(err)
	}
}

// keep extends the lease, and returns the notes that the store has.
func (e *Engine) keep(ctx context.Context) (notes string, kept bool, err error) {
	e.mu.Lock()
	known := slices.Clone(e.known)
	e.mu.Unlock()
	return lane.Keep(ctx, e.store, e.id, e.cfg.Lease, known...)
}

// join tells the others what this process is and has now. One at a time does, so that what
// is told last is what was last.
func (e *Engine) join(ctx context.Context) error {
	select {
	case e.joining <- struct{}{}:
		defer func() { <-e.joining }()
	case <-ctx.Done():
		return ctx.Err()
	}
	waited := e.untold()
	m := e.member()
	e.mu.Lock()
	e.known = append(e.known[:min(len(e.known), 2)], m.Notes) // the store may have them without an answer
	e.mu.Unlock()
	if err := lane.Join(ctx, e.store, m, e.cfg.Lease); err != nil {
		return err
	}
	e.mu.Lock()
	e.known = []string{m.Notes}
	e.mu.Unlock()
	e.toldAll(waited)
	return nil
}
