// Package memstore is the read-model store in memory: for tests, simulations
// and the first minutes with Fairlead. It forgets everything with its process.
package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// A Store is a [store.Store] in memory. What it takes and what it gives are
// copies. It has no goroutine of its own and waits on channels only, so it works
// in a testing/synctest bubble, even where a transaction sleeps; make it in the
// bubble then.
//
// One transaction runs at a time. A function that runs in one (of Update, View
// or [store.Commit.SQL]) must not call the Store itself: it would wait for its
// own end.
type Store struct {
	now  func() time.Time
	lock chan struct{} // holds one element while a transaction runs
	news chan struct{} // closed as the revision is raised; guarded by lock
	state
}

// A state is everything that is stored. Whoever holds the lock may read it; all
// changes go through the methods of undoLog.
type state struct {
	revision   int64
	lastLetter int64

	processors map[string]store.Processor
	lanes      map[store.LaneID]store.Lane
	letters    map[int64]store.DeadLetter
	members    map[string]store.Member
	weights    map[string]float64
	shards     map[string]string
	pools      map[string]string
	builds     map[store.Build]documents
	tables     map[string]map[string][]byte // the user's
}

// documents are those of a build, by tenant.
type documents map[string]*space

// A space holds the documents of one tenant in one build.
type space struct {
	docs   map[string]store.Document
	sorted []string // the ids of docs in order; nil: not known
}

// ids returns the ids in byte order. The slice is not to be changed.
func (s *space) ids() []string {
	if s.sorted == nil {
		s.sorted = slices.Sorted(maps.Keys(s.docs))
	}
	return s.sorted
}

// An Option changes what [New] makes.
type Option func(*Store)

// WithNow sets the clock of the store; the default is time.Now. It is called
// once for each transaction.
func WithNow(now func() time.Time) Option {
	return func(s *Store) { s.now = now }
}

