package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

var (
	errViewWrites = errors.New("sqlite: a view cannot write")
	errTxEnded    = errors.New("sqlite: transaction has ended")
)

// A storeTx is the [store.Tx] of Update, where w is set, and of View.
type storeTx struct {
	ctx   context.Context
	c     *conn
	w     *writer
	now   time.Time
	wrote bool
	ended bool
	err   error // the first of the database: the transaction cannot commit
}

var _ store.Tx = (*storeTx)(nil)

func (tx *storeTx) end() { tx.ended = true }

// Now implements [store.Tx].
func (tx *storeTx) Now() time.Time { return tx.now }

func (tx *storeTx) rows(query string, f func(s *zs.Stmt) error, args ...any) error {
	if tx.ended {
		return errTxEnded
	}
	return tx.note(tx.c.rows(query, f, args...))
}

// exec runs a writing statement and returns how many rows it changed.
func (tx *storeTx) exec(query string, args ...any) (int, error) {
	if err := tx.writable(); err != nil {
		return 0, err
	}
	err := tx.c.exec(query, args...)
	return tx.c.Changes(), tx.note(err)
}

func (tx *storeTx) writable() error {
	switch {
	case tx.ended:
		return errTxEnded
	case tx.w == nil:
		return errViewWrites
	}
	tx.wrote = true
	return nil
}

func (tx *storeTx) note(err error) error {
	err = tx.c.db.fault(tx.ctx, "transaction", err)
	if err != nil && tx.err == nil {
		tx.err = err
	}
	return err
}

const processorColumns = "name, kind, collection, partitions, live, last_build, rebuild, rebuild_tenant, retired, cross_tenant, version, paused, builds"

func scanProcessor(s *zs.Stmt) (p store.Processor, err error) {
	p = store.Processor{
		Name: s.ColumnText(0), Kind: s.ColumnText(1), Collection: s.ColumnText(2), Partitions: s.ColumnInt(3),
		Live: s.ColumnInt64(4), LastBuild: s.ColumnInt64(5), Rebuild: s.ColumnInt64(6), RebuildTenant: s.ColumnText(7),
		CrossTenant: s.ColumnBool(9), Version: s.ColumnText(10), Paused: s.ColumnBool(11),
	}
	if err := errors.Join(json.Unmarshal([]byte(s.ColumnText(8)), &p.Retired), p.Builds.Decode(s.ColumnText(12))); err != nil {
		return p, fmt.Errorf("%w: processor %q: %w", ErrCorrupt, p.Name, err)
	}
	return p, nil
}

// Processor implements [store.Tx].
func (tx *storeTx) Processor(name string) (p store.Processor, err error) {
	found := false
	err = tx.rows("SELECT "+processorColumns+" FROM fairlead_processors WHERE name = ?", func(s *zs.Stmt) (err error) {
		p, err = scanProcessor(s)
		found = true
		return err
	}, name)
	if err == nil && !found {
		err = fmt.Errorf("sqlite: processor %q: %w", name, store.ErrNotFound)
	}
	return p, err
}

// Processors implements [store.Tx].
func (tx *storeTx) Processors() (out []store.Processor, err error) {
	err = tx.rows("SELECT "+processorColumns+" FROM fairlead_processors ORDER BY name", func(s *zs.Stmt) error {
		p, err := scanProcessor(s)
		out = append(out, p)
		return err
	})
	return out, err
}

