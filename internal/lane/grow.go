package lane

import (
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// Grow gives a processor that follows the log's own partitions the lanes of those
// that the log has got since: in every build of the whole processor, from the
// first event on, for none of theirs was there when the processor was made.
func Grow(ctx context.Context, s store.Store, processor string, partitions int) (store.Processor, error) {
	var p store.Processor
	err := s.Update(ctx, func(tx store.Tx) (err error) {
		if p, err = known(tx, processor); err != nil || p.Partitions >= partitions {
			return err
		}
		// A process that has begun with one partition reads that one for all its lanes.
		if p.Builds.LogPartitions == 1 {
			members, err := tx.Members()
			if err != nil {
				return err
			}
			for _, m := range members {
				if m.Until.After(tx.Now()) {
					return fmt.Errorf("processor %q: the log has %d partitions and had 1, which process %q (%s) began with: "+
						"stop all processes of the fleet, or wait until their leases have ended, and start them again: %w", p.Name, partitions, m.ID, m.Host, ErrState)
				}
			}
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		builds := map[int64]bool{}
		for _, l := range lanes {
			if l.Tenant == "" { // a rebuild of one tenant has no base lanes: it is of what there is now
				builds[l.Number] = true
				l.Of = partitions
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
		}
		for number := range builds {
			for i := p.Partitions; i < partitions; i++ {
				l := store.Lane{
					LaneID: store.LaneID{Build: store.Build{Processor: processor, Number: number}, Partition: i}, Of: partitions,
					Position: event.Beginning, State: store.Running,
				}
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
		}
		p.Partitions = partitions
		if p.Builds.LogPartitions != 0 {
			p.Builds.LogPartitions = partitions
		}
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		return dedicateAll(tx, p)
	})
	return p, err
}

// identify notes of which log a processor's positions are, and refuses another one;
// and what tells its partitions apart, where log says that.
func identify(tx store.Tx, p *store.Processor, log *store.Builds) error {
	shares := p.Builds.Shares
	if log.Shares != "" {
		p.Builds.Shares = log.Shares
	}
	switch p.Builds.Log {
	case log.Log:
		if p.Builds.Shares == shares {
			return nil
		}
		return tx.PutProcessor(*p)
	case "":
		p.Builds.Log, p.Builds.LogPartitions = log.Log, log.LogPartitions
		return tx.PutProcessor(*p)
	}
	return fmt.Errorf("processor %q: its positions are of another log (%s) than this one (%s), which was made anew under the same name, or is read in another environment: "+
		"drop the processor, or give it a new name, to read the new log from its beginning; a sandbox needs a database of its own: %w", p.Name, p.Builds.Log, log.Log, ErrState)
}
