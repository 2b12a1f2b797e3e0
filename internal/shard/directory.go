// Package shard spreads tenants over several stores: a directory says which
// tenant is in which, and a log shows each store the events of its own tenants
// only. The engine knows nothing of it.
package shard

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// A Directory says in which shard a tenant is. The resolver is asked when a tenant
// has no row in the control store: its answer is written there before any event
// of the tenant is looked at, and the first answer written is the one that holds,
// for all processes. So an event is in exactly one shard, whatever the resolver
// says later.
type Directory struct {
	control store.Store
	resolve func(ctx context.Context, tenant string) (string, error)
	found   func(shard string) // is told of every shard that a tenant was found in
	asking  chan struct{}      // one at a time asks, for what others have just asked too

	mu    sync.RWMutex
	known map[string]string // tenant -> shard
}

// NewDirectory returns the directory that is kept in control. Found is called
// with the shard of each tenant that was not known to this process.
func NewDirectory(control store.Store, resolve func(ctx context.Context, tenant string) (string, error), found func(shard string)) *Directory {
	return &Directory{control: control, resolve: resolve, found: found, asking: make(chan struct{}, 1), known: map[string]string{}}
}

// Find returns the shards of tenants, in their order. A name that can be no
// tenant's is in the control store's shard, "": there its events are parked.
func (d *Directory) Find(ctx context.Context, tenants ...string) ([]string, error) {
	shards := make([]string, len(tenants))
	var missing []string
	d.mu.RLock()
	for i, t := range tenants {
		var ok bool
		if shards[i], ok = d.known[t]; !ok {
			missing = append(missing, t)
		}
	}
	d.mu.RUnlock()
	if missing == nil {
		return shards, nil
	}
	if err := d.learn(ctx, missing); err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for i, t := range tenants {
		shards[i] = d.known[t]
	}
	return shards, nil
}

func (d *Directory) learn(ctx context.Context, missing []string) error {
	select {
	case d.asking <- struct{}{}:
		defer func() { <-d.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	slices.Sort(missing)
	missing = slices.Compact(missing)
	d.mu.Lock()
	missing = slices.DeleteFunc(missing, func(t string) bool {
		if event.CheckTenant(t) != nil {
			d.known[t] = ""
		}
		_, ok := d.known[t]
		return ok
	})
	d.mu.Unlock()
	var rows map[string]string
	if len(missing) > 0 {
		err := d.control.View(ctx, func(tx store.Tx) (err error) { rows, err = tx.Shards(missing); return err })
		if err != nil {
			return fmt.Errorf("directory of shards: %w", err)
		}
	}
	answers := map[string]string{}
	for _, t := range missing {
		if _, ok := rows[t]; ok {
			continue
		}
		shard, err := d.resolve(ctx, t)
		if err != nil {
			return fmt.Errorf("the shard of tenant %q is not known, its events and those behind them wait: %w", t, err)
		}
		answers[t] = shard
	}
	if len(answers) > 0 {
		err := d.control.Update(ctx, func(tx store.Tx) (err error) {
			if rows, err = tx.Shards(missing); err != nil {
				return err
			}
			for _, t := range missing {
				if _, ok := rows[t]; ok {
					continue // another process was first: its answer holds
				}
				if err := tx.PutShard(t, answers[t]); err != nil {
					return err
				}
				rows[t] = answers[t]
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("directory of shards: %w", err)
		}
	}
	d.mu.Lock()
	maps.Copy(d.known, rows)
	d.mu.Unlock()
	for _, s := range rows {
		d.found(s)
	}
	return nil
}

// Look returns the shard of a tenant, if it is decided.
func (d *Directory) Look(ctx context.Context, tenant string) (shard string, ok bool, err error) {
	d.mu.RLock()
	shard, ok = d.known[tenant]
	d.mu.RUnlock()
	if ok {
		return shard, true, nil
	}
	err = d.control.View(ctx, func(tx store.Tx) error {
		rows, err := tx.Shards([]string{tenant})
		shard, ok = rows[tenant]
		return err
	})
	return shard, ok, err
}

// Known returns the shards that have tenants, by name.
func (d *Directory) Known(ctx context.Context) (shards []string, err error) {
	err = d.control.View(ctx, func(tx store.Tx) (err error) { shards, err = tx.ShardNames(); return err })
	return shards, err
}
