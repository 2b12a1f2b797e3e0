package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// poolJSON is a worker pool in JSON.
type poolJSON struct {
	Pool    string   `json:"pool"`
	Tenants []string `json:"tenants"`
	Members []string `json:"members"` // live processes
}

func (p *program) poolCommand() *cobra.Command {
	var unseen bool
	set := &cobra.Command{
		Use:   "set TENANT POOL",
		Short: "Give a tenant to a worker pool",
		Long: `Give a tenant to a worker pool: in every processor it gets a lane of its own,
which only processes of that pool work (run --pool). It may be busy, paused or
in a rebuild: nothing is lost, doubled or reordered. Projections across tenants
stay with the shared processes. While no process of the pool runs, the tenant's
lanes stand still, and status says so.`,
		Example: `  $NAME pool set acme gold`,
		Args:    between(2, 2),
	}
	p.named(set)
	set.Flags().BoolVar(&unseen, "unseen", false, "also if the log has no event of the tenant yet")
	p.onDatabase(set, Write, func(ctx context.Context, db Database, args []string) error {
		tenant, pool := args[0], args[1]
		if !unseen {
			if err := p.seen(ctx, db, tenant); err != nil {
				return fmt.Errorf("%w; --unseen does it all the same", err)
			}
		}
		shared, err := p.admin(db).SetPool(ctx, tenant, pool)
		if err != nil {
			return explain(err)
		}
		members, err := p.admin(db).Members(ctx)
		if err != nil {
			return err
		}
		live := []string{}
		for i := range members {
			if m := &members[i]; m.Alive && m.Pool == pool {
				live = append(live, m.ID)
			}
		}
		if p.JSON {
			if shared == nil {
				shared = []string{}
			}
			return p.writeJSON(map[string]any{"done": "pool", "tenant": tenant, "pool": pool, "stay_shared": shared, "members": live})
		}
		text := fmt.Sprintf("tenant %q is given to the pool %q", tenant, pool)
		if len(shared) > 0 {
			text += fmt.Sprintf("; projections across tenants stay shared: %s", strings.Join(shared, ", "))
		}
		if len(live) == 0 {
			text += fmt.Sprintf("; no process of it runs now, so the tenant waits: start one with --pool %s", pool)
		}
		return p.done(nil, "%s", text)
	})

	clearing := &cobra.Command{
		Use:   "clear TENANT",
		Short: "Give a tenant back to the shared processes",
		Long: `Give a tenant back to the processes without a pool. Its lanes merge with those
of the others as soon as they have caught up.`,
		Example: `  $NAME pool clear acme`,
		Args:    between(1, 1),
	}
	p.named(clearing)
	p.onDatabase(clearing, Write, func(ctx context.Context, db Database, args []string) error {
		if err := p.admin(db).ClearPool(ctx, args[0]); err != nil {
			return explain(err)
		}
		return p.done(action{Done: "pool cleared", Tenant: args[0]}, "tenant %q is given back to the shared processes", args[0])
	})

	list := &cobra.Command{
		Use:     "list",
		Short:   "Show the worker pools: their tenants and live processes",
		Long:    "Show the worker pools that have tenants or live processes.",
		Example: `  $NAME pool list`,
		Args:    between(0, 0),
	}
	p.named(list)
	p.onDatabase(list, Read, func(ctx context.Context, db Database, _ []string) error {
		rows, err := p.pools(ctx, db)
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(map[string]any{"pools": rows})
		}
		t := newTable(p.Stdout, "POOL", "TENANTS", "LIVE PROCESSES")
		for _, r := range rows {
			t.row(r.Pool, strings.Join(r.Tenants, ", "), strings.Join(r.Members, ", "))
		}
		return t.flush()
	})

	return group(&cobra.Command{
		Use:   "pool",
		Short: "Give tenants to worker pools",
		Long:  "Give tenants to worker pools: groups of processes that work these tenants and no others.",
	}, set, clearing, list)
}

// pools returns the pools by name.
func (p *program) pools(ctx context.Context, db Database) ([]poolJSON, error) {
	tenants, err := p.admin(db).Pools(ctx)
	if err != nil {
		return nil, err
	}
	members, err := p.admin(db).Members(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]*poolJSON{}
	pool := func(name string) *poolJSON {
		if byName[name] == nil {
			byName[name] = &poolJSON{Pool: name, Tenants: []string{}, Members: []string{}}
		}
		return byName[name]
	}
	for _, t := range sortedKeys(tenants) {
		r := pool(tenants[t])
		r.Tenants = append(r.Tenants, t)
	}
	for i := range members {
		if m := &members[i]; m.Alive && m.Pool != "" {
			r := pool(m.Pool)
			r.Members = append(r.Members, m.ID)
		}
	}
	rows := []poolJSON{}
	for _, name := range sortedKeys(byName) {
		rows = append(rows, *byName[name])
	}
	return rows, nil
}
