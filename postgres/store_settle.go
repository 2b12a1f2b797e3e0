package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// An unsettled holds the lanes of which a commit may still take effect, with the
// fences of those commits.
type unsettled struct {
	mu    sync.Mutex
	last  int64 // the number of the last commit that came
	lanes map[store.LaneID][]unsettledCommit
}

type unsettledCommit struct {
	no    int64
	fence store.Fence
}

func (u *unsettled) add(c *store.Commit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.lanes == nil {
		u.lanes = make(map[store.LaneID][]unsettledCommit)
	}
	u.last++
	u.lanes[c.Lane] = append(u.lanes[c.Lane], unsettledCommit{u.last, c.Fence})
}

func (u *unsettled) of(id store.LaneID) []unsettledCommit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.lanes[id])
}

// settled forgets the commits of a lane up to a number.
func (u *unsettled) settled(id store.LaneID, no int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	left := slices.DeleteFunc(u.lanes[id], func(c unsettledCommit) bool { return c.no <= no })
	if u.lanes[id] = left; len(left) == 0 {
		delete(u.lanes, id)
	}
}

func (u *unsettled) ids() []store.LaneID {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.lanes))
}

const (
	// A lane that is still as such a commit expected it gets another revision: a
	// commit that has not begun can pass its fence no more, and for one that has
	// begun this statement waits.
	raiseUnsettled = `UPDATE {schema}.lanes SET revision = revision + 1
		WHERE processor = $1 AND number = $2 AND partition = $3 AND tenant = $4 AND epoch = $5 AND position = $6 AND revision = $7`
	// It does not wait long: the lane's owner tries again, and others have work.
	settleWait = "SELECT set_config('lock_timeout', '250ms', true)"
)

// settleLane makes sure that the commits of a lane of which no answer came have
// either taken effect or never will. An error means that it could not be found
// out yet.
func (db *DB) settleLane(ctx context.Context, id store.LaneID) error {
	commits := db.unsettled.of(id)
	if len(commits) == 0 {
		return nil
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(settleWait)
	for _, c := range commits {
		b.Queue(db.q(raiseUnsettled), id.Processor, id.Number, id.Partition, id.Tenant, c.fence.Epoch, int64(c.fence.Position), c.fence.Revision)
	}
	if err := db.pool.SendBatch(ctx, b).Close(); err != nil {
		return db.fault(ctx, fmt.Sprintf("find out whether the last commit of lane %v took effect", id), err)
	}
	db.unsettled.settled(id, commits[len(commits)-1].no)
	return nil
}

// settleAll settles what it can, and returns why the others could not be, or an
// error where the server does not answer.
func (db *DB) settleAll(ctx context.Context) (failed map[store.LaneID]error, err error) {
	for _, id := range db.unsettled.ids() {
		err := db.settleLane(ctx, id)
		if err != nil && serverError(err) == nil {
			return nil, err
		}
		if err != nil {
			if failed == nil {
				failed = make(map[store.LaneID]error)
			}
			failed[id] = err
		}
	}
	return failed, nil
}
