package memstore

import (
	"context"
	"maps"
	"slices"

	"github.com/fairlead-dev/fairlead/store"
)

// ListBuild implements [store.Store].
func (s *Store) ListBuild(ctx context.Context, b store.Build, after store.Key, limit int) ([]store.Document, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var out []store.Document
	for _, tenant := range slices.Sorted(maps.Keys(s.builds[b])) {
		from := ""
		if tenant == after.Tenant {
			from = after.ID
		}
		if tenant < after.Tenant || len(out) >= limit {
			continue
		}
		sp := s.builds[b][tenant]
		for _, id := range above(sp.ids(), from, limit-len(out)) {
			out = append(out, cloneDocument(sp.docs[id]))
		}
	}
	return out, nil
}
