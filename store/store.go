// Package store is the seam to read-model stores: the interface that every
// store adapter implements, and what goes over it. An adapter only keeps rows,
// in transactions; the protocols on them (acquire, detach, merge, rebuild, ...)
// are written once, in internal/lane. Package storetest is the conformance
// suite, package store/memstore the in-memory implementation.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

// A Store keeps read models with the checkpoints, leases and dead letters that
// belong to them. All methods may be called from many goroutines at once. Where
// ctx has ended before a call, it returns ctx's error and changes nothing. Times
// come back in UTC, at least to the microsecond; the zero time stays zero.
//
// Errors that are none of this package's mean that the store could not do it
// now (locked, full, unreachable): nothing has changed, and the caller may try
// again later.
type Store interface {
	// Commit applies c whole or not at all. Its first act is the fence: unless
	// lane c.Lane has exactly the epoch, position and revision of c.Fence, it
	// changes nothing and returns a [*FenceError]. It raises
	// Revision if it detaches, because there are lanes then that nobody has; else it
	// need not.
	Commit(ctx context.Context, c *Commit) error

	// Load returns the documents of a build that exist, in any order. The keys
	// are distinct.
	Load(ctx context.Context, b Build, keys []Key) ([]Document, error)

	// ListBuild returns documents of a build, live or not, with a key above after,
	// by ascending tenant and then id in byte order, at most limit. The tenant ""
	// is the first one.
	ListBuild(ctx context.Context, b Build, after Key, limit int) ([]Document, error)

	// Update runs f in one serialisable write transaction. An error of f rolls
	// back and comes back as it is; a panic of f rolls back too. f may be run
	// again after a lost race, so it must have no other effects. Each Update that
	// writes raises Revision; one that fails or only reads does not. f must not
	// call the Store.
	Update(ctx context.Context, f func(Tx) error) error

	// View runs f in one read-only snapshot; its writes fail.
	View(ctx context.Context, f func(Tx) error) error

	// Revision returns a number that each writing Update raises: a process that
	// sees it unchanged need not look at its lanes again. It costs next to
	// nothing, because a process to which lanes are about to be given asks for it
	// many times a second.
	Revision(ctx context.Context) (int64, error)

	// Changed waits until Revision is another number than known, and returns it.
	// It knows of an Update of this process or of another one within about 50 ms
	// where the store can tell, and else as soon as it may ask for it. Where ctx
	// ends first it returns ctx's error. It costs next to nothing, however long it
	// takes: every process waits here all the time.
	Changed(ctx context.Context, known int64) (int64, error)

	// Extend lets the lease of a member end ttl after the store's time, if there
	// is a member with that ID and those notes and its lease has not ended;
	// otherwise it changes nothing and returns false. It does not raise Revision:
	// the lease's end is all that it changes, and who has seen the old one looks
	// again when that has come.
	Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error)

	Reader
}

// A Reader reads the documents that are being served: those of the live build of
// the one processor that has the collection; none where no processor has it.
// Every method needs the tenant; documents of a projection across tenants have
// the tenant "". Names are compared by their bytes.
type Reader interface {
	// Get returns one document, or [ErrNotFound].
	Get(ctx context.Context, collection, tenant, id string) (Document, error)

	// List returns documents of a tenant with an id above after, by ascending
	// id in byte order, at most limit.
	List(ctx context.Context, collection, tenant, after string, limit int) ([]Document, error)

	// Tenants returns the tenants that have documents in a collection, above
	// after, in byte order, at most limit. It is for operators and exports. The
	// tenant "" is above nothing, so it is never among them.
	Tenants(ctx context.Context, collection, after string, limit int) ([]string, error)
}

// A Key names a document inside its collection.
type Key struct{ Tenant, ID string }

// A Document is a row of a read model.
type Document struct {
	Key
	// Version is the stream version it has reached, 0 where it is made from
	// several streams.
	Version int64
	// Position is that of the last event applied to it.
	Position event.Position
	// Data comes back to the byte, unless the store says that it keeps JSON by
	// its value. Then what is JSON comes back equal as JSON: white space, the
	// order of keys, escapes in strings and the spelling of numbers (1e2 for 100)
	// may be another, and of equal keys in one object the last one stays. It may
	// refuse what is not JSON.
	Data    []byte
	Updated time.Time // when it was committed; set by the store
}

// A Write replaces or deletes one document.
type Write struct {
	Document
	Delete bool
}

// A Build is one edition of a processor's read model. One build of a processor
// is live: it is what readers see. A rebuild fills another one.
type Build struct {
	Processor string
	Number    int64 // from 1
}

// A LaneID names a lane. Tenant is "" for the base lane of a partition.
type LaneID struct {
	Build
	Partition int
	Tenant    string
}

func (id LaneID) String() string {
	s := fmt.Sprintf("%s/%d", id.Processor, id.Partition)
	if id.Number != 1 {
		s = fmt.Sprintf("%s#%d/%d", id.Processor, id.Number, id.Partition)
	}
	if id.Tenant != "" {
		s += fmt.Sprintf("[%q]", id.Tenant)
	}
	return s
}

// Base returns the id of the base lane of id's partition.
func (id LaneID) Base() LaneID { id.Tenant = ""; return id }

