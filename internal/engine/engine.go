package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
)

// Errors to branch on.
var (
	ErrUnknownProcessor = errors.New("engine: no such processor in this consumer")
	ErrExists           = errors.New("engine: the consumer has a processor of that name")
	ErrRunning          = errors.New("engine: the consumer is running already")
)

// Config says what an engine works on. Log and Store are needed; everything
// else has a default.
type Config struct {
	Log    eventlog.Log
	Store  store.Store
	Name   string // of the process, for people; default: the host name
	Logger *slog.Logger
	Memory int           // bytes of events and documents kept; default 64 MiB
	Slots  int           // batches run at once; default: the number of CPUs, at least 4
	Lease  time.Duration // after which another process takes over a dead one's lanes; default 10 s
	Pool   string        // of workers that it belongs to; default: none, it works what all share
}

// An Engine runs the lanes of its processors that no other process has.
type Engine struct {
	cfg      Config
	log      eventlog.Log
	store    store.Store
	logger   *slog.Logger
	pages    *pages
	turns    *turns
	gently   gently // rebuilds beside live traffic
	progress broadcaster
	id       string
	wakes    chan struct{}
	changed  chan struct{} // processors were added or removed
	joining  chan struct{} // full: somebody joins

	mu       sync.Mutex
	procs    map[string]*active
	failed   map[store.LaneID]time.Time // lanes that ended with an error here, and when
	known    []string                   // notes that the store may have of this process
	worked   map[store.LaneID]int64     // the last epoch under which a lane was worked here
	running  bool
	leaving  bool                    // Run is about to end
	others   bool                    // there are processes that may have the log partitions of this one
	stop     context.CancelCauseFunc // has Run end
	assigned *assigned               // by the log's own sharing; nil: there is none
	wg       sync.WaitGroup          // the lanes' goroutines
	given    giving
}

// An active is a processor that was added.
type active struct {
	p     *Processor
	lanes map[store.LaneID]*owned
	gone  bool // being removed
	stats procStats
	pool  *streamPool // of a reactor; made with its first lane

	unowned map[store.LaneID]error // lanes that nobody had at the last look, and perhaps why

	begin time.Time // when the begin of a rebuild that failed is tried again; the supervisor's
}

// An owned is a lane that this process works.
type owned struct {
	heldLane
	runner runner
	cancel context.CancelFunc
	ended  chan struct{}
	stuck  bool // was complained about
	lent   bool // its partition was another member's when it was begun

	asked  time.Time // when its cost was asked for
	worked time.Duration
	rate   float64 // processors, a moving average
	class  int64   // of that, as the others were told
}

// A runner is the shell around a lane.
type runner interface {
	run(ctx context.Context) error
	// retire lets the lane end when what it has in hand is done; false: nothing is
	// lost if its context ends at once.
	retire() bool
	nudge()              // look whether there is something to do
	reread(rev int64)    // the row has another revision: read it again if you do not know it
	flush()              // somebody waits for the checkpoint
	budget(bytes int)    // memory that it may keep
	report() *laneStatus // what to tell operators
	// stuck returns an error if a handler has not returned for too long.
	stuck(now time.Time) error
}

// New returns an engine. It starts nothing.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.Store == nil {
		return nil, errors.New("engine: a log and a store are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Memory == 0 {
		cfg.Memory = 64 << 20
	}
	if cfg.Slots == 0 {
		cfg.Slots = max(4, runtime.GOMAXPROCS(0))
	}
	if cfg.Lease == 0 {
		cfg.Lease = 10 * time.Second
	}
	if cfg.Name == "" {
		cfg.Name, _ = os.Hostname()
	}
	if cfg.Pool != "" {
		if err := lane.CheckPool(cfg.Pool); err != nil {
			return nil, fmt.Errorf("engine: %w", err)
		}
	}
	if cfg.Memory < 1<<20 || cfg.Slots < 1 || cfg.Lease < 100*time.Millisecond {
		return nil, fmt.Errorf("engine: memory %d (at least 1 MiB), slots %d (at least 1), lease %v (at least 100 ms)", cfg.Memory, cfg.Slots, cfg.Lease)
	}
	return &Engine{
		cfg: cfg, log: cfg.Log, store: cfg.Store, logger: cfg.Logger,
		pages: newPages(cfg.Log, cfg.Memory/4), turns: newTurns(cfg.Slots), gently: gently{turn: make(chan struct{}, 1)},
		id: cfg.Name + "/" + rand.Text()[:10], wakes: make(chan struct{}, 1), changed: make(chan struct{}, 1), joining: make(chan struct{}, 1),
		procs: map[string]*active{}, failed: map[store.LaneID]time.Time{}, worked: map[store.LaneID]int64{},
	}, nil
}

