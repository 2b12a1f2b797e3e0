package lane

import (
	"context"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// RemoveTenant removes what a processor has made of a tenant's events: documents, dead
// letters and lanes of its own, in all builds. Its events up to the positions, by log
// partition, do not count any more: base lanes leave them out, as if a lane of the
// tenant's own had merged there, and what they have in hand cannot commit. Of documents
// across tenants nothing is removed. It returns how many documents went.
func RemoveTenant(ctx context.Context, s store.Store, processor, tenant string, upTo map[int]event.Position) (documents int64, err error) {
	if err := event.CheckTenant(tenant); err != nil {
		return 0, err
	}
	err = s.Update(ctx, func(tx store.Tx) error {
		documents = 0
		p, err := known(tx, processor)
		if err != nil || p.CrossTenant {
			return err
		}
		if p.Rebuild != 0 && p.RebuildTenant == tenant {
			return fmt.Errorf("processor %q: tenant %q is being rebuilt: cancel that first: %w", processor, tenant, ErrState)
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		own := map[store.LaneID]store.Lane{}
		builds := map[int64]bool{p.Live: true}
		if k := p.Builds.Kept.Number; k != 0 {
			builds[k] = true // its lanes may be gone
		}
		for _, l := range lanes {
			builds[l.Number] = true
			if l.Tenant == tenant {
				own[l.Base()] = l
				if err := tx.DeleteLane(l.LaneID); err != nil {
					return err
				}
			}
		}
		for _, l := range lanes {
			if l.Tenant != "" {
				continue
			}
			part := l.Partition
			if p.Builds.LogPartitions <= 1 { // the lanes are shares of one log partition
				part = 0
			}
			until, ok := upTo[part]
			was, had := own[l.LaneID]
			if !ok && !had {
				continue
			}
			// As in a merge: the tenant's next lane begins above all epochs of this one.
			l.Revision, until = max(l.Revision, was.Epoch), max(until, was.Position)
			if u := l.Exclusions[tenant]; u != event.Unbounded {
				until = max(until, u)
			}
			exclude(&l, tenant, max(until, l.Position))
			if l.State == store.Paused && ok && strings.Contains(l.Reason, eventlog.ErrGone.Error()) {
				l.State, l.Reason = store.Running, ""
			}
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		for number := range builds {
			b := store.Build{Processor: processor, Number: number}
			n, err := tx.DeleteDocuments(b, tenant, 0)
			if err != nil {
				return err
			}
			documents += n
			letters, err := tx.Letters(store.LetterFilter{Build: b, Tenant: tenant})
			if err != nil {
				return err
			}
			ids := make([]int64, len(letters))
			for i := range letters {
				ids[i] = letters[i].ID
			}
			if err := tx.DeleteLetters(ids); err != nil {
				return err
			}
		}
		return nil
	})
	return documents, err
}
