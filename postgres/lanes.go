package postgres

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

const processorColumns = "name, kind, collection, partitions, live, last_build, rebuild, rebuild_tenant, retired, cross_tenant, version, paused, builds"

func scanProcessor(row pgx.CollectableRow) (p store.Processor, err error) {
	var builds string
	err = row.Scan(&p.Name, &p.Kind, &p.Collection, &p.Partitions, &p.Live, &p.LastBuild, &p.Rebuild, &p.RebuildTenant, &p.Retired,
		&p.CrossTenant, &p.Version, &p.Paused, &builds)
	if err == nil {
		err = p.Builds.Decode(builds)
	}
	return p, err
}

// Processor implements [store.Tx].
func (tx *storeTx) Processor(name string) (p store.Processor, err error) {
	found, err := tx.row("SELECT "+processorColumns+" FROM {schema}.processors WHERE name = $1", func(row pgx.CollectableRow) (err error) {
		p, err = scanProcessor(row)
		return err
	}, name)
	if err == nil && !found {
		err = fmt.Errorf("postgres: processor %q: %w", name, store.ErrNotFound)
	}
	return p, err
}

// Processors implements [store.Tx].
func (tx *storeTx) Processors() (out []store.Processor, err error) {
	err = tx.rows("SELECT "+processorColumns+" FROM {schema}.processors ORDER BY name", func(row pgx.CollectableRow) error {
		p, err := scanProcessor(row)
		out = append(out, p)
		return err
	})
	return out, err
}

