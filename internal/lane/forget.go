package lane

import (
	"context"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// Forgettable returns the registrations that nothing can need any more, of those that
// are closed: no letter of the store waits for what one of them says; and whatever its
// sandbox may have processed every lane of the store is past, and it is in the log no
// more, so that no rebuild will ever read it again. One that has processed nothing says
// nothing: without it the baseline has its events all the same.
//
// All is to be read before. S is the only store of the service's baseline.
func Forgettable(ctx context.Context, s store.Store, r Registrations) (ids []int64, err error) {
	hosts, closed := map[string][]ledger.Sandbox{}, false
	for i := range r.All {
		hosts[r.All[i].Host] = append(hosts[r.All[i].Host], r.All[i])
		closed = closed || !r.All[i].Open
	}
	if !closed || r.Start == nil {
		return nil, nil
	}
	single := map[string]bool{}        // whether a processor's log has one partition; none of processors of another log
	others := map[string]bool{}        // these
	lowest := map[int]event.Position{} // of the store's lanes, by log partition
	needed := map[int64]bool{}
	err = s.View(ctx, func(tx store.Tx) error {
		clear(lowest)
		clear(needed)
		procs, err := tx.Processors()
		if err != nil {
			return err
		}
		for i := range procs {
			if procs[i].Builds.Log == letterlog.Identity {
				others[procs[i].Name] = true
				continue
			}
			single[procs[i].Name] = procs[i].Builds.LogPartitions <= 1
		}
		rows, err := tx.Lanes("")
		if err != nil {
			return err
		}
		for i := range rows {
			one, ok := single[rows[i].Processor]
			if !ok {
				continue
			}
			part := rows[i].Partition
			if one {
				part = 0
			}
			if at, ok := lowest[part]; !ok || rows[i].Position < at {
				lowest[part] = rows[i].Position
			}
		}
		f := store.LetterFilter{State: store.Skipped, Reason: store.Routed, Limit: settleAtOnce}
		for {
			letters, err := tx.Letters(f)
			if err != nil {
				return err
			}
			for i := range letters {
				d := &letters[i]
				part := d.Partition
				if single[d.Processor] {
					part = 0
				}
				ledger.Settle(hosts[d.Error], part, d.Event.Position, func(sb *ledger.Sandbox) bool {
					needed[sb.ID] = true
					return false
				})
				f.AfterID = d.ID
			}
			if len(letters) < f.Limit {
				return nil
			}
		}
	})
	if err != nil {
		return nil, err
	}
	starts := map[int]event.Position{}
	for i := range r.All { // oldest first
		sb := &r.All[i]
		if sb.Open || needed[sb.ID] {
			continue
		}
		to, err := processedTo(sb, single, others)
		if err != nil {
			return nil, err
		}
		free := true
		for part, end := range to {
			at, ok := lowest[part]
			if !ok || at < end {
				free = false
				break
			}
			if _, ok := starts[part]; !ok {
				if starts[part], err = r.Start(ctx, part); err != nil {
					return nil, err
				}
			}
			if starts[part] < end {
				free = false
				break
			}
		}
		if free {
			ids = append(ids, sb.ID)
		}
	}
	return ids, nil
}

// processedTo returns up to where in each log partition a closed registration's sandbox
// may have processed what it owned; nothing of a partition in which that is nothing.
// Single says of processors whether their log has one partition, and others are those
// that read another log.
func processedTo(sb *ledger.Sandbox, single, others map[string]bool) (map[int]event.Position, error) {
	to := map[int]event.Position{}
	for part, span := range sb.Partitions {
		if span.Pending {
			continue
		}
		for i := range sb.Lanes {
			l := &sb.Lanes[i]
			one, known := single[l.Processor]
			if !known {
				one = len(sb.Partitions) == 1
			}
			if others[l.Processor] || l.Partition != part && !one { // the lanes of a log with one partition are shares of that
				continue
			}
			var beyond done.Set
			if err := beyond.UnmarshalBinary(l.Done); err != nil {
				return nil, err
			}
			if at := max(l.Position, beyond.Last()); at > span.From {
				to[part] = max(to[part], at)
			}
		}
	}
	return to, nil
}