// ID returns the name under which the engine holds leases.
func (e *Engine) ID() string { return e.id }

// Add adds a processor, and makes its rows in the store if it is new. A running
// engine starts to work on it at once.
func (e *Engine) Add(ctx context.Context, p Processor) error {
	p, err := p.WithDefaults()
	if err != nil {
		return err
	}
	if err := e.permitted(ctx, p.Name); err != nil {
		return fmt.Errorf("processor %q: %w", p.Name, err)
	}
	logParts, err := e.log.Partitions(ctx)
	if err != nil {
		return fmt.Errorf("processor %q: partitions of the log: %w", p.Name, err)
	}
	if logParts > 1 {
		if p.Partitions > 1 && p.Partitions != logParts {
			return fmt.Errorf("processor %q: %d partitions, but the log has %d of its own: leave Partitions out", p.Name, p.Partitions, logParts)
		}
		p.Partitions, p.follows = logParts, true
		if err := p.checkShared(); err != nil {
			return err
		}
	}
	starts := make([]event.Position, p.Partitions)
	for i := range starts {
		if starts[i], err = p.Start.resolve(ctx, e.log, e.logPartition(&p, i, logParts)); err != nil {
			return fmt.Errorf("processor %q: start position: %w", p.Name, err)
		}
	}
	row := store.Processor{Name: p.Name, Kind: p.Kind(), Partitions: p.Partitions, CrossTenant: p.crossTenant()}
	if p.Projection != nil {
		row.Collection, row.Version = p.Projection.Name(), p.Projection.Version()
	}
	row.Builds.Shares = p.shares()
	if i, ok := e.log.(eventlog.Identity); ok {
		row.Builds.Log, row.Builds.LogPartitions = i.Identity(), logParts
	}
	got, err := lane.Setup(ctx, e.store, row, func(i int) event.Position { return starts[i] })
	if err != nil {
		return err
	}
	if p.follows && got.Builds.LogPartitions == 1 && got.Partitions > 1 {
		return fmt.Errorf("processor %q: its %d lanes are shares of a log with one partition, which has %d now: give it a new name: %w",
			p.Name, got.Partitions, logParts, lane.ErrState)
	}
	if p.follows && got.Builds.LogPartitions > 0 && got.Partitions < p.Partitions {
		if got, err = lane.Grow(ctx, e.store, p.Name, p.Partitions); err != nil {
			return err
		}
	}
	if err := e.fit(ctx, &p, got); err != nil {
		return err
	}
	if got.Version != row.Version && !p.RebuildChanged {
		e.logger.Warn("the read model was made by another version of the projection; rebuild it when it suits",
			"processor", p.Name, "stored", got.Version, "program", row.Version)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.procs[p.Name]; ok {
		return fmt.Errorf("processor %q: %w", p.Name, ErrExists)
	}
	e.procs[p.Name] = &active{p: &p, lanes: map[store.LaneID]*owned{}, stats: procStats{window: slo.NewWindow(p.Freshness, 0, 0)}}
	e.news()
	e.wake()
	return nil
}

// news makes the next heartbeat come now.
func (e *Engine) news() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *Engine) logPartition(p *Processor, i, logParts int) int {
	if logParts > 1 {
		return i
	}
	return 0
}

