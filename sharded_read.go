package fairlead

import (
	"context"
	"errors"
	"slices"

	"github.com/fairlead-dev/fairlead/store"
)

// Reader returns a reader of all shards: it asks the store that the tenant is in,
// and opens it if it is not open in this process yet. It does not need Run.
func (s *Sharded) Reader() store.Reader { return shardedReader{s} }

type shardedReader struct{ s *Sharded }

// of returns the store that a tenant is in, or [ErrNotFound] where that is not
// decided yet: to read does not decide it.
func (r shardedReader) of(ctx context.Context, tenant string) (store.Store, error) {
	name, ok, err := r.s.dir.Look(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNotFound
	}
	return r.s.open(ctx, r.s.shard(name))
}

func (r shardedReader) Get(ctx context.Context, collection, tenant, id string) (store.Document, error) {
	st, err := r.of(ctx, tenant)
	if err != nil {
		return store.Document{}, err
	}
	return st.Get(ctx, collection, tenant, id)
}

func (r shardedReader) List(ctx context.Context, collection, tenant, after string, limit int) ([]store.Document, error) {
	st, err := r.of(ctx, tenant)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return st.List(ctx, collection, tenant, after, limit)
}

// Tenants asks all shards.
func (r shardedReader) Tenants(ctx context.Context, collection, after string, limit int) ([]string, error) {
	names, err := r.s.Shards(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, n := range names {
		st, err := r.s.open(ctx, r.s.shard(n))
		if err != nil {
			return nil, err
		}
		ts, err := st.Tenants(ctx, collection, after, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, ts...)
	}
	slices.Sort(all)
	return all[:min(len(all), max(limit, 0))], nil
}
