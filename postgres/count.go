package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
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
)` + countedTenants

// countTenantsIn is countTenants of a bucket of each tenant's streams: $6 the moduli, 0
// for all events, $7 the remainders of 2^64, $8 the residues. Of events without a hash
// it is not known which bucket they are in: a tenant that has any is counted as -1.
const countTenantsIn = selectFrontier + `, c AS (
	SELECT u.ord, CASE WHEN c.unknown THEN -1 ELSE c.n END AS n, (SELECT v.recorded_at FROM {schema}.events v WHERE v.position = c.first) AS oldest
	FROM f CROSS JOIN unnest($2::text[], $3::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) WITH ORDINALITY u(tenant, after, modulus, overflow, residue, ord) CROSS JOIN LATERAL (
		SELECT count(*) FILTER (WHERE e.own) AS n, min(e.position) FILTER (WHERE e.own) AS first, coalesce(bool_or(e.own IS NULL), false) AS unknown FROM (
			SELECT e.position, u.modulus = 0 OR (e.stream_hash % nullif(u.modulus, 0) + u.modulus + CASE WHEN e.stream_hash < 0 THEN u.overflow ELSE 0 END)
				% nullif(u.modulus, 0) = u.residue AS own
			FROM {schema}.events e WHERE e.tenant = u.tenant
				AND (e.tenant, e.position) > (u.tenant, u.after) AND (e.tenant, e.position) <= (u.tenant, least(f.safe, $4))
				ORDER BY e.tenant, e.position LIMIT $5::integer
		) e
	) c
)` + countedTenants

const countedTenants = ` SELECT ` + frontierColumns + `, c.n, c.oldest
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
	modulus, more, residue := make([]int64, len(tenants)), make([]int64, len(tenants)), make([]int64, len(tenants))
	sql := countTenants
	for i, t := range tenants {
		b := t.Bucket
		whole := b == nil || !b.ByStream                                                                      // or nothing
		if after[i] = int64(t.After); storable(t.Tenant) && (b == nil || b.ByStream || b.Has(t.Tenant, "")) { // else there is none
			names[i] = t.Tenant
		}
		if !whole {
			sql = countTenantsIn
			modulus[i], more[i], residue[i] = int64(b.Modulus), overflow(int64(b.Modulus)), int64(b.Residue)
		}
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	var n []int64
	var oldest []*time.Time
	err := db.behindFrontier(ctx, func(safe int64) row {
		args := []any{safe, names, after, int64(until), limit}
		if sql == countTenantsIn {
			args = append(args, modulus, more, residue)
		}
		return db.pool.QueryRow(ctx, db.planned(sql, safe), args...)
	}, &n, &oldest)
	if err != nil {
		return nil, err
	}
	if len(n) != len(tenants) {
		return nil, fmt.Errorf("postgres: count for %d tenants: %d answers", len(tenants), len(n))
	}
	out := make([]eventlog.Counted, len(tenants))
	for i := range out {
		if n[i] < 0 {
			f := eventlog.Filter{Tenants: []string{names[i]}, Buckets: []eventlog.Bucket{*tenants[i].Bucket}}
			if out[i].Events, out[i].Oldest, err = db.Count(ctx, 0, f, tenants[i].After, until, limit); err != nil {
				return nil, err
			}
			continue
		}
		if out[i].Events = int(n[i]); oldest[i] != nil {
			out[i].Oldest = oldest[i].UTC()
		}
	}
	return out, nil
}

// mostUnhashed is of how many events without hashes the names come, to be hashed here.
const mostUnhashed = 100_000

// countBuckets is Count of some buckets: the server counts the events that have hashes,
// and of others says how many there are of each stream.
func (db *DB) countBuckets(ctx context.Context, in *eventlog.Filter, f filter, after, until event.Position, limit int) (n int, oldest time.Time, err error) {
	counted, known, unknown := db.sql.countedAll, []string{"false"}, "true"
	args := []any{int64(after), int64(until), limit}
	if !f.all() {
		counted, args = db.sql.countedFound, append(args, f.few, f.tenants, f.exclude, f.types, f.classes)
	}
	if groups := groupBuckets(in.Buckets); groups != nil && db.mapped == nil {
		known, unknown = nil, "false"
		for _, g := range groups {
			known = append(known, g.condition(len(args)+2))
			unknown += " OR " + g.column() + " IS NULL"
			args = append(args, g.args()...)
		}
	} else {
		args[2] = min(limit, mostUnhashed)
	}
	sql := counted + fmt.Sprintf(countedBuckets, unknown, strings.Join(known, " OR "))
	var tenants, streams []*string
	var counts, firsts []int64
	limited, cancel := db.limit(ctx)
	defer cancel()
	err = db.behindFrontier(limited, func(safe int64) row {
		return db.pool.QueryRow(limited, db.planned(sql, safe), append([]any{safe}, args...)...)
	}, &tenants, &streams, &counts, &firsts)
	if err != nil {
		return 0, time.Time{}, db.fault(limited, "count", err)
	}
	first := int64(math.MaxInt64)
	for i := range counts {
		if tenants[i] != nil && !slices.ContainsFunc(in.Buckets, func(b eventlog.Bucket) bool { return b.Has(*tenants[i], *streams[i]) }) {
			continue
		}
		n += int(counts[i])
		first = min(first, firsts[i])
	}
	if n == 0 {
		return 0, time.Time{}, nil
	}
	page, err := db.Read(ctx, eventlog.ReadRequest{After: event.Position(first - 1), Until: event.Position(first), MaxEvents: 1, MaxEventBytes: 1})
	if err == nil && len(page.Events) > 0 {
		oldest = page.Events[0].RecordedAt
	}
	return n, oldest, err
}

// countedBuckets ends a statement that has what is to be counted as e: %[1]s are events
// without hashes, by stream, %[2]s those in the buckets, which come as one row.
const countedBuckets = `, g AS (
	SELECT CASE WHEN %[1]s THEN e.tenant END AS tenant, CASE WHEN %[1]s THEN e.stream END AS stream, count(*) AS n, min(e.position) AS first
		FROM e WHERE %[1]s OR %[2]s GROUP BY 1, 2
) SELECT ` + frontierColumns + `, g.tenants, g.streams, g.n, g.firsts FROM f CROSS JOIN (
	SELECT array_agg(g.tenant) AS tenants, array_agg(g.stream) AS streams, array_agg(g.n) AS n, array_agg(g.first) AS firsts FROM g) g`
