package lane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// RemoveTenant removes what a processor has made of a tenant's events: documents, dead
// letters and lanes of its own, in all builds. Its events up to the positions, by log
// partition, do not count any more: base lanes leave them out, as if a lane of the
// tenant's own had merged there, and what they have in hand cannot commit. So do those of
// builds to come: a process may have pages in memory that were read before. Of documents
// across tenants nothing is removed before they are rebuilt. It returns how many went.
func RemoveTenant(ctx context.Context, s store.Store, processor, tenant string, upTo map[int]event.Position) (documents int64, err error) {
	if err := event.CheckTenant(tenant); err != nil {
		return 0, err
	}
	err = s.Update(ctx, func(tx store.Tx) error {
		documents = 0
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		if p.Rebuild != 0 && p.RebuildTenant == tenant {
			return fmt.Errorf("processor %q: tenant %q is being rebuilt: cancel that first: %w", processor, tenant, ErrState)
		}
		if len(upTo) > 0 {
			noteRemoved(&p, tenant, upTo)
			if err := tx.PutProcessor(p); err != nil {
				return err
			}
		}
		if p.CrossTenant {
			return nil
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
			until, ok := upTo[logPart(&p, l.Partition)]
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
			if mutant.Is(mutant.RemovedInHand) {
				l.Revision--
			}
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

// removedAtMost bounds the removed tenants that a processor's row has: all read it often.
// By the time so many more were removed, processes know of one from the log.
const removedAtMost = 200

// noteRemoved notes that a tenant was removed. The caller puts the processor's row.
func noteRemoved(p *store.Processor, tenant string, upTo map[int]event.Position) {
	upTo = maps.Clone(upTo)
	for part, at := range removedUpTo(p, tenant) {
		upTo[part] = max(upTo[part], at)
	}
	all := slices.DeleteFunc(slices.Clone(p.Builds.Removed), func(r store.Removed) bool { return r.Tenant == tenant })
	all = append(all, store.Removed{Tenant: tenant, UpTo: upTo})
	p.Builds.Removed = all[max(0, len(all)-removedAtMost):]
}

// removedUpTo returns up to where a tenant was removed, by log partition.
func removedUpTo(p *store.Processor, tenant string) map[int]event.Position {
	for i := range p.Builds.Removed {
		if r := &p.Builds.Removed[i]; r.Tenant == tenant {
			return r.UpTo
		}
	}
	return nil
}

// leaveOut has a base lane that is to begin leave removed tenants out.
func leaveOut(p *store.Processor, l *store.Lane) {
	for i := range p.Builds.Removed {
		r := &p.Builds.Removed[i]
		if mutant.Is(mutant.RemovedBuilt) {
			return
		}
		if at, ok := r.UpTo[logPart(p, l.Partition)]; ok && at > l.Position {
			exclude(l, r.Tenant, at)
		}
	}
}

// logPart returns the log partition that the lanes of a partition read.
func logPart(p *store.Processor, partition int) int {
	if p.Builds.LogPartitions <= 1 { // they are shares of one
		return 0
	}
	return partition
}