// A State says what a lane may do.
type State string

const (
	Running State = "running"
	// Paused lanes keep their place. An operator or the policy "park tenant"
	// has stopped them.
	Paused State = "paused"
	// Held lanes wait for the switch of a rebuild, which is near.
	Held State = "held"
	// Recut lanes are about to be split, or merged with another partition's.
	// Their owners let them go.
	Recut State = "recut"
)

// A Lane is the row of a lane: its checkpoint, its lease and its exclusions.
type Lane struct {
	LaneID
	Epoch    int64          // the fencing number: each new owner raises it
	Position event.Position // every event up to it that is the lane's has taken effect
	Done     []byte         // what took effect beyond Position; nil: nothing. See internal/done

	// Exclusions: tenant -> until. The lane applies an event of tenant t at x
	// only if x > until. Base lanes only.
	Exclusions map[string]event.Position
	// Revision is raised whenever Exclusions or State change, whoever changes
	// them, and when dead letters of the lane change by another hand than its
	// owner's. A batch that was prepared under an old one cannot commit.
	Revision int64

	// Of is the modulus of the lane's partition: it has the keys whose hash
	// modulo Of is Partition. 0, in rows from before there was a choice, is the
	// processor's Partitions.
	Of int
	// Want, in a base lane, is the modulus that an operator wants instead: twice
	// Of to split the partition, half of it to merge it with the other half. 0:
	// it is to stay.
	Want int
	// Until is where a lane stands still until it has been merged with the other
	// half of its partition; 0: nowhere.
	Until event.Position

	State  State
	Reason string // why it is not running, for people
	Pinned bool   // a tenant lane that only an operator merges
	Owner  string // the member that holds the lease; "" where none does
	// Home is the name of the member that the lane belongs to: while that one is away,
	// to be restarted, another is its Owner. "": nobody in particular.
	Home string

	// AppliedAt is when the log recorded the last event that was applied.
	AppliedAt time.Time
	UpdatedAt time.Time // of the last commit; set by the store
}

// Excluded reports whether the lane leaves out an event of tenant at p.
func (l *Lane) Excluded(tenant string, p event.Position) bool {
	until, ok := l.Exclusions[tenant]
	return ok && p <= until
}

// A Fence is what a commit expects of its lane's row.
type Fence struct {
	Epoch    int64
	Position event.Position
	Revision int64
}

// A Commit is everything that one batch of a lane changes.
type Commit struct {
	Lane  LaneID
	Fence Fence

	Position  event.Position // the new checkpoint, at least Fence.Position, or it is an error
	Done      []byte         // the new Lane.Done, replacing the old
	AppliedAt time.Time      // the new Lane.AppliedAt; zero: as before

	// Lazy lets the store return before the commit is safe from a crash of its machine,
	// so that the disk is not made to wait for it. One that such a crash undoes is
	// undone whole, with all that was committed after it, and so is seen by where the
	// lane's row is. A store may ignore it.
	Lazy bool

	Writes  []Write      // keys are distinct; to delete what is not there is no error
	Letters []DeadLetter // to add; ids are assigned by the store, ascending in this order, never twice

	// Remove are ids of dead letters to remove. Each must be one of this lane's
	// build and partition, and of its tenant if it has one; else the error wraps
	// [ErrNotFound].
	Remove []int64

	// Detach: for each, add the exclusion Tenant -> Unbounded and insert the
	// lane; it is an error where there is one. Forget: drop these exclusions. If
	// either is not empty the store raises the lane's Revision by one.
	Detach []Lane
	Forget []string

	// SQL, where not nil, runs last in the transaction, which it gets in the
	// adapter's own type. Its error rolls everything back and comes back
	// wrapped in a [*UserError].
	SQL func(ctx context.Context, tx any) error
}

// ErrFenced is what a [*FenceError] wraps.
var ErrFenced = errors.New("store: commit refused by the fence")

// A FenceError says that a lane's row is not what a commit expected; nothing
// was changed. Lost tells whether the owner has lost the lane (another epoch, or
// the lane is gone): then it must stop. Otherwise the row was changed by another
// hand: read it again and prepare the batch again.
type FenceError struct {
	Lane     LaneID
	Expected Fence
	Found    Fence // zero where the lane is gone
}

// Lost reports whether the lane has another owner, or is gone.
func (e *FenceError) Lost() bool { return e.Found.Epoch != e.Expected.Epoch }

func (e *FenceError) Error() string {
	return fmt.Sprintf("store: commit of lane %v refused: expected %+v, found %+v", e.Lane, e.Expected, e.Found)
}

func (e *FenceError) Unwrap() error { return ErrFenced }

// A UserError is an error of the user's function inside a commit, as opposed to
// one of the store. Nothing was changed.
type UserError struct{ Err error }

func (e *UserError) Error() string { return "store: user function: " + e.Err.Error() }
func (e *UserError) Unwrap() error { return e.Err }

// ErrNotFound means that there is no such row.
var ErrNotFound = errors.New("store: not found")

// ErrNewerSchema means that the store was written by a newer version of
// Fairlead: use that version, or a copy of the store from before.
var ErrNewerSchema = errors.New("store: schema is newer than this program")
