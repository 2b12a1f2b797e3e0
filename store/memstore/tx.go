package memstore

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// A tx implements [store.Tx].
type tx struct {
	undoLog
	now      time.Time
	writable bool
	ended    bool
}

// close ends the transaction and takes back what was not kept.
func (t *tx) close() {
	t.rollback()
	t.ended = true
}

// check returns the error of a call that reads, or that writes.
func (t *tx) check(write bool) error {
	switch {
	case t.ended:
		return errEnded
	case write && !t.writable:
		return errReadOnly
	}
	return nil
}

func (t *tx) Now() time.Time { return t.now }

func (t *tx) Processor(name string) (store.Processor, error) {
	if err := t.check(false); err != nil {
		return store.Processor{}, err
	}
	p, ok := t.processors[name]
	if !ok {
		return store.Processor{}, fmt.Errorf("memstore: processor %q: %w", name, store.ErrNotFound)
	}
	return cloneProcessor(p), nil
}

func (t *tx) Processors() ([]store.Processor, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	return sorted(t.processors, cloneProcessor, func(a, b store.Processor) int { return strings.Compare(a.Name, b.Name) }), nil
}

func (t *tx) PutProcessor(p store.Processor) error {
	if err := t.check(true); err != nil {
		return err
	}
	set(&t.undoLog, t.processors, p.Name, cloneProcessor(p))
	return nil
}

func (t *tx) DeleteProcessor(name string) error {
	if err := t.check(true); err != nil {
		return err
	}
	remove(&t.undoLog, t.processors, name)
	return nil
}

func (t *tx) Lane(id store.LaneID) (store.Lane, error) {
	if err := t.check(false); err != nil {
		return store.Lane{}, err
	}
	l, ok := t.lanes[id]
	if !ok {
		return store.Lane{}, fmt.Errorf("memstore: lane %v: %w", id, store.ErrNotFound)
	}
	return cloneLane(l), nil
}

func (t *tx) Lanes(processor string) ([]store.Lane, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	all := sorted(t.lanes, func(l store.Lane) store.Lane { return l }, func(a, b store.Lane) int {
		return cmp.Or(strings.Compare(a.Processor, b.Processor), cmp.Compare(a.Number, b.Number),
			cmp.Compare(a.Partition, b.Partition), strings.Compare(a.Tenant, b.Tenant))
	})
	var out []store.Lane
	for _, l := range all {
		if processor == "" || l.Processor == processor {
			out = append(out, cloneLane(l))
		}
	}
	return out, nil
}

func (t *tx) PutLane(l store.Lane) error {
	if err := t.check(true); err != nil {
		return err
	}
	t.putLane(l)
	return nil
}

func (t *tx) DeleteLane(id store.LaneID) error {
	if err := t.check(true); err != nil {
		return err
	}
	remove(&t.undoLog, t.lanes, id)
	return nil
}

func (t *tx) Letters(f store.LetterFilter) ([]store.DeadLetter, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	var ids []int64
	for id, d := range t.letters {
		if id > f.AfterID &&
			(f.Processor == "" || d.Processor == f.Processor) && (f.Number == 0 || d.Number == f.Number) &&
			(f.Partition == nil || d.Partition == *f.Partition) && (f.Tenant == "" || d.Tenant == f.Tenant) &&
			(f.Key == nil || d.Key == *f.Key) && (f.State == "" || d.State == f.State) &&
			(f.Reason == "" || d.Reason == f.Reason) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if f.Limit > 0 && len(ids) > f.Limit {
		ids = ids[:f.Limit]
	}
	var out []store.DeadLetter
	for _, id := range ids {
		out = append(out, cloneLetter(t.letters[id]))
	}
	return out, nil
}

func (t *tx) Parked(b store.Build, tenant string) ([]store.ParkedKey, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	found := make(map[store.ParkedKey]store.ParkedKey)
	for _, d := range t.letters {
		if d.Build != b || d.State == store.Skipped || (tenant != "" && d.Tenant != tenant) {
			continue
		}
		id := store.ParkedKey{Partition: d.Partition, Tenant: d.Tenant, Key: d.Key}
		k, ok := found[id]
		if !ok {
			k = id
		}
		k.Letters++
		k.Retry = k.Retry || d.Retry
		found[id] = k
	}
	return sorted(found, func(k store.ParkedKey) store.ParkedKey { return k }, func(a, b store.ParkedKey) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Key, b.Key))
	}), nil
}

func (t *tx) PutLetter(d store.DeadLetter) error {
	if err := t.check(true); err != nil {
		return err
	}
	if _, ok := t.letters[d.ID]; !ok {
		return fmt.Errorf("memstore: dead letter %d: %w", d.ID, store.ErrNotFound)
	}
	set(&t.undoLog, t.letters, d.ID, cloneLetter(d))
	return nil
}