// PutProcessor implements [store.Tx]. A collection that is new gets its table
// and its view here.
func (tx *storeTx) PutProcessor(p store.Processor) error {
	if err := tx.writable(); err != nil {
		return err
	}
	builds, err := p.Builds.Encode()
	if err != nil {
		return err
	}
	var unlike bool // its relations are not there, or have another collection's name
	_, err = tx.row(`INSERT INTO {schema}.processors AS p (`+processorColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
		ON CONFLICT (name) DO UPDATE SET (kind, collection, partitions, live, last_build, rebuild, rebuild_tenant, retired, cross_tenant, version, paused, builds) =
		(excluded.kind, excluded.collection, excluded.partitions, excluded.live, excluded.last_build, excluded.rebuild, excluded.rebuild_tenant,
		 excluded.retired, excluded.cross_tenant, excluded.version, excluded.paused, excluded.builds)
		RETURNING p.collection <> coalesce(p.shown, '')`,
		func(row pgx.CollectableRow) error { return row.Scan(&unlike) },
		p.Name, p.Kind, p.Collection, p.Partitions, p.Live, p.LastBuild, p.Rebuild, p.RebuildTenant, append([]int64{}, p.Retired...),
		p.CrossTenant, readable(p.Version), p.Paused, builds)
	if err != nil || !unlike {
		return err
	}
	return tx.makeCollection(p.Name, p.Collection)
}

// DeleteProcessor implements [store.Tx]. Its collection's table and view go too;
// it is an error where a view of the user's own reads them.
func (tx *storeTx) DeleteProcessor(name string) error {
	if err := tx.writable(); err != nil {
		return err
	}
	if err := tx.dropCollection(name); err != nil {
		return err
	}
	_, err := tx.exec("DELETE FROM {schema}.processors WHERE name = $1", name)
	return err
}

const laneColumns = "processor, number, partition, tenant, epoch, position, done, exclusions, revision, state, reason, pinned, owner, applied_at, modulus, wanted, stop_at, home"

func scanLane(row pgx.CollectableRow) (l store.Lane, err error) {
	var exclusions []byte
	var applied, updated *time.Time
	err = row.Scan(&l.Processor, &l.Number, &l.Partition, &l.Tenant, &l.Epoch, (*int64)(&l.Position), &l.Done, &exclusions, &l.Revision,
		(*string)(&l.State), &l.Reason, &l.Pinned, &l.Owner, &applied,
		&l.Of, &l.Want, (*int64)(&l.Until), &l.Home, &updated)
	if err == nil && exclusions != nil {
		err = json.Unmarshal(exclusions, &l.Exclusions)
	}
	l.AppliedAt, l.UpdatedAt = utc(applied), utc(updated)
	return l, err
}

// laneArgs are the values of laneColumns.
func laneArgs(l *store.Lane) []any {
	var exclusions []byte
	if len(l.Exclusions) > 0 {
		exclusions = encodeExclusions(l.Exclusions)
	}
	return []any{
		l.Processor, l.Number, l.Partition, l.Tenant, l.Epoch, int64(l.Position), l.Done, exclusions, l.Revision,
		string(l.State), readable(l.Reason), l.Pinned, l.Owner, timeOrNil(l.AppliedAt),
		l.Of, l.Want, int64(l.Until), l.Home,
	}
}

// readable makes a text of anything that is for people only: it may quote what a
// handler said, which may quote anything.
func readable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

const (
	insertLane = `INSERT INTO {schema}.lanes (` + laneColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`
	putLane    = insertLane + ` ON CONFLICT (processor, number, partition, tenant) DO UPDATE
		SET (epoch, position, done, exclusions, revision, state, reason, pinned, owner, applied_at, modulus, wanted, stop_at, home) =
		    (excluded.epoch, excluded.position, excluded.done, excluded.exclusions, excluded.revision, excluded.state, excluded.reason,
		     excluded.pinned, excluded.owner, excluded.applied_at, excluded.modulus, excluded.wanted, excluded.stop_at, excluded.home)`
	thisLane = " WHERE processor = $1 AND number = $2 AND partition = $3 AND tenant = $4"
)

// locked ends a query for lanes: an Update locks what it reads.
func (tx *storeTx) locked(query string) string {
	if tx.update {
		query += " FOR UPDATE"
	}
	return query
}

// Lane implements [store.Tx].
func (tx *storeTx) Lane(id store.LaneID) (l store.Lane, err error) {
	if err := tx.unsettled[id]; err != nil {
		return l, err
	}
	found, err := tx.row(tx.locked("SELECT "+laneColumns+", updated_at FROM {schema}.lanes"+thisLane), func(row pgx.CollectableRow) (err error) {
		l, err = scanLane(row)
		return err
	}, id.Processor, id.Number, id.Partition, id.Tenant)
	if err == nil && !found {
		err = fmt.Errorf("postgres: lane %v: %w", id, store.ErrNotFound)
	}
	return l, err
}

// LanesOf is what [store.LanesOf] calls. It locks the rows in the order of their key.
func (tx *storeTx) LanesOf(ids []store.LaneID) (map[store.LaneID]store.Lane, error) {
	n := len(ids)
	processors, numbers, partitions, tenants := make([]string, n), make([]int64, n), make([]int32, n), make([]string, n)
	for i, id := range ids {
		if err := tx.unsettled[id]; err != nil {
			return nil, err
		}
		processors[i], numbers[i], partitions[i], tenants[i] = id.Processor, id.Number, int32(id.Partition), id.Tenant
	}
	out := make(map[store.LaneID]store.Lane, n)
	err := tx.rows(tx.locked("SELECT "+laneColumns+`, updated_at FROM {schema}.lanes
		WHERE (processor, number, partition, tenant) IN (SELECT * FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[]))
		ORDER BY processor, number, partition, tenant`), func(row pgx.CollectableRow) error {
		l, err := scanLane(row)
		out[l.LaneID] = l
		return err
	}, processors, numbers, partitions, tenants)
	return out, err
}

// Lanes implements [store.Tx].
func (tx *storeTx) Lanes(processor string) (out []store.Lane, err error) {
	query, args := "SELECT "+laneColumns+", updated_at FROM {schema}.lanes", []any{}
	if processor != "" {
		query, args = query+" WHERE processor = $1", append(args, processor)
	}
	err = tx.rows(tx.locked(query+" ORDER BY processor, number, partition, tenant"), func(row pgx.CollectableRow) error {
		l, err := scanLane(row)
		out = append(out, l)
		return err
	}, args...)
	return out, err
}

// PutLane implements [store.Tx]. It keeps the UpdatedAt of a lane that is there.
func (tx *storeTx) PutLane(l store.Lane) error {
	l.Done = slices.Clone(l.Done) // the caller's, who may go on with it
	return tx.later(putLane, laneArgs(&l)...)
}

// DeleteLane implements [store.Tx].
func (tx *storeTx) DeleteLane(id store.LaneID) error {
	return tx.later("DELETE FROM {schema}.lanes"+thisLane, id.Processor, id.Number, id.Partition, id.Tenant)
}

// Members implements [store.Tx].
func (tx *storeTx) Members() (out []store.Member, err error) {
	err = tx.rows("SELECT id, valid_until, host, since, notes FROM {schema}.members ORDER BY id", func(row pgx.CollectableRow) error {
		var m store.Member
		var until, since *time.Time
		err := row.Scan(&m.ID, &until, &m.Host, &since, &m.Notes)
		m.Until, m.Since = utc(until), utc(since)
		out = append(out, m)
		return err
	})
	return out, err
}

// PutMember implements [store.Tx].
func (tx *storeTx) PutMember(m store.Member) error {
	return tx.later(`INSERT INTO {schema}.members (id, valid_until, host, since, notes) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET valid_until = excluded.valid_until, host = excluded.host, since = excluded.since, notes = excluded.notes`,
		m.ID, timeOrNil(m.Until), readable(m.Host), timeOrNil(m.Since), m.Notes)
}

// DeleteMember implements [store.Tx].
func (tx *storeTx) DeleteMember(id string) error {
	return tx.later("DELETE FROM {schema}.members WHERE id = $1", id)
}

// Weights implements [store.Tx].
func (tx *storeTx) Weights() (map[string]float64, error) {
	out := make(map[string]float64)
	err := tx.rows("SELECT tenant, weight FROM {schema}.weights", func(row pgx.CollectableRow) error {
		var tenant string
		var weight float64
		err := row.Scan(&tenant, &weight)
		out[tenant] = weight
		return err
	})
	return out, err
}

// PutWeight implements [store.Tx].
func (tx *storeTx) PutWeight(tenant string, weight float64) error {
	if weight == 1 {
		_, err := tx.exec("DELETE FROM {schema}.weights WHERE tenant = $1", tenant)
		return err
	}
	_, err := tx.exec("INSERT INTO {schema}.weights (tenant, weight) VALUES ($1, $2) ON CONFLICT (tenant) DO UPDATE SET weight = excluded.weight", tenant, weight)
	return err
}

// Shards implements [store.Tx].
func (tx *storeTx) Shards(tenants []string) (map[string]string, error) {
	out := make(map[string]string)
	err := tx.rows("SELECT tenant, shard FROM {schema}.shards WHERE tenant = ANY($1)", func(row pgx.CollectableRow) error {
		var tenant, shard string
		err := row.Scan(&tenant, &shard)
		out[tenant] = shard
		return err
	}, tenants)
	return out, err
}

// ShardNames implements [store.Tx].
func (tx *storeTx) ShardNames() (names []string, err error) {
	err = tx.rows(`SELECT DISTINCT shard FROM {schema}.shards ORDER BY shard`, func(row pgx.CollectableRow) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}

// PutShard implements [store.Tx].
func (tx *storeTx) PutShard(tenant, shard string) error {
	_, err := tx.exec("INSERT INTO {schema}.shards (tenant, shard) VALUES ($1, $2) ON CONFLICT (tenant) DO UPDATE SET shard = excluded.shard", tenant, shard)
	return err
}

// Pools implements [store.Tx].
func (tx *storeTx) Pools() (map[string]string, error) {
	out := make(map[string]string)
	err := tx.rows("SELECT tenant, pool FROM {schema}.pools", func(row pgx.CollectableRow) error {
		var tenant, pool string
		err := row.Scan(&tenant, &pool)
		out[tenant] = pool
		return err
	})
	return out, err
}

// PutPool implements [store.Tx].
func (tx *storeTx) PutPool(tenant, pool string) error {
	if pool == "" {
		_, err := tx.exec("DELETE FROM {schema}.pools WHERE tenant = $1", tenant)
		return err
	}
	_, err := tx.exec("INSERT INTO {schema}.pools (tenant, pool) VALUES ($1, $2) ON CONFLICT (tenant) DO UPDATE SET pool = excluded.pool", tenant, pool)
	return err
}

// ofBuild is a condition for the documents of a build, $1, and a tenant, $2 ("":
// all).
func ofBuild(tenant string) string {
	if tenant == "" {
		return "build = $1 AND $2::text = ''"
	}
	return "build = $1 AND tenant = $2::text"
}

// CountDocuments implements [store.Tx].
func (tx *storeTx) CountDocuments(b store.Build, tenant string) (n int64, err error) {
	t, err := tx.table(b.Processor)
	if err != nil || t.name == "" {
		return 0, err
	}
	_, err = tx.row(t.q(tx.db, "SELECT count(*) FROM {table} WHERE "+ofBuild(tenant)), func(row pgx.CollectableRow) error {
		return row.Scan(&n)
	}, planned, b.Number, tenant)
	return n, err
}

// DeleteDocuments implements [store.Tx].
func (tx *storeTx) DeleteDocuments(b store.Build, tenant string, limit int) (int64, error) {
	if err := tx.writable(); err != nil {
		return 0, err
	}
	t, err := tx.table(b.Processor)
	if err != nil || t.name == "" {
		return 0, err
	}
	args := []any{planned, b.Number, tenant}
	if limit <= 0 {
		return tx.execFor(tx.ctx, t.q(tx.db, "DELETE FROM {table} WHERE "+ofBuild(tenant)), args...) // however many they are
	}
	return tx.exec(t.q(tx.db, `DELETE FROM {table} AS d
		USING (SELECT build, tenant, id FROM {table} WHERE `+ofBuild(tenant)+` ORDER BY build, tenant, id LIMIT $3) AS k
		WHERE d.build = k.build AND d.tenant = k.tenant AND d.id = k.id`), append(args, limit)...)
}

// MoveDocuments implements [store.Tx].
func (tx *storeTx) MoveDocuments(from store.Build, to int64, tenant string) error {
	if err := tx.writable(); err != nil {
		return err
	}
	n, err := tx.CountDocuments(store.Build{Processor: from.Processor, Number: to}, tenant)
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("postgres: move documents of tenant %q to build %d of %q: it has %d of the tenant", tenant, to, from.Processor, n)
	}
	t, err := tx.table(from.Processor)
	if err != nil || t.name == "" {
		return err
	}
	_, err = tx.execFor(tx.ctx, t.q(tx.db, "UPDATE {table} SET build = $3 WHERE "+ofBuild(tenant)), planned, from.Number, tenant, to)
	return err
}
