package lane

import (
	"context"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/store"
)

// Unread returns up to where in each log partition nobody will decide about an event any
// more: it is in the log no more, and all lanes of the baseline's store and of the
// sandboxes that are open are past it, so that no page is in hand either. Without the
// lanes the first would not do: a page may have been read just before retention took it.
// There is none for partitions in which the store has no lanes.
//
// All is to be read before. S is the only store of the service's baseline.
func Unread(ctx context.Context, s store.Store, r Registrations) (map[int]event.Position, error) {
	upTo := map[int]event.Position{}
	if r.Start == nil {
		return upTo, nil
	}
	single := map[string]bool{} // whether a processor's lanes are shares of one log partition
	others := map[string]bool{} // processors of another log
	err := s.View(ctx, func(tx store.Tx) error {
		clear(upTo)
		procs, err := tx.Processors()
		if err != nil {
			return err
		}
		for i := range procs {
			others[procs[i].Name] = procs[i].Builds.Log == letterlog.Identity
			single[procs[i].Name] = procs[i].Builds.LogPartitions <= 1
		}
		rows, err := tx.Lanes("")
		if err != nil {
			return err
		}
		for i := range rows {
			part := rows[i].Partition
			if single[rows[i].Processor] {
				part = 0
			}
			if at, ok := upTo[part]; !others[rows[i].Processor] && (!ok || rows[i].Position < at) {
				upTo[part] = rows[i].Position
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range r.All {
		if !r.All[i].Open {
			continue
		}
		lanes, err := r.Lanes(ctx, r.All[i].ID)
		if err != nil {
			return nil, err
		}
		for j := range lanes {
			l := &lanes[j]
			if others[l.Processor] {
				continue
			}
			parts := []int{l.Partition, 0} // of a processor that the baseline does not have it may be either
			if one, known := single[l.Processor]; known && one {
				parts = parts[1:]
			} else if known {
				parts = parts[:1]
			}
			for _, part := range parts {
				if at, ok := upTo[part]; ok && l.Position < at {
					upTo[part] = l.Position
				}
			}
		}
	}
	for part, at := range upTo {
		start, err := r.Start(ctx, part)
		if err != nil {
			return nil, err
		}
		upTo[part] = min(at, start)
	}
	return upTo, nil
}
