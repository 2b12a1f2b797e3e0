package store

import (
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

// A Tx is a transaction on everything but the documents' contents. It is what
// the protocols need, and no more. What a Tx returns is the caller's to change.
// It sees its own writes. To delete what is not there is no error.
type Tx interface {
	// Now returns the store's time, the same through the transaction. Leases
	// are judged by it, so members need no equal clocks.
	Now() time.Time

	// Processor returns a processor's row, or [ErrNotFound].
	Processor(name string) (Processor, error)
	Processors() ([]Processor, error) // by name
	PutProcessor(Processor) error     // inserts or replaces
	DeleteProcessor(name string) error

	// Lane returns a lane and locks it until the transaction ends, or
	// [ErrNotFound].
	Lane(id LaneID) (Lane, error)
	// Lanes returns the lanes of a processor ("": of all), by processor, number,
	// partition and tenant, and locks them in an Update.
	Lanes(processor string) ([]Lane, error)
	PutLane(Lane) error // inserts or replaces, with all fields but UpdatedAt
	DeleteLane(id LaneID) error

	// Letters returns dead letters by ascending id.
	Letters(f LetterFilter) ([]DeadLetter, error)
	// Parked returns the ordering keys of a build that have letters which are
	// not Skipped, by partition, tenant and key; tenant "" stands for all tenants.
	Parked(b Build, tenant string) ([]ParkedKey, error)
	PutLetter(DeadLetter) error // replaces the letter with its ID, or [ErrNotFound]
	DeleteLetters(ids []int64) error

	Members() ([]Member, error) // by id
	PutMember(Member) error
	DeleteMember(id string) error

	// Weights returns the weights that were set, by tenant; the others have 1.
	Weights() (map[string]float64, error)
	PutWeight(tenant string, weight float64) error // 1 removes it

	// Shards returns in which shard those of the tenants are that have a row.
	Shards(tenants []string) (map[string]string, error)
	ShardNames() ([]string, error)       // that tenants are in, in byte order
	PutShard(tenant, shard string) error // inserts or replaces

	// Pools returns the worker pools that tenants were given to, by tenant.
	Pools() (map[string]string, error)
	PutPool(tenant, pool string) error // "" removes it

	// CountDocuments counts those of a build; tenant "" stands for all.
	CountDocuments(b Build, tenant string) (int64, error)
	// DeleteDocuments deletes at most limit documents of a build (tenant "":
	// of all) and returns how many; limit 0 means all.
	DeleteDocuments(b Build, tenant string, limit int) (int64, error)
	// MoveDocuments moves all documents of a tenant from one build to another
	// build of the same processor. It is an error where that has any of the tenant.
	MoveDocuments(from Build, to int64, tenant string) error
}

// A Processor is the row of a processor.
type Processor struct {
	Name       string
	Kind       string // "projection", "batch", "reactor"
	Collection string // of its documents; "" where it has none
	// Partitions is how many it was made with. It may have been split since: those
	// that there are now are its base lanes.
	Partitions int
	Live       int64 // the number of the build that readers see
	LastBuild  int64 // the highest number that was given out

	// Rebuild is the number of the build in the making, 0 where there is none;
	// RebuildTenant is the tenant that it is limited to, "" for all.
	Rebuild       int64
	RebuildTenant string
	// Retired are builds whose documents are still to be deleted.
	Retired []int64
	Builds  Builds // more of the build in the making, and of the one before

	// CrossTenant processors have documents that belong to no tenant, and so no
	// tenant lanes.
	CrossTenant bool

	Version string // of the code that made it, as the user states it
	Paused  bool
}

// A Member is a process that holds leases.
type Member struct {
	ID    string
	Until time.Time // the end of its lease
	Host  string    // for people
	Since time.Time
	Notes string // what the engine wants other members to know of this one
}

// A LetterState says what holds a dead letter.
type LetterState string

const (
	Poison  LetterState = "poison"  // its handler failed
	Waiting LetterState = "waiting" // behind a Poison letter of its key
	Skipped LetterState = "skipped" // recorded only: nothing waits for it
)

// Routed is the reason of a Skipped letter that is kept for as long as it is open who
// processes its event: a sandbox, whose label is the letter's Error, or this consumer.
// See package ledger.
const Routed = "routed"

// A DeadLetter is an event that did not take effect, with the reason. The
// letters of one ordering key are its queue: they leave it in order of ID.
type DeadLetter struct {
	ID int64
	Build
	Partition int
	Tenant    string
	Key       string // the ordering key
	State     LetterState
	Retry     bool // an operator wants its key drained
	Event     event.Event
	Reason    string // one word for tables: "handler", "decode", "panic", "gap", [Routed], ...
	Error     string
	Attempts  int
	At        time.Time // when it failed last; in a commit zero is now, by the store's clock
}

// A LetterFilter selects dead letters. Zero fields select all.
type LetterFilter struct {
	Build
	Partition *int
	Tenant    string
	Key       *string
	State     LetterState
	Reason    string
	AfterID   int64
	Limit     int
}

// A ParkedKey is an ordering key with letters in its queue.
type ParkedKey struct {
	Partition int
	Tenant    string
	Key       string
	Retry     bool // one of these letters has Retry
	Letters   int  // that are not Skipped
}

// LanesOf returns those of some lanes that are there, and locks them as [Tx.Lane] does: in
// one round trip where the Tx has a method LanesOf, which one on a network should have,
// since an Update keeps all others waiting.
func LanesOf(tx Tx, ids []LaneID) (map[LaneID]Lane, error) {
	if many, ok := tx.(interface {
		LanesOf(ids []LaneID) (map[LaneID]Lane, error)
	}); ok {
		return many.LanesOf(ids)
	}
	out := make(map[LaneID]Lane, len(ids))
	for _, id := range ids {
		l, err := tx.Lane(id)
		switch {
		case err == nil:
			out[id] = l
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return out, nil
}
