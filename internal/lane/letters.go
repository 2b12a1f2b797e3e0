package lane

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/store"
)

// RetryKey asks for the queue of an ordering key to be drained in order; the
// owner of its lane does it. Key "" stands for all keys of the tenant, tenant
// "" for all tenants. It returns the number of letters that wait for it.
func RetryKey(ctx context.Context, s store.Store, processor, tenant, key string) (n int, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		n = 0
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		f := store.LetterFilter{Build: store.Build{Processor: processor, Number: p.Live}, Tenant: tenant}
		if key != "" {
			f.Key = &key
		}
		letters, err := tx.Letters(f)
		if err != nil {
			return err
		}
		touched := map[owned]bool{}
		for _, d := range letters {
			if d.State == store.Skipped {
				continue
			}
			n++
			touched[owned{d.Partition, d.Tenant}] = true
			if d.Retry {
				continue
			}
			d.Retry = true
			if err := tx.PutLetter(d); err != nil {
				return err
			}
		}
		if n == 0 {
			return fmt.Errorf("processor %q has no dead letters%s to retry: %w", processor, of(tenant, key), ErrUnknown)
		}
		return revise(tx, f.Build, touched)
	})
	return n, err
}

// of says whose letters were meant.
func of(tenant, key string) (s string) {
	if tenant != "" {
		s = fmt.Sprintf(" of tenant %q", tenant)
	}
	if key != "" {
		s += fmt.Sprintf(" with the ordering key %q", key)
	}
	return s
}

// SkipLetter gives up one dead letter: it stays recorded, and nothing waits for
// it any more. The letters behind it are then retried.
func SkipLetter(ctx context.Context, s store.Store, id int64) error {
	return s.Update(ctx, func(tx store.Tx) error {
		found, err := tx.Letters(store.LetterFilter{AfterID: id - 1, Limit: 1})
		if err != nil {
			return err
		}
		if len(found) == 0 || found[0].ID != id {
			return fmt.Errorf("dead letter %d: %w", id, ErrUnknown)
		}
		d := found[0]
		if d.State == store.Skipped {
			return nil
		}
		d.State, d.Retry = store.Skipped, false
		if err := tx.PutLetter(d); err != nil {
			return err
		}
		queue, err := tx.Letters(store.LetterFilter{Build: d.Build, Partition: &d.Partition, Tenant: d.Tenant, Key: &d.Key})
		if err != nil {
			return err
		}
		for _, w := range queue {
			if w.State != store.Skipped && !w.Retry {
				w.Retry = true
				if err := tx.PutLetter(w); err != nil {
					return err
				}
			}
		}
		return revise(tx, d.Build, map[owned]bool{{d.Partition, d.Tenant}: true})
	})
}

// RetryFailed records that a retried letter failed again: its key waits for the
// next retry.
func RetryFailed(ctx context.Context, s store.Store, failed store.DeadLetter) error {
	return s.Update(ctx, func(tx store.Tx) error {
		queue, err := tx.Letters(store.LetterFilter{Build: failed.Build, Partition: &failed.Partition, Tenant: failed.Tenant, Key: &failed.Key})
		if err != nil {
			return err
		}
		for _, d := range queue {
			if d.State == store.Skipped {
				continue
			}
			d.Retry = false
			if d.ID == failed.ID {
				d.State, d.Reason, d.Error, d.Attempts, d.At = store.Poison, failed.Reason, failed.Error, d.Attempts+1, tx.Now()
			}
			if err := tx.PutLetter(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// owned says whose letters they are: those of a tenant in a partition.
type owned struct {
	partition int
	tenant    string
}

// revise raises the revision of the lanes of a build that the letters belong to:
// their owners must look again before they commit.
func revise(tx store.Tx, b store.Build, touched map[owned]bool) error {
	lanes, err := tx.Lanes(b.Processor)
	if err != nil {
		return err
	}
	own := map[owned]bool{}
	for _, l := range lanes {
		own[owned{l.Partition, l.Tenant}] = own[owned{l.Partition, l.Tenant}] || l.Build == b
	}
	for _, l := range lanes {
		hit := touched[owned{l.Partition, l.Tenant}]
		if l.Tenant == "" {
			for o := range touched {
				hit = hit || o.partition == l.Partition && !own[o]
			}
		}
		if l.Build == b && hit {
			l.Revision++
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
	}
	return nil
}

func deleteLetters(tx store.Tx, f store.LetterFilter) error {
	letters, err := tx.Letters(f)
	if err != nil || len(letters) == 0 {
		return err
	}
	ids := make([]int64, len(letters))
	for i := range letters {
		ids[i] = letters[i].ID
	}
	err = tx.DeleteLetters(ids)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