// PutProcessor implements [store.Tx].
func (tx *storeTx) PutProcessor(p store.Processor) error {
	retired, err := json.Marshal(p.Retired)
	if err != nil {
		return err
	}
	builds, err := p.Builds.Encode()
	if err != nil {
		return err
	}
	_, err = tx.exec("INSERT OR REPLACE INTO fairlead_processors("+processorColumns+") VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		p.Name, p.Kind, p.Collection, p.Partitions, p.Live, p.LastBuild, p.Rebuild, p.RebuildTenant, string(retired), p.CrossTenant, p.Version, p.Paused, builds)
	return err
}

// DeleteProcessor implements [store.Tx].
func (tx *storeTx) DeleteProcessor(name string) error {
	_, err := tx.exec("DELETE FROM fairlead_processors WHERE name = ?", name)
	return err
}

const laneColumns = `lane_no, processor, number, partition, tenant, epoch, position, done, revision, state, reason, pinned, owner, applied_at, updated_at, modulus, wanted, stop_at, home`

const whichLane = "processor = ? AND number = ? AND partition = ? AND tenant = ?"

func scanLane(s *zs.Stmt) (no int64, l store.Lane, err error) {
	l = store.Lane{
		LaneID: store.LaneID{
			Build:     store.Build{Processor: s.ColumnText(1), Number: s.ColumnInt64(2)},
			Partition: s.ColumnInt(3), Tenant: s.ColumnText(4),
		},
		Epoch: s.ColumnInt64(5), Position: event.Position(s.ColumnInt64(6)), Done: columnBytes(s, 7), Revision: s.ColumnInt64(8),
		State: store.State(s.ColumnText(9)), Reason: s.ColumnText(10), Pinned: s.ColumnBool(11), Owner: s.ColumnText(12),
		Of: s.ColumnInt(15), Want: s.ColumnInt(16), Until: event.Position(s.ColumnInt64(17)), Home: s.ColumnText(18),
	}
	if l.AppliedAt, err = columnTime(s, 13); err == nil {
		l.UpdatedAt, err = columnTime(s, 14)
	}
	return s.ColumnInt64(0), l, err
}

// lanes returns the lanes of a query on laneColumns, with their exclusions.
func (tx *storeTx) lanes(where string, args ...any) (out []store.Lane, err error) {
	var nos []int64
	err = tx.rows("SELECT "+laneColumns+" FROM fairlead_lanes"+where, func(s *zs.Stmt) error {
		no, l, err := scanLane(s)
		nos, out = append(nos, no), append(out, l)
		return err
	}, args...)
	for i := 0; i < len(nos) && err == nil; i++ {
		err = tx.rows("SELECT tenant, until FROM fairlead_exclusions WHERE lane_no = ?", func(s *zs.Stmt) error {
			if out[i].Exclusions == nil {
				out[i].Exclusions = make(map[string]event.Position)
			}
			out[i].Exclusions[s.ColumnText(0)] = event.Position(s.ColumnInt64(1))
			return nil
		}, nos[i])
	}
	return out, err
}

// Lane implements [store.Tx]. The transaction itself is the lock.
func (tx *storeTx) Lane(id store.LaneID) (store.Lane, error) {
	found, err := tx.lanes(" WHERE "+whichLane, id.Processor, id.Number, id.Partition, id.Tenant)
	switch {
	case err != nil:
		return store.Lane{}, err
	case len(found) == 0:
		return store.Lane{}, fmt.Errorf("sqlite: lane %v: %w", id, store.ErrNotFound)
	}
	return found[0], nil
}

// Lanes implements [store.Tx].
func (tx *storeTx) Lanes(processor string) ([]store.Lane, error) {
	return tx.lanes(" WHERE ?1 = '' OR processor = ?1 ORDER BY processor, number, partition, tenant", processor)
}

// PutLane implements [store.Tx]. It keeps the UpdatedAt of a lane that is there.
// Of its exclusions it writes only those that change: a base lane may have one
// for each tenant there is.
func (tx *storeTx) PutLane(l store.Lane) error {
	if err := tx.writable(); err != nil {
		return err
	}
	no, found := int64(0), false
	err := tx.rows("SELECT lane_no FROM fairlead_lanes WHERE "+whichLane, func(s *zs.Stmt) error {
		no, found = s.ColumnInt64(0), true
		return nil
	}, l.Processor, l.Number, l.Partition, l.Tenant)
	switch {
	case err != nil:
		return err
	case !found:
		return tx.note(tx.w.insertLane(&l))
	}
	_, err = tx.exec(`UPDATE fairlead_lanes
		SET epoch = ?, position = ?, done = ?, revision = ?, state = ?, reason = ?, pinned = ?, owner = ?, applied_at = ?,
		    modulus = ?, wanted = ?, stop_at = ?, home = ?
		WHERE lane_no = ?`,
		l.Epoch, int64(l.Position), l.Done, l.Revision, string(l.State), l.Reason, l.Pinned, l.Owner, l.AppliedAt,
		l.Of, l.Want, int64(l.Until), l.Home, no)
	if err != nil {
		return err
	}
	var gone []string
	changed := maps.Clone(l.Exclusions)
	err = tx.rows("SELECT tenant, until FROM fairlead_exclusions WHERE lane_no = ?", func(s *zs.Stmt) error {
		tenant := s.ColumnText(0)
		switch until, ok := l.Exclusions[tenant]; {
		case !ok:
			gone = append(gone, tenant)
		case int64(until) == s.ColumnInt64(1):
			delete(changed, tenant)
		}
		return nil
	}, no)
	for i := 0; i < len(gone) && err == nil; i++ {
		_, err = tx.exec("DELETE FROM fairlead_exclusions WHERE lane_no = ? AND tenant = ?", no, gone[i])
	}
	if err == nil {
		err = tx.note(tx.w.putExclusions(no, changed))
	}
	return err
}

// putExclusions adds exclusions to a lane, or changes them.
func (w *writer) putExclusions(lane int64, exclusions map[string]event.Position) error {
	for tenant, until := range exclusions {
		err := w.exec("INSERT OR REPLACE INTO fairlead_exclusions(lane_no, tenant, until) VALUES(?, ?, ?)", lane, tenant, int64(until))
		if err != nil {
			return err
		}
	}
	return nil
}

// insertLane adds a lane that must not be there.
func (w *writer) insertLane(l *store.Lane) error {
	err := w.exec("INSERT INTO fairlead_lanes("+laneColumns+") VALUES(NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?)",
		l.Processor, l.Number, l.Partition, l.Tenant, l.Epoch, int64(l.Position), l.Done, l.Revision, string(l.State), l.Reason,
		l.Pinned, l.Owner, l.AppliedAt, l.Of, l.Want, int64(l.Until), l.Home)
	if err != nil {
		return err
	}
	return w.putExclusions(w.LastInsertRowID(), l.Exclusions)
}

// DeleteLane implements [store.Tx].
func (tx *storeTx) DeleteLane(id store.LaneID) error {
	_, err := tx.exec("DELETE FROM fairlead_exclusions WHERE lane_no = (SELECT lane_no FROM fairlead_lanes WHERE "+whichLane+")",
		id.Processor, id.Number, id.Partition, id.Tenant)
	if err == nil {
		_, err = tx.exec("DELETE FROM fairlead_lanes WHERE "+whichLane, id.Processor, id.Number, id.Partition, id.Tenant)
	}
	return err
}

// Members implements [store.Tx].
func (tx *storeTx) Members() (out []store.Member, err error) {
	err = tx.rows("SELECT id, until, host, since, notes FROM fairlead_members ORDER BY id", func(s *zs.Stmt) error {
		m := store.Member{ID: s.ColumnText(0), Host: s.ColumnText(2), Notes: s.ColumnText(4)}
		var err1, err2 error
		m.Until, err1 = columnTime(s, 1)
		m.Since, err2 = columnTime(s, 3)
		out = append(out, m)
		return errors.Join(err1, err2)
	})
	return out, err
}

// PutMember implements [store.Tx].
func (tx *storeTx) PutMember(m store.Member) error {
	_, err := tx.exec("INSERT OR REPLACE INTO fairlead_members(id, until, host, since, notes) VALUES(?, ?, ?, ?, ?)", m.ID, m.Until, m.Host, m.Since, m.Notes)
	return err
}

// DeleteMember implements [store.Tx].
func (tx *storeTx) DeleteMember(id string) error {
	_, err := tx.exec("DELETE FROM fairlead_members WHERE id = ?", id)
	return err
}

// Weights implements [store.Tx].
func (tx *storeTx) Weights() (map[string]float64, error) {
	out := make(map[string]float64)
	err := tx.rows("SELECT tenant, weight FROM fairlead_weights", func(s *zs.Stmt) error {
		out[s.ColumnText(0)] = s.ColumnFloat(1)
		return nil
	})
	return out, err
}

// PutWeight implements [store.Tx].
func (tx *storeTx) PutWeight(tenant string, weight float64) error {
	if weight == 1 {
		_, err := tx.exec("DELETE FROM fairlead_weights WHERE tenant = ?", tenant)
		return err
	}
	_, err := tx.exec("INSERT OR REPLACE INTO fairlead_weights(tenant, weight) VALUES(?, ?)", tenant, weight)
	return err
}

// Shards implements [store.Tx].
func (tx *storeTx) Shards(tenants []string) (map[string]string, error) {
	out := make(map[string]string)
	for _, t := range tenants {
		err := tx.rows("SELECT shard FROM fairlead_shards WHERE tenant = ?", func(s *zs.Stmt) error {
			out[t] = s.ColumnText(0)
			return nil
		}, t)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ShardNames implements [store.Tx].
func (tx *storeTx) ShardNames() (names []string, err error) {
	err = tx.rows("SELECT DISTINCT shard FROM fairlead_shards ORDER BY shard", func(s *zs.Stmt) error {
		names = append(names, s.ColumnText(0))
		return nil
	})
	return names, err
}

// PutShard implements [store.Tx].
func (tx *storeTx) PutShard(tenant, shard string) error {
	_, err := tx.exec("INSERT OR REPLACE INTO fairlead_shards(tenant, shard) VALUES(?, ?)", tenant, shard)
	return err
}

// Pools implements [store.Tx].
func (tx *storeTx) Pools() (map[string]string, error) {
	out := make(map[string]string)
	err := tx.rows("SELECT tenant, pool FROM fairlead_pools", func(s *zs.Stmt) error {
		out[s.ColumnText(0)] = s.ColumnText(1)
		return nil
	})
	return out, err
}

// PutPool implements [store.Tx].
func (tx *storeTx) PutPool(tenant, pool string) error {
	if pool == "" {
		_, err := tx.exec("DELETE FROM fairlead_pools WHERE tenant = ?", tenant)
		return err
	}
	_, err := tx.exec("INSERT OR REPLACE INTO fairlead_pools(tenant, pool) VALUES(?, ?)", tenant, pool)
	return err
}

// documents returns a condition for the documents of a build (tenant "": of
// all), with its arguments, and false where there are none.
func (tx *storeTx) documents(b store.Build, tenant string) (where string, args []any, ok bool, err error) {
	if tx.ended {
		return "", nil, false, errTxEnded
	}
	no, ok, err := tx.c.int64(findBuild, b.Processor, b.Number)
	if err != nil || !ok {
		return "", nil, false, tx.note(err)
	}
	if tenant == "" {
		return "build_no = ?1", []any{no}, true, nil
	}
	tenantNo, ok, err := tx.c.int64(findTenant, tenant)
	return "build_no = ?1 AND tenant_no = ?2", []any{no, tenantNo}, ok, tx.note(err)
}

// CountDocuments implements [store.Tx].
func (tx *storeTx) CountDocuments(b store.Build, tenant string) (n int64, err error) {
	where, args, ok, err := tx.documents(b, tenant)
	if err != nil || !ok {
		return 0, err
	}
	err = tx.rows("SELECT count(*) FROM fairlead_documents WHERE "+where, func(s *zs.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}, args...)
	return n, err
}

// DeleteDocuments implements [store.Tx].
func (tx *storeTx) DeleteDocuments(b store.Build, tenant string, limit int) (int64, error) {
	if err := tx.writable(); err != nil {
		return 0, err
	}
	where, args, ok, err := tx.documents(b, tenant)
	if err != nil || !ok {
		return 0, err
	}
	if limit > 0 {
		where += fmt.Sprintf(" AND doc_no IN (SELECT doc_no FROM fairlead_documents WHERE %s LIMIT ?%d)", where, len(args)+1)
		args = append(args, limit)
	}
	n, err := tx.exec("DELETE FROM fairlead_documents WHERE "+where, args...)
	return int64(n), err
}

// MoveDocuments implements [store.Tx].
func (tx *storeTx) MoveDocuments(from store.Build, to int64, tenant string) error {
	if err := tx.writable(); err != nil {
		return err
	}
	target := store.Build{Processor: from.Processor, Number: to}
	n, err := tx.CountDocuments(target, tenant)
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("sqlite: move documents of tenant %q to build %d of %q: it has %d of the tenant", tenant, to, from.Processor, n)
	}
	where, args, ok, err := tx.documents(from, tenant)
	if err != nil || !ok {
		return err
	}
	no, err := tx.w.buildNo(target)
	if err != nil {
		return tx.note(err)
	}
	_, err = tx.exec(fmt.Sprintf("UPDATE fairlead_documents SET build_no = ?%d WHERE %s", len(args)+1, where), append(args, no)...)
	return err
}
