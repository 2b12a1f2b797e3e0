package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// countAtOnce is for how many tenants one statement counts: more would take long,
// where they are far behind.
const countAtOnce = 1000

// $2 the tenants, $3 the position of each, $4 until, $5 the limit. Rows are compared
// so that no other index than that of the tenants fits.
const countTenants = selectFrontier + `, c AS (
	SELECT u.ord, c.n, (SELECT v.recorded_at FROM {schema}.events v WHERE v.position = c.first) AS oldest
	FROM f CROSS JOIN unnest($2::text[], $3::bigint[]) WITH ORDINALITY u(tenant, after, ord) CROSS JOIN LATERAL (
		SELECT count(*) AS n, min(e.position) AS first FROM (
			SELECT e.position FROM {schema}.events e WHERE e.tenant = u.tenant
				AND (e.tenant, e.position) > (u.tenant, u.after) AND (e.tenant, e.position) <= (u.tenant, least(f.safe, $4))
				ORDER BY e.tenant, e.position LIMIT $5::integer
		) e
	) c
) SELECT ` + frontierColumns + `, c.n, c.oldest
FROM f CROSS JOIN (SELECT array_agg(c.n ORDER BY c.ord) AS n, array_agg(c.oldest ORDER BY c.ord) AS oldest FROM c) c`

// CountTenants implements [eventlog.TenantCounter].
func (db *DB) CountTenants(ctx context.Context, partition int, tenants []eventlog.TenantAfter, until event.Position, limit int) ([]eventlog.Counted, error) {
	if err := checkCall(ctx, partition); err != nil {
		return nil, err
	}
	out := make([]eventlog.Counted, 0, len(tenants))
	for part := range slices.Chunk(tenants, countAtOnce) {
		counted, err := db.countTenants(ctx, part, until, max(0, min(limit, math.MaxInt32)))
		if err != nil {
			return nil, db.fault(ctx, fmt.Sprintf("count for %d tenants", len(tenants)), err)
		}
		out = append(out, counted...)
	}
	return out, nil
}

func (db *DB) countTenants(ctx context.Context, tenants []eventlog.TenantAfter, until event.Position, limit int) ([]eventlog.Counted, error) {
	names, after := make([]string, len(tenants)), make([]int64, len(tenants))
	for i, t := range tenants {
		if after[i] = int64(t.After); storable(t.Tenant) { // else there is none
			names[i] = t.Tenant
		}
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	var n []int64
	var oldest []*time.Time
	err := db.behindFrontier(ctx, func(safe int64) row {
		return db.pool.QueryRow(ctx, db.planned(countTenants, safe), safe, names, after, int64(until), limit)
	}, &n, &oldest)
	if err != nil {
		return nil, err
	}
	if len(n) != len(tenants) {
		return nil, fmt.Errorf("postgres: count for %d tenants: %d answers", len(tenants), len(n))
	}
	out := make([]eventlog.Counted, len(tenants))
	for i := range out {
		if out[i].Events = int(n[i]); oldest[i] != nil {
			out[i].Oldest = oldest[i].UTC()
		}
	}
	return out, nil
}