// Remove stops a processor in this process and gives its lanes up. Its rows and
// documents stay. If ctx ends first the processor is stopping all the same: call
// Remove again to wait for its end.
func (e *Engine) Remove(ctx context.Context, name string) error {
	e.mu.Lock()
	a, ok := e.procs[name]
	if !ok {
		e.mu.Unlock()
		return fmt.Errorf("processor %q: %w", name, ErrUnknownProcessor)
	}
	a.gone = true
	e.news()
	var ended []chan struct{}
	for _, o := range a.lanes {
		o.cancel()
		ended = append(ended, o.ended)
	}
	e.mu.Unlock()
	for _, c := range ended {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	if e.procs[name] == a {
		delete(e.procs, name)
		e.turns.forget(name)
	}
	e.mu.Unlock()
	return nil
}

// Run works until ctx ends, or rights lack at its begin ([store.ErrRights]), or the store has become one of a newer program, which its
// statements do not fit any more ([store.ErrNewerSchema]), or the log excludes this
// process ([eventlog.ErrExcluded]). Then it gives its lanes to
// the other processes, for some seconds at most, if there are any: handlers may be
// called until theirs is given. When it returns, every goroutine that it started has
// returned, and its leases are given up. An engine runs once at a time.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.permitted(ctx, e.Names()...); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return ErrRunning
	}
	ctx, stop := context.WithCancelCause(ctx)
	work, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the lanes' and all that they need
	e.running, e.leaving, e.stop = true, false, stop
	if e.sharer() != nil {
		e.assigned = &assigned{took: map[store.LaneID]time.Time{}}
	}
	e.mu.Unlock()
	var wg sync.WaitGroup
	defer func() {
		stop(nil)
		cancel()
		e.wg.Wait()
		wg.Wait()
		e.leave(work)
		e.mu.Lock()
		e.running, e.assigned = false, nil
		e.mu.Unlock()
	}()
	logParts, err := e.log.Partitions(ctx)
	if err != nil {
		return fmt.Errorf("engine: partitions of the log: %w", err)
	}
	e.mu.Lock()
	e.known = []string{""}
	e.mu.Unlock()
	_, _, err = e.keep(ctx) // a store makes itself ready with the first one
	if err == nil {
		err = e.join(ctx)
	}
	if err != nil {
		return fmt.Errorf("engine: first heartbeat: %w", err)
	}
	silent := &outage{since: map[int]time.Time{}}
	watch := func(from, to int) {
		for i := from; i < to; i++ {
			wg.Go(func() {
				e.pages.watch(work, i, func(err error) {
					silent.note(e.logger, i, err, time.Now())
					if err != nil {
						pause(work, time.Second)
					}
				})
			})
		}
	}
	watch(0, logParts)
	wg.Go(func() { e.grow(work, logParts, watch) })
	wg.Go(func() { e.heartbeats(work) })
	if a := e.sharer(); a != nil {
		e.mu.Lock()
		e.assigned.single = logParts == 1
		e.mu.Unlock()
		follow, unfollow := context.WithCancel(work)
		defer unfollow()
		left := make(chan struct{})
		wg.Go(func() { defer close(left); e.follow(follow, a) })
		e.supervise(ctx, work, logParts)
		unfollow()
		// The lanes end when what they have in hand is done, and then the log's sharing is
		// left. Handlers that take longer are cut short, as those of a lane that moves.
		select {
		case <-left:
			e.giveKept(ctx, work, logParts)
		case <-time.After(handOverAtMost):
		}
	} else {
		e.supervise(ctx, work, logParts)
	}
	if err := context.Cause(ctx); errors.Is(err, store.ErrNewerSchema) || errors.Is(err, eventlog.ErrExcluded) {
		return fmt.Errorf("engine: %w", err)
	}
	return ctx.Err()
}

// outdated ends Run where an error says that the store is a newer program's: to hold
// on to lanes would keep that one from them.
func (e *Engine) outdated(err error) {
	if errors.Is(err, store.ErrNewerSchema) {
		e.stop(err)
	}
}

// leave gives up all leases, so that others need not wait for their end.
func (e *Engine) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := lane.Leave(ctx, e.store, e.id); err != nil {
		e.logger.Warn("leases were not given up; they end by themselves", "error", err)
	}
}

// wake makes the supervisor look at the rows now.
func (e *Engine) wake() {
	select {
	case e.wakes <- struct{}{}:
	default:
	}
}

// processor returns an added processor.
func (e *Engine) processor(name string) (*active, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a, ok := e.procs[name]
	if !ok {
		return nil, fmt.Errorf("processor %q: %w", name, ErrUnknownProcessor)
	}
	return a, nil
}

// pause waits for d; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A broadcaster wakes all who wait.
type broadcaster struct {
	mu sync.Mutex
	c  chan struct{}
}

func (b *broadcaster) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *broadcaster) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