func (t *tx) DeleteLetters(ids []int64) error {
	if err := t.check(true); err != nil {
		return err
	}
	for _, id := range ids {
		remove(&t.undoLog, t.letters, id)
	}
	return nil
}

func (t *tx) Members() ([]store.Member, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	return sorted(t.members, func(m store.Member) store.Member { return m }, func(a, b store.Member) int { return strings.Compare(a.ID, b.ID) }), nil
}

func (t *tx) PutMember(m store.Member) error {
	if err := t.check(true); err != nil {
		return err
	}
	m.Until, m.Since = utc(m.Until), utc(m.Since)
	set(&t.undoLog, t.members, m.ID, m)
	return nil
}

func (t *tx) DeleteMember(id string) error {
	if err := t.check(true); err != nil {
		return err
	}
	remove(&t.undoLog, t.members, id)
	return nil
}

func (t *tx) Weights() (map[string]float64, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	return maps.Clone(t.weights), nil
}

func (t *tx) PutWeight(tenant string, weight float64) error {
	if err := t.check(true); err != nil {
		return err
	}
	if weight == 1 {
		remove(&t.undoLog, t.weights, tenant)
	} else {
		set(&t.undoLog, t.weights, tenant, weight)
	}
	return nil
}

func (t *tx) Shards(tenants []string) (map[string]string, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for _, tenant := range tenants {
		if s, ok := t.shards[tenant]; ok {
			out[tenant] = s
		}
	}
	return out, nil
}

func (t *tx) ShardNames() ([]string, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	return slices.Compact(slices.Sorted(maps.Values(t.shards))), nil
}

func (t *tx) PutShard(tenant, shard string) error {
	if err := t.check(true); err != nil {
		return err
	}
	set(&t.undoLog, t.shards, tenant, shard)
	return nil
}

func (t *tx) Pools() (map[string]string, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	return maps.Clone(t.pools), nil
}

func (t *tx) PutPool(tenant, pool string) error {
	if err := t.check(true); err != nil {
		return err
	}
	if pool == "" {
		remove(&t.undoLog, t.pools, tenant)
	} else {
		set(&t.undoLog, t.pools, tenant, pool)
	}
	return nil
}

// tenants returns a tenant of a build if it has documents there, or ("") all
// that have, in byte order.
func (t *tx) tenants(b store.Build, tenant string) []string {
	if tenant == "" {
		return slices.Sorted(maps.Keys(t.builds[b]))
	}
	if t.builds[b][tenant] == nil {
		return nil
	}
	return []string{tenant}
}

func (t *tx) CountDocuments(b store.Build, tenant string) (int64, error) {
	if err := t.check(false); err != nil {
		return 0, err
	}
	n := 0
	for _, name := range t.tenants(b, tenant) {
		n += len(t.builds[b][name].docs)
	}
	return int64(n), nil
}

func (t *tx) DeleteDocuments(b store.Build, tenant string, limit int) (int64, error) {
	if err := t.check(true); err != nil {
		return 0, err
	}
	n := 0
	for _, name := range t.tenants(b, tenant) {
		sp := t.builds[b][name]
		if limit <= 0 || n+len(sp.docs) <= limit {
			n += len(sp.docs)
			t.dropSpace(b, name)
			continue
		}
		for _, id := range sp.ids()[:limit-n] {
			t.deleteDocument(b, store.Key{Tenant: name, ID: id})
		}
		return int64(limit), nil
	}
	return int64(n), nil
}

func (t *tx) MoveDocuments(from store.Build, to int64, tenant string) error {
	if err := t.check(true); err != nil {
		return err
	}
	target := store.Build{Processor: from.Processor, Number: to}
	if t.builds[target][tenant] != nil {
		return fmt.Errorf("memstore: move documents of tenant %q from build %d of %q: build %d has some", tenant, from.Number, from.Processor, to)
	}
	sp := t.builds[from][tenant]
	if sp == nil {
		return nil
	}
	t.dropSpace(from, tenant)
	if t.builds[target] == nil {
		set(&t.undoLog, t.builds, target, make(documents))
	}
	set(&t.undoLog, t.builds[target], tenant, sp)
	return nil
}

// sorted returns copies of a map's values in order.
func sorted[K comparable, V any](m map[K]V, clone func(V) V, compare func(a, b V) int) []V {
	out := make([]V, 0, len(m))
	for _, v := range m {
		out = append(out, clone(v))
	}
	slices.SortFunc(out, compare)
	return out
}
