package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/dispatch"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A batchLane is a lane of a projection or of a batch projector: a state
// machine whose steps are prepare, fold, seal, commit and committed, in that
// order for each batch. A batch that is not sealed may be given more of the log,
// by extend and fold. All that may happen while the batch before is being
// committed; batches commit in order. When any step fails, restart throws away
// all that is not committed.
//
// It has no goroutine and no clock. Its methods are called by one goroutine at
// a time, but for commit, which touches nothing but the batch.
//
// Invariants: the row's position <= sent.Position <= at. Every event up to at
// that is the lane's is in a batch up to the current one. What the cache holds
// is what the rows will be once every batch that was folded is committed.
type batchLane struct {
	p       *Processor
	id      store.LaneID
	bucket  *eventlog.Bucket // of the log that has all of the lane's events; nil: it has no less than all
	st      store.Store
	pages   *pages
	streams eventlog.StreamReader // to tell gaps from what was passed over; nil: no such check
	logPart int                   // the log partition
	workers func(estimated time.Duration) int
	cache   *docCache
	grouper dispatch.Grouper
	logger  *slog.Logger

	row    store.Lane
	at     event.Position // prepared up to here
	sent   store.Fence    // what the next commit will find
	first  *laneView      // what it begins with; nil: what it reads
	seq    int64          // the last batch made
	done   int64          // the last batch committed
	parked map[store.Key]bool
	retry  []store.ParkedKey
	paused bool    // the processor is
	live   bool    // its build is what readers see
	limit  float64 // of a rebuild's lane: events a second; 0: none
	small  int     // events of its pages while it goes gently; 0: it does not

	// What is known from batches that failed. It outlives a restart, because it
	// is why the batch is prepared again.
	poison      map[mark]*projection.HandlerError
	leave       map[string]departure
	isolated    isolated
	stopAt      *stop
	careful     bool           // find out which event leaves a state that cannot be encoded
	singleUntil event.Position // one event a batch up to here
	attempts    int            // of the batch in hand
	undone      *batch         // to be thrown away by restart
	cost        pace           // of running events
	encoding    pace           // of encoding documents
	skipShare   float64        // of the events read that were excluded, in the last shared page
	passShare   float64        // of those that were passed over for their type
	tenants     int            // in the last page
	density     float64        // of a tenant lane's own events in the last page
	begun       time.Time      // when this process began to work the lane

	moves eventlog.Sequencer // where tenants may move in the log; nil: they do not
}

// A mark names an event in an ordering key.
type mark struct {
	at  event.Position
	key store.Key
}

// A departure is a tenant's leaving for a lane of its own.
type departure struct {
	after  event.Position // the base lane applies the tenant's events up to here
	state  store.State
	reason string
}

// A stop is where a lane is to be stopped, by its poison policy.
type stop struct {
	after  event.Position
	reason string
}

// counts are events that changed nothing, by why.
type counts struct {
	duplicates, passed, excluded int64
}

// errAgain means that the batch must be thrown away and prepared again, with
// what is known now.
var errAgain = errors.New("engine: prepare again")

// parkedUnknown is the ordering key under which an event is parked whose
// documents cannot be told, because it does not decode. No document of the
// user's begins like this, so it holds up nothing.
const parkedUnknown = projection.ReservedDocument