// New returns an empty store.
func New(opts ...Option) *Store {
	s := &Store{
		now:  time.Now,
		lock: make(chan struct{}, 1),
		news: make(chan struct{}),
		state: state{
			processors: make(map[string]store.Processor),
			lanes:      make(map[store.LaneID]store.Lane),
			letters:    make(map[int64]store.DeadLetter),
			members:    make(map[string]store.Member),
			weights:    make(map[string]float64),
			shards:     make(map[string]string),
			pools:      make(map[string]string),
			builds:     make(map[store.Build]documents),
			tables:     make(map[string]map[string][]byte),
		},
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

// acquire waits for the transaction before, and returns the function that lets
// the next one in.
func (s *Store) acquire(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s.lock <- struct{}{}:
		return func() { <-s.lock }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// time returns the time of a transaction.
func (s *Store) time() time.Time { return utc(s.now()) }

// utc returns t as every store gives it back: in UTC, without a monotonic reading.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}

// Update implements [store.Store]. It runs f once.
func (s *Store) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.run(ctx, true, f)
}

// View implements [store.Store].
func (s *Store) View(ctx context.Context, f func(store.Tx) error) error {
	return s.run(ctx, false, f)
}

func (s *Store) run(ctx context.Context, write bool, f func(store.Tx) error) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	t := &tx{undoLog: undoLog{state: &s.state}, now: s.time(), writable: write}
	// Deferred, because f may panic, or end its goroutine with t.FailNow.
	defer t.close()
	if err := f(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.wrote() {
		s.raise()
	}
	t.keep()
	return nil
}

// raise raises the revision. The caller has the lock.
func (s *Store) raise() {
	s.revision++
	close(s.news)
	s.news = make(chan struct{})
}

// Revision implements [store.Store].
func (s *Store) Revision(ctx context.Context) (int64, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	return s.revision, nil
}

// Changed implements [store.Store].
func (s *Store) Changed(ctx context.Context, known int64) (int64, error) {
	for {
		release, err := s.acquire(ctx)
		if err != nil {
			return 0, err
		}
		revision, news := s.revision, s.news
		release()
		if revision != known {
			return revision, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Extend implements [store.Store].
func (s *Store) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	m, ok := s.members[id]
	now := s.time()
	if !ok || m.Notes != notes || !m.Until.After(now) {
		return false, nil
	}
	m.Until = now.Add(ttl)
	s.members[id] = m
	return true, nil
}

// Load implements [store.Store].
func (s *Store) Load(ctx context.Context, b store.Build, keys []store.Key) ([]store.Document, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var out []store.Document
	for _, k := range keys {
		if sp := s.builds[b][k.Tenant]; sp != nil {
			if d, ok := sp.docs[k.ID]; ok {
				out = append(out, cloneDocument(d))
			}
		}
	}
	return out, nil
}

// Get implements [store.Reader].
func (s *Store) Get(ctx context.Context, collection, tenant, id string) (store.Document, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return store.Document{}, err
	}
	defer release()
	if sp := s.live(collection)[tenant]; sp != nil {
		if d, ok := sp.docs[id]; ok {
			return cloneDocument(d), nil
		}
	}
	return store.Document{}, fmt.Errorf("memstore: document %q of tenant %q in %q: %w", id, tenant, collection, store.ErrNotFound)
}

// List implements [store.Reader].
func (s *Store) List(ctx context.Context, collection, tenant, after string, limit int) ([]store.Document, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	sp := s.live(collection)[tenant]
	if sp == nil {
		return nil, nil
	}
	var out []store.Document
	for _, id := range above(sp.ids(), after, limit) {
		out = append(out, cloneDocument(sp.docs[id]))
	}
	return out, nil
}

// Tenants implements [store.Reader].
func (s *Store) Tenants(ctx context.Context, collection, after string, limit int) ([]string, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return slices.Clone(above(slices.Sorted(maps.Keys(s.live(collection))), after, limit)), nil
}

// Rows returns a copy of one of the user's tables as it was committed last: what
// functions of [store.Commit.SQL] put there. Nil: there is no such table.
func (s *Store) Rows(ctx context.Context, table string) (map[string][]byte, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rows := maps.Clone(s.tables[table])
	for k, v := range rows {
		rows[k] = bytes.Clone(v)
	}
	return rows, nil
}

// live returns the documents that readers of a collection see.
func (s *state) live(collection string) documents {
	if collection == "" {
		return nil // the processors without documents
	}
	for _, p := range s.processors {
		if p.Collection == collection {
			return s.builds[store.Build{Processor: p.Name, Number: p.Live}]
		}
	}
	return nil
}

// above returns at most limit of the sorted names, from the first above after on.
func above(names []string, after string, limit int) []string {
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	return names[i:][:min(len(names)-i, max(limit, 0))]
}

func cloneDocument(d store.Document) store.Document {
	d.Data = bytes.Clone(d.Data)
	return d
}

func cloneProcessor(p store.Processor) store.Processor {
	p.Retired = slices.Clone(p.Retired)
	p.Builds = p.Builds.Clone()
	return p
}

func cloneLane(l store.Lane) store.Lane {
	l.Done = cloneDone(l.Done)
	l.Exclusions = maps.Clone(l.Exclusions)
	return l
}

// cloneDone makes no difference between nil and empty: both say "nothing".
func cloneDone(done []byte) []byte {
	if len(done) == 0 {
		return nil
	}
	return bytes.Clone(done)
}

func cloneLetter(d store.DeadLetter) store.DeadLetter {
	d.Event = cloneEvent(d.Event)
	d.At = utc(d.At)
	return d
}

func cloneEvent(e event.Event) event.Event {
	e.Metadata = maps.Clone(e.Metadata)
	e.Data = bytes.Clone(e.Data)
	e.OccurredAt, e.RecordedAt = utc(e.OccurredAt), utc(e.RecordedAt)
	return e
}

// errReadOnly is what writes in a View return.
var errReadOnly = errors.New("memstore: write in a read-only transaction")

// errEnded is what a Tx returns after its function has returned.
var errEnded = errors.New("memstore: the transaction has ended")
