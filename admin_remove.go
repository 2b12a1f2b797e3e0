package fairlead

import (
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// RemoveTenant removes what all processors have made of a tenant: its documents, dead
// letters and lanes, its weight and its pool. Its events up to the positions, by log
// partition, take effect no more; what comes behind them is a new tenant's of that name.
// Tables of your own (ProjectBatch) and documents across tenants stay as they are. It is
// safe beside consumers that run, and may be repeated.
//
// Rebuilds leave these events out, too, for the 200 tenants that were removed last. That
// the events are not there any more for processors to come is the log's to see to, as
// kafka.Tenants does.
func (a Admin) RemoveTenant(ctx context.Context, tenant string, upTo map[int]event.Position) (documents int64, err error) {
	ps, err := a.Processors(ctx)
	if err != nil {
		return 0, err
	}
	err = a.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.PutPool(tenant, ""); err != nil {
			return err
		}
		return tx.PutWeight(tenant, 1)
	})
	if err != nil {
		return 0, fmt.Errorf("tenant %q: %w", tenant, err)
	}
	for i := range ps {
		n, err := lane.RemoveTenant(ctx, a.Store, ps[i].Name, tenant, upTo)
		if err != nil {
			return documents, err
		}
		documents += n
	}
	return documents, nil
}