// restart begins anew from what the store holds.
func (l *batchLane) restart(ctx context.Context) error {
	var parked []store.ParkedKey
	var row store.Lane
	var err error
	if v := l.first; v != nil {
		l.first = nil
		row, parked = v.row, v.parked
		l.paused, l.live, l.limit = v.paused, true, 0
	} else {
		err = l.st.View(ctx, func(tx store.Tx) (err error) {
			if row, err = tx.Lane(l.id); err != nil {
				return err
			}
			p, err := tx.Processor(l.id.Processor)
			if err != nil {
				return err
			}
			l.paused, l.live = p.Paused, p.Live == l.id.Number
			if l.limit, err = share(tx, &p, l.id.Number); err != nil {
				return err
			}
			parked, err = tx.Parked(l.id.Build, l.id.Tenant)
			return err
		})
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &store.FenceError{Lane: l.id, Expected: store.Fence{Epoch: l.row.Epoch}}
	case err != nil:
		return fmt.Errorf("lane %v: load: %w", l.id, err)
	case row.Epoch != l.row.Epoch:
		return &store.FenceError{Lane: l.id, Expected: store.Fence{Epoch: l.row.Epoch}, Found: store.Fence{Epoch: row.Epoch}}
	}
	l.forget(row)
	l.row = row
	l.at = row.Position
	if mutant.Is(mutant.ResumeEarly) && l.at > 0 {
		l.at--
	}
	l.sent = store.Fence{Epoch: row.Epoch, Position: row.Position, Revision: row.Revision}
	l.parked, l.retry = map[store.Key]bool{}, nil
	for _, k := range parked {
		if k.Partition != l.id.Partition || l.outside(k.Tenant) {
			continue
		}
		l.parked[store.Key{Tenant: k.Tenant, ID: k.Key}] = !mutant.Is(mutant.ParkedForgotten)
		if k.Retry {
			l.retry = append(l.retry, k)
		}
	}
	if l.leave == nil {
		l.leave, l.poison = map[string]departure{}, map[mark]*projection.HandlerError{}
	}
	maps.DeleteFunc(l.leave, func(t string, d departure) bool {
		return row.Exclusions[t] == event.Unbounded || d.after < row.Position
	})
	maps.DeleteFunc(l.poison, func(m mark, _ *projection.HandlerError) bool { return m.at <= row.Position })
	return nil
}

// outside reports whether a tenant has left the lane for one of its own, so that
// its dead letters are none of the lane's.
func (l *batchLane) outside(tenant string) bool {
	return l.id.Tenant == "" && l.row.Exclusions[tenant] == event.Unbounded && !mutant.Is(mutant.DrainOutside)
}

// forget drops cached documents that may not be what the rows are: those that
// uncommitted batches changed, and those of tenants that have changed lanes.
func (l *batchLane) forget(row store.Lane) {
	if row.Position < l.row.Position { // the store was set back: what is cached is of a time that is no more
		l.cache.clear()
	}
	if l.seq != l.done || l.undone != nil || row.Position != l.sent.Position {
		for _, d := range l.cache.docs {
			if (d.batch > l.done || d.dirty) && !mutant.Is(mutant.DirtyKept) {
				l.cache.drop(d)
			}
		}
	}
	l.seq, l.undone = l.done, nil
	if row.Revision == l.row.Revision {
		return
	}
	for t, until := range l.row.Exclusions {
		if now, ok := row.Exclusions[t]; !ok || now != until {
			l.cache.dropTenant(t)
		}
	}
	for t := range row.Exclusions {
		// Also where the exclusion is as it was: the tenant may have left and
		// come back at the same position, with letters drained or its documents
		// rebuilt meanwhile.
		l.cache.dropTenant(t)
	}
}

// runnable reports whether the lane may work, and why not.
func (l *batchLane) runnable() (bool, string) {
	switch {
	case l.paused:
		return false, "processor paused"
	case l.row.State != store.Running:
		return false, l.row.Reason
	}
	return true, ""
}

// request is what the lane wants to read next.
func (l *batchLane) request() eventlog.ReadRequest {
	req := eventlog.ReadRequest{Partition: l.logPart, After: l.at, MaxEvents: l.small}
	switch {
	case l.id.Tenant != "" && !l.dense():
		req.Filter.Tenants = []string{l.id.Tenant}
	case l.p.Tenants != nil:
		req.Filter.Tenants = l.p.Tenants
	}
	req.Filter.Classes = l.p.logClasses()
	// A filter by type is left to prepare where pages are shared: to read and
	// drop a page that another lane has read costs less than to read it again,
	// unless nearly all of it is to be dropped.
	if l.p.Types != nil && (req.Filter.Tenants != nil || l.passShare > 0.8 && l.farBehind()) {
		req.Filter.Types = storedTypes(l.p.Types)
	}
	if req.Filter.Tenants == nil && l.id.Tenant == "" {
		// Tenants that are out for good are skipped by the log, in bulk, as
		// soon as they are most of what there is.
		req.Filter.Exclude = l.skipping()
	}
	if l.stopAt != nil {
		req.Until = l.stopAt.after
	}
	if u := l.row.Until; u != 0 && (req.Until == 0 || u < req.Until) {
		req.Until = u
	}
	return req
}

