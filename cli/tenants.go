package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// tenantJSON is a tenant in JSON.
type tenantJSON struct {
	Tenant     string          `json:"tenant"`
	Weight     float64         `json:"weight"`
	Pool       string          `json:"pool,omitempty"`
	Documents  int64           `json:"documents"`
	Behind     int64           `json:"behind"` // in the processor that is furthest behind
	Lag        float64         `json:"lag_seconds"`
	Parked     int             `json:"parked_keys"`
	Processors []tenantInOwner `json:"lanes"` // of its own
}

type tenantInOwner struct {
	Processor string      `json:"processor"`
	State     store.State `json:"state"`
	Reason    string      `json:"reason,omitempty"`
}

func (p *program) tenantsCommand() *cobra.Command {
	var after string
	var limit int
	c := &cobra.Command{
		Use:   "tenants [TENANT...]",
		Short: "Show the tenants: documents, lag, weight, lanes of their own",
		Long: `Show tenants by name: those given, or all that have documents. BEHIND and LAG are
those of the processor in which the tenant is furthest behind.`,
		Example: `  $NAME tenants --db shop.db
  $NAME tenants acme --json`,
		Args: between(0, 1000),
	}
	p.named(c)
	c.Flags().StringVar(&after, "after", "", "only names above this `TENANT`: the last one of the page before")
	c.Flags().IntVar(&limit, "limit", 1000, "at most `N`")
	c.AddCommand(p.addTenantCommand(), p.moveTenantCommand(), p.removeTenantCommand())
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, args []string) error {
		if limit < 1 {
			return Usagef("--limit %d: at least 1 is needed", limit)
		}
		ps, err := p.processors(ctx, db, "")
		if err != nil {
			return err
		}
		names := args
		for _, t := range names {
			if err := p.seen(ctx, db, t); err != nil {
				return err
			}
		}
		if len(args) == 0 {
			if names, err = tenantsAfter(ctx, db, ps, after, limit); err != nil {
				return err
			}
		}
		rows, err := tenantRows(ctx, db, p.log(db), ps, names)
		if err != nil {
			return err
		}
		if p.JSON {
			page := struct {
				Tenants []tenantJSON `json:"tenants"`
				Next    string       `json:"next,omitempty"` // what --after gets for the next page
			}{Tenants: rows}
			if len(args) == 0 && len(rows) == limit {
				page.Next = rows[len(rows)-1].Tenant
			}
			return p.writeJSON(page)
		}
		t := newTable(p.Stdout, "TENANT", "WEIGHT", "POOL", "DOCUMENTS", "BEHIND", "LAG", "PARKED KEYS", "LANES OF ITS OWN")
		for _, r := range rows {
			var own []string
			for _, l := range r.Processors {
				own = append(own, fmt.Sprintf("%s (%s)", l.Processor, l.State))
			}
			t.row(r.Tenant, r.Weight, r.Pool, r.Documents, r.Behind, seconds(r.Lag), r.Parked, strings.Join(own, ", "))
		}
		return t.flush()
	})
}

// tenantsAfter returns the tenants that have documents in any collection.
func tenantsAfter(ctx context.Context, db Database, ps []store.Processor, after string, limit int) ([]string, error) {
	set := map[string]bool{}
	for _, proc := range ps {
		if proc.Collection == "" || proc.CrossTenant {
			continue
		}
		names, err := db.Tenants(ctx, proc.Collection, after, limit)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			set[n] = true
		}
	}
	all := sortedKeys(set)
	return all[:min(limit, len(all))], nil
}

func tenantRows(ctx context.Context, db Database, log eventlog.Log, ps []store.Processor, names []string) ([]tenantJSON, error) {
	rows := make([]tenantJSON, len(names))
	var lanes []store.Lane
	err := db.View(ctx, func(tx store.Tx) error {
		weights, err := tx.Weights()
		if err != nil {
			return err
		}
		if lanes, err = tx.Lanes(""); err != nil {
			return err
		}
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		for i, name := range names {
			rows[i] = tenantJSON{Tenant: name, Weight: 1, Pool: pools[name], Processors: []tenantInOwner{}}
			if w, ok := weights[name]; ok {
				rows[i].Weight = w
			}
			for _, proc := range ps {
				live := store.Build{Processor: proc.Name, Number: proc.Live}
				n, err := tx.CountDocuments(live, name)
				if err != nil {
					return err
				}
				rows[i].Documents += n
				parked, err := tx.Parked(live, name)
				if err != nil {
					return err
				}
				rows[i].Parked += len(parked)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	counter, counts := log.(eventlog.Counter)
	for i := range rows {
		for _, proc := range ps {
			own := map[int]bool{}
			for _, l := range lanes {
				if l.Processor == proc.Name && l.Number == proc.Live && l.Tenant == rows[i].Tenant {
					own[l.Partition] = true
					rows[i].Processors = append(rows[i].Processors, tenantInOwner{proc.Name, l.State, l.Reason})
				}
			}
			if !counts {
				continue
			}
			var behind int64
			for j := range lanes {
				l := &lanes[j]
				mine := l.Tenant == rows[i].Tenant || (l.Tenant == "" && !own[l.Partition])
				if l.Processor != proc.Name || l.Number != proc.Live || !mine {
					continue
				}
				n, lag, known, err := tenantBehind(ctx, log, counter, &proc, l, rows[i].Tenant)
				if err != nil {
					return nil, err
				}
				if rows[i].Lag = max(rows[i].Lag, lag.Seconds()); known {
					behind += n
				} else { // each lane counts the others' too
					behind = max(behind, n)
				}
			}
			rows[i].Behind = max(rows[i].Behind, behind)
		}
	}
	return rows, nil
}

// tenantBehind returns a tenant's backlog in a lane. Where it is not known which of the
// tenant's events are the lane's, it is all of them.
func tenantBehind(ctx context.Context, log eventlog.Log, counter eventlog.Counter, proc *store.Processor, l *store.Lane, tenant string) (n int64, lag time.Duration, known bool, err error) {
	parts, err := log.Partitions(ctx)
	if err != nil {
		return 0, 0, false, err
	}
	part := l.Partition
	if parts == 1 {
		part = 0
	}
	head, err := log.Head(ctx, part)
	if err != nil {
		return 0, 0, false, err
	}
	f := eventlog.Filter{Tenants: []string{tenant}}
	bucket, known := lane.Bucket(proc, l, parts)
	if head <= l.Position || bucket != nil && !bucket.ByStream && !bucket.Has(tenant, "") {
		return 0, 0, known, nil
	}
	if bucket != nil && bucket.ByStream {
		f.Buckets = []eventlog.Bucket{*bucket}
	}
	counted, oldest, err := counter.Count(ctx, part, f, l.Position, event.Unbounded, fairlead.BehindLimit)
	if err != nil || counted == 0 {
		return 0, 0, known, err
	}
	return int64(counted), time.Since(oldest), known, nil
}
