// Package ledger is the seam to the route ledger: who owns a test event that is
// routed to a sandbox, the sandbox or the baseline. The answer is a matter of
// positions and never of clocks: a sandbox owns what is routed to it from the
// position on at which it registered, up to what it has committed when its
// registration is closed; all else is the baseline's.
//
// The rules, which the adapters keep and the test of this package checks:
//
//   - A sandbox writes that it registers for a log partition before it reads the
//     partition's end, where its interval begins. The baseline decides about an event
//     after it has read the ledger, and reads it after it has seen the event. So who is
//     not in what it read begins at or behind that event.
//   - Each commit of a sandbox's store fails unless its registration is open, in the
//     same transaction. Closing waits for those that are under way, and keeps what
//     the store's lanes say in the transaction that closes: what they have not done by
//     then, that registration never does.
//   - What is a sandbox's, or was when it was passed over, the baseline keeps among its
//     dead letters, in the same commit in which it passes over it, with the event in it
//     ([store.Routed]). When the sandbox has committed the event the letter goes, and
//     when it is closed without, the event is the baseline's.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// A Ledger keeps registrations, in the database that has the sandboxes' stores. All
// methods may be called from many goroutines at once. Each is one transaction.
type Ledger interface {
	// Sandboxes returns the registrations for a service on a log, by host and
	// generation; those of some hosts only, where hosts is not nil.
	Sandboxes(ctx context.Context, log, service string, hosts []string) ([]Sandbox, error)

	// Register returns the open registration of a host, or begins one: it has no
	// partitions then, so it owns nothing yet. From then on every commit of s fails with
	// [ErrClosed] unless that registration is open. S must be in the ledger's database,
	// and a host's open registration of the same store, or it is an error. Lease is for
	// how long the baseline leaves it open without [Ledger.Renew].
	Register(ctx context.Context, log, service, host string, s store.Store, lease time.Duration) (Sandbox, error)

	// Reserve notes that a registration is about to have a log partition. It returns
	// where its interval begins if that is known already. It fails with [ErrClosed].
	Reserve(ctx context.Context, id int64, partition int) (Span, error)

	// Begin says where the interval of a reserved partition begins: at the end of the
	// log partition, read after Reserve has returned. The first one counts, and is
	// returned. It fails with [ErrClosed].
	Begin(ctx context.Context, id int64, partition int, from event.Position) (event.Position, error)

	// Renew moves the end of the lease, or fails with [ErrClosed].
	Renew(ctx context.Context, id int64, lease time.Duration) error

	// End closes a registration if that is allowed by when, and reports whether it is
	// closed now. A partition that is reserved and has no beginning never gets one.
	End(ctx context.Context, id int64, when When) (closed bool, err error)

	// Lanes returns what the lanes of a registration's store say now, of its live builds
	// only, and of a registration that is closed what they said then: by now they may be
	// past events that another registration does not own. Nil: there is no such store any
	// more.
	Lanes(ctx context.Context, id int64) ([]store.Lane, error)

	// Forget removes a registration that is closed: for whoever reads the ledger from
	// then on it has never been. One that is open stays, and so may the last one.
	Forget(ctx context.Context, id int64) error

	Keys
}

// When says when a registration may be closed.
type When int

const (
	// Always: it is another one's decision that the sandbox ends. What still runs of it
	// commits nothing any more.
	Always When = iota
	// Expired: if its lease has ended, by the ledger's clock.
	Expired
	// Left: if no process has a lease in its store any more.
	Left
)

// A Sandbox is a registration.
type Sandbox struct {
	ID         int64
	Log        string // identity of the log whose positions it has
	Service    string
	Host       string // the sandbox's label in routes
	Generation int    // of the registrations of this host, from 1
	Store      string // where its read models are, as people know it

	Open    bool
	Lease   time.Time // its end, by the ledger's clock
	Expired bool      // it has ended
	Since   time.Time
	Closed  time.Time // zero while it is open

	Partitions map[int]Span // of the log
	// Lanes are what the lanes of its store's live builds said when it was closed.
	Lanes []store.Lane
}

// A Span is the beginning of an interval: what is behind From is the sandbox's.
type Span struct {
	From    event.Position
	Pending bool // it is reserved, and From not known yet
}

// ErrClosed means that a registration is closed: what its sandbox has not committed
// is the baseline's.
var ErrClosed = errors.New("ledger: the sandbox's registration is closed: what it had not committed is the baseline's; start it anew to register it again")

// A HostError says that a host label is another sandbox's.
type HostError struct {
	Sandbox Sandbox
	Store   string // that wanted it
}

func (e *HostError) Error() string {
	return fmt.Sprintf("ledger: the host label %q of service %q is registered by the sandbox whose store is %s, and this one's is %s: give each sandbox a label of its own, "+
		"or close the other one first (routes close %s)", e.Sandbox.Host, e.Sandbox.Service, e.Sandbox.Store, e.Store, e.Sandbox.Host)
}

// Routes are routes with names, for people who test: the sandbox for each of some
// services. Where events carry their route they decide nothing; where events carry a
// name, as a routing key, they are what [Keys] binds.
type Routes interface {
	// Routes returns all, by name, as service -> host.
	Routes(ctx context.Context) (map[string]map[string]string, error)
	PutRoute(ctx context.Context, name string, route map[string]string) error
	// DeleteRoute reports whether there was one.
	DeleteRoute(ctx context.Context, name string) (bool, error)
}