// dense reports whether a tenant lane reads shared pages and passes over what
// others have there, because enough of it is its own or others read it anyway,
// instead of its own events through the log's index.
func (l *batchLane) dense() bool {
	return l.density > 0.1 || l.pages.head(l.logPart)-l.at < pageEvents
}

// measure notes how much of a page is of interest to the lane.
func (l *batchLane) measure(page eventlog.Page) {
	if len(page.Events) == 0 {
		return
	}
	own, passed := 0, 0
	for i := range page.Events {
		e := &page.Events[i]
		if e.Tenant == l.id.Tenant {
			own++
		}
		if l.p.Types != nil && !slices.Contains(l.p.Types, e.HandledType()) {
			passed++
		}
	}
	l.density = float64(own) / float64(page.Next-page.Events[0].Position+1)
	if req := l.request(); req.Filter.Types == nil {
		l.passShare = float64(passed) / float64(len(page.Events))
	}
}

// storedTypes returns the types as they stand in the log: without the schema.
func storedTypes(types []string) []string {
	stored := make([]string, len(types))
	for i, t := range types {
		stored[i], _, _ = strings.Cut(t, "@")
	}
	return stored
}

// skipping returns the tenants that the log is to leave out: those that have
// left for good, while the lane is far behind and they are most of what it
// reads. Otherwise a shared page is cheaper.
func (l *batchLane) skipping() []string {
	if l.skipShare < 0.5 || !l.farBehind() || l.pages.crowd(l.logPart) {
		return nil
	}
	var out []string
	for t, until := range l.row.Exclusions {
		if until == event.Unbounded {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// farBehind reports whether other lanes, which are at the end of the log, read
// other pages than this one.
func (l *batchLane) farBehind() bool { return l.pages.head(l.logPart)-l.at >= 2*pageEvents }

// comparable reports whether the positions that documents have reached are of the
// lane's partition, and so tell events that were applied. Those of a tenant that has
// moved may be of another one. That nothing is applied twice is the fence's doing anyway.
func (l *batchLane) comparable(tenant string) bool { return l.moves == nil || !l.moves.Moved(tenant) }

// tenantSpace returns the tenant of the documents made from e.
func (l *batchLane) tenantSpace(e *event.Event) string { return l.spaceOf(e.Tenant) }

// spaceOf returns the tenant of the documents made from a tenant's events.
func (l *batchLane) spaceOf(tenant string) string {
	if l.p.crossTenant() {
		return ""
	}
	return tenant
}

// A pace is a moving average of how long one of many things takes; 0 until it
// has learnt. A batch counts by its size: what a small one does once, to load its
// documents, is little of what a large one does.
type pace struct{ took, things float64 }

func (p *pace) learn(took time.Duration, things int) {
	p.took = 0.8*p.took + took.Seconds()
	p.things = 0.8*p.things + float64(things)
}

// seconds returns how long one takes.
func (p *pace) seconds() float64 {
	if p.things == 0 {
		return 0
	}
	return p.took / p.things
}

// of returns how long n take.
func (p *pace) of(n int) time.Duration {
	return time.Duration(p.seconds() * float64(n) * float64(time.Second))
}

// committed notes that b has taken effect.
func (l *batchLane) committed(b *batch) {
	c := &b.commit
	l.done, l.attempts = b.seq, 0
	l.row.Position = c.Position
	if len(c.Detach)+len(c.Forget) > 0 {
		l.row.Revision++ // the exclusions are as finish left them, for the next batch too
	}
	maps.DeleteFunc(l.poison, func(m mark, _ *projection.HandlerError) bool { return m.at <= c.Position })
	if c.Position >= l.singleUntil {
		l.singleUntil = 0
	}
	l.careful = false
	l.cache.trim(l.done)
}

func (c *counts) add(o *counts) {
	c.duplicates += o.duplicates
	c.passed += o.passed
	c.excluded += o.excluded
}

// commit writes b. It may run beside the other steps of the next batch.
func (l *batchLane) commit(ctx context.Context, b *batch) error {
	if err := l.st.Commit(ctx, &b.commit); err != nil && !mutant.Is(mutant.AnswerAssumed) {
		return fmt.Errorf("lane %v: commit of (%v, %v]: %w", l.id, b.from, b.to, err)
	}
	return nil
}
