package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// catchUpAtMost is how long everything may take to be applied after the last fault.
const catchUpAtMost = 4 * time.Minute

// finish waits until everything is applied, every tenant is back, and every lane has
// an owner that is alive.
func (f *fleet) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpAtMost)
	defer cancel()
	if f.topic == nil {
		if err := f.endPrepared(ctx, 0); err != nil {
			return err
		}
	}
	if err := f.home(ctx); err != nil {
		return err
	}
	heads, err := f.heads(ctx)
	if err != nil {
		return err
	}
	busy := "nothing was seen"
	for {
		now, err := f.busy(ctx, heads)
		switch {
		case err != nil && !f.passing(err) && ctx.Err() == nil:
			return fmt.Errorf("%w: %s", err, busy)
		case err == nil && now == "":
			return nil
		case err == nil:
			busy = now
		}
		f.mu.Lock()
		ended := len(f.ended)
		f.mu.Unlock()
		if ended > 3*len(f.workers) {
			return fmt.Errorf("%d processes have ended by themselves, the first: %w", ended, f.ended[0])
		}
		if rest(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%v after the last fault: %s: %w", catchUpAtMost, busy, ctx.Err())
		}
	}
}

// heads returns the ends of the log's partitions.
func (f *fleet) heads(ctx context.Context) (heads []event.Position, err error) {
	log := f.admin.Log
	n, err := log.Partitions(ctx)
	for i := 0; i < n && err == nil; i++ {
		var head event.Position
		head, err = log.Head(ctx, i)
		heads = append(heads, head)
	}
	return heads, err
}

// home takes back what holds tenants in lanes of their own, and what is asked for
// and may never come.
func (f *fleet) home(ctx context.Context) error {
	pools, err := f.admin.Pools(ctx)
	if err != nil {
		return err
	}
	for t := range pools {
		if err := f.admin.ClearPool(ctx, t); err != nil && !errors.Is(err, fairlead.ErrUnknown) {
			return err
		}
	}
	rows, err := f.admin.Processors(ctx)
	if err != nil {
		return err
	}
	for _, p := range rows {
		if _, err := f.admin.CancelPartitions(ctx, p.Name); err != nil {
			return err
		}
		// A build is made by the version of the code that began it, and no worker has
		// the other one any more.
		if m := p.Builds.Making; p.Rebuild != 0 && m.Claimed && m.Version == otherVersion {
			f.note("%s: the rebuild by version %s is cancelled", p.Name, m.Version)
			if err := f.admin.CancelRebuild(ctx, p.Name); err != nil && !errors.Is(err, fairlead.ErrUnknown) {
				return err
			}
		}
	}
	return nil
}

// busy says what is still to be done, and lets it be done.
func (f *fleet) busy(ctx context.Context, heads []event.Position) (busy string, err error) {
	rows, err := f.admin.Processors(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range rows {
		if p.Paused {
			if err := f.admin.Resume(ctx, p.Name, ""); err != nil {
				return "", err
			}
		}
		if p.Rebuild != 0 || len(p.Retired) > 0 {
			busy = fmt.Sprintf("rebuild %d of %s, retired %v", p.Rebuild, p.Name, p.Retired)
		}
	}
	lanes, err := f.admin.Lanes(ctx, "")
	if err != nil {
		return "", err
	}
	if len(lanes) == 0 {
		busy = "there are no lanes"
	}
	for _, l := range lanes {
		if !l.Live {
			continue // busy says that there is a rebuild
		}
		if l.Tenant != "" {
			for _, err := range []error{f.admin.Resume(ctx, l.Processor, l.Tenant), f.admin.Merge(ctx, l.Processor, l.Tenant)} {
				if err != nil && !errors.Is(err, fairlead.ErrUnknown) {
					return "", err
				}
			}
		}
		head := heads[0]
		if len(heads) > 1 {
			head = heads[l.Partition]
		}
		if l.Position < head || l.Tenant != "" || !l.Alive {
			busy = fmt.Sprintf("lane %v at %v of %v, %s %s, owner %q, alive %t", l.LaneID, l.Position, head, l.State, l.Reason, l.Owner, l.Alive)
		}
	}
	return busy, nil
}

// heal starts the workers with code that can handle what was poison, and has it
// applied.
func (f *fleet) heal(ctx context.Context) error {
	for _, w := range f.workers {
		w.busy.Lock()
		w.leave()
		w.start(healedVar + "=1")
		w.busy.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpAtMost)
	defer cancel()
	for {
		letters, err := f.admin.DeadLetters(ctx, fairlead.LetterFilter{})
		if err != nil {
			return err
		}
		procs, err := f.admin.Processors(ctx)
		if err != nil {
			return err
		}
		letters = slices.DeleteFunc(letters, func(l store.DeadLetter) bool { // a build of before that is kept, is kept with its letters
			return slices.ContainsFunc(procs, func(p store.Processor) bool {
				return p.Name == l.Processor && p.Builds.Kept.Number == l.Number
			})
		})
		if len(letters) == 0 {
			return f.finish(ctx)
		}
		if !slices.ContainsFunc(letters, func(l store.DeadLetter) bool { return l.Retry }) {
			for _, p := range processors {
				if _, err := f.admin.Retry(ctx, p, "", ""); err != nil && !errors.Is(err, fairlead.ErrUnknown) {
					return err
				}
			}
		}
		if rest(ctx, 200*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%d dead letters are left, one of %v: %w", len(letters), letters[0], ctx.Err())
		}
	}
}

// connections returns how many a session of the fleet has, by its name.
func (f *fleet) connections(ctx context.Context) (map[string]int, error) {
	c, err := pgx.Connect(ctx, f.server.URL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	rows, err := c.Query(ctx, "SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name LIKE 'chaos-%' GROUP BY 1")
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	var name string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { all[name] = n; return nil })
	return all, err
}

// none waits until nobody of the fleet is connected any more.
func (f *fleet) none(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		all, err := f.connections(ctx)
		if err == nil && len(all) == 0 {
			return nil
		}
		if rest(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("after the end of all processes there are the connections %v: %w", all, err)
		}
	}
}
