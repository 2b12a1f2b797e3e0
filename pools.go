package fairlead

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/engine"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A Member is a process that runs processors, as operators see it.
type Member struct {
	store.Member
	Alive bool   // its lease has not ended
	Pool  string // of workers that it belongs to; see [Config.Pool]
}

// Members returns the processes by id; those that died are listed for an hour.
func (a Admin) Members(ctx context.Context) (members []Member, err error) {
	err = a.Store.View(ctx, func(tx store.Tx) error {
		rows, err := tx.Members()
		members = nil
		for _, m := range rows {
			members = append(members, Member{Member: m, Alive: m.Until.After(tx.Now()), Pool: engine.PoolOf(&m)})
		}
		return err
	})
	return members, err
}

// liveMembers returns the members whose lease has not ended.
func liveMembers(tx store.Tx) ([]store.Member, error) {
	rows, err := tx.Members()
	return slices.DeleteFunc(rows, func(m store.Member) bool { return !m.Until.After(tx.Now()) }), err
}

// unserved returns why nobody may work a lane that nobody has, "" if somebody may.
func unserved(p *store.Processor, l *Lane, live []store.Member) string {
	making := l.Number == p.Rebuild && p.RebuildTenant == ""
	if making && !p.Builds.Making.Claimed { // by nobody yet
		making = false
	}
	pool := false
	var others []string // versions that are not that of the build
	for i := range live {
		if engine.PoolOf(&live[i]) != l.Pool {
			continue
		}
		pool = true
		if v, ok := engine.VersionOf(&live[i], p.Name); ok && making {
			if v == p.Builds.Making.Version {
				return ""
			}
			if v = fmt.Sprintf("%q", v); !slices.Contains(others, v) {
				others = append(others, v)
			}
		}
	}
	switch {
	case l.Pool != "" && !pool:
		return fmt.Sprintf("no process of pool %q is alive: start one, or clear the tenant's pool", l.Pool)
	case others == nil:
		return ""
	}
	slices.Sort(others)
	what := fmt.Sprintf("build %d is made with version %q of the projection", l.Number, p.Builds.Making.Version)
	have := strings.Join(others, " and ")
	if l.Pool == "" {
		return fmt.Sprintf("%s, and the live processes without a pool have version %s: start one with %q, or cancel the rebuild", what, have, p.Builds.Making.Version)
	}
	return fmt.Sprintf("%s, and the live processes of pool %q have version %s: start one with %q in that pool, clear the tenant's pool, or cancel the rebuild",
		what, l.Pool, have, p.Builds.Making.Version)
}

// SetPool gives a tenant to a worker pool: from then on its events are worked in
// lanes of its own, by processes of that pool only ([Config.Pool]), in every
// processor, also in those and in rebuilds that come later. It may be called at
// any time, while the tenant is busy too: nothing is lost, doubled or reordered.
// While no process of the pool lives the tenant's lanes stand still.
//
// [ErrState] while two partitions of a processor are to be merged, which the
// tenant's new lanes would hold up: wait for that, or cancel it.
//
// Projections across tenants cannot let a tenant go; SetPool returns their names.
// All processes must be of a version that knows pools.
func (a Admin) SetPool(ctx context.Context, tenant, pool string) (shared []string, err error) {
	return lane.SetPool(ctx, a.Store, tenant, pool)
}

// SetPools is [Admin.SetPool] for many tenants at once: for all of them, or none.
// One after another, each of thousands would write what says of all before it that
// they are out.
func (a Admin) SetPools(ctx context.Context, tenants []string, pool string) (shared []string, err error) {
	return lane.SetPools(ctx, a.Store, tenants, pool)
}

// ClearPool gives a tenant back to the processes without a pool; its lanes merge
// with those of the others as soon as they have caught up, also where the tenant
// had been detached by hand before. [ErrUnknown] if it was in no pool.
func (a Admin) ClearPool(ctx context.Context, tenant string) error {
	return lane.ClearPool(ctx, a.Store, tenant)
}

// Pools returns the pools that tenants are given to, by tenant.
func (a Admin) Pools(ctx context.Context) (pools map[string]string, err error) {
	err = a.Store.View(ctx, func(tx store.Tx) (err error) { pools, err = tx.Pools(); return err })
	return pools, err
}
