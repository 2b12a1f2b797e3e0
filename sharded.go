package fairlead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/engine"
	"github.com/fairlead-dev/fairlead/internal/shard"
	"github.com/fairlead-dev/fairlead/store"
)

// ShardedConfig says how tenants are spread over several stores.
type ShardedConfig struct {
	// Config is that of the consumer of each shard: Memory and Slots are for
	// each. Its Store is the control store: the directory of tenants is there,
	// and it is the shard "". A Log that shares out its partitions itself, as one with
	// a consumer group does, is refused: each shard has lanes on all of them.
	Config

	// Shard says in which shard a tenant is; "" is the control store. It is asked
	// when the first event of a tenant is seen: the answer is written into the
	// control store, and holds whatever would be answered later. It is asked for
	// several tenants at once, for each within 5 seconds, when its context ends.
	// While it fails or hangs for a tenant, the lanes that have come to an event of
	// that tenant, in its partition, wait before it with an error that names the
	// tenant, and it is asked again, less and less often, up to every 10 seconds.
	Shard func(ctx context.Context, tenant string) (string, error)

	// Open opens the store of a shard, once in a process, when the first tenant in
	// it is seen. An error is logged and tried again; others are not held up. A
	// store that is an [io.Closer] is closed by [Sharded.Close].
	Open func(ctx context.Context, shard string) (store.Store, error)
}

// A Sharded consumer runs processors on several stores, each of which has the
// read models of some of the tenants, with lanes and checkpoints of its own: a
// commit touches one store. Shards are added as tenants sign up. A store that
// is down holds up the tenants in it and nobody else; while the control store
// is down, tenants that are new to the process wait.
//
// To operate on a shard give its store to an [Admin]; there [Lane.Behind] counts
// the events of the other shards too.
type Sharded struct {
	cfg    ShardedConfig
	logger *slog.Logger
	dir    *shard.Directory
	source *shard.Source

	mu      sync.Mutex
	shards  map[string]*shardConsumer
	procs   []Processor
	changed chan struct{}          // closed, and made anew, when one of the above changes
	runs    func(s *shardConsumer) // starts a shard's goroutine; nil unless Run runs
}

// A shardConsumer is one shard in this process.
type shardConsumer struct {
	name    string
	opening chan struct{}   // taken by who opens it
	store   store.Store     // nil until it is open
	c       *Consumer       // like store
	has     map[string]bool // processors that were added
}

// NewSharded returns a sharded consumer. It starts nothing: see [Sharded.Run].
func NewSharded(cfg ShardedConfig) (*Sharded, error) {
	if cfg.Shard == nil || cfg.Open == nil {
		return nil, errors.New("fairlead: a sharded consumer needs Shard, which says where a tenant is, and Open")
	}
	s := &Sharded{cfg: cfg, logger: cfg.Logger, shards: map[string]*shardConsumer{}, changed: make(chan struct{})}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Log == nil || cfg.Store == nil {
		return nil, errors.New("fairlead: a log and a control store are needed")
	}
	if a, ok := cfg.Log.(eventlog.Assigner); ok && a.Shares() {
		return nil, errors.New("fairlead: the log shares out its partitions in a consumer group, which a sharded consumer cannot take part in, " +
			"because each shard has lanes of its own on all of them: open the log without a group, and the lanes are leased in the stores")
	}
	s.dir = shard.NewDirectory(cfg.Store, cfg.Shard, func(name string) { s.shard(name) })
	memory := cmp.Or(cfg.Memory, 64<<20)
	s.source = shard.NewSource(cfg.Log, s.dir, memory/4)
	if _, err := s.open(context.Background(), s.shard("")); err != nil {
		return nil, err
	}
	return s, nil
}

// open returns the store of a shard, which is opened if it is not yet.
func (s *Sharded) open(ctx context.Context, c *shardConsumer) (store.Store, error) {
	select {
	case c.opening <- struct{}{}:
		defer func() { <-c.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	st := c.store
	s.mu.Unlock()
	if st != nil {
		return st, nil
	}
	cfg := s.cfg.Config
	cfg.Log = s.source.Of(c.name)
	if c.name != "" {
		var err error
		if cfg.Store, err = s.cfg.Open(ctx, c.name); err != nil {
			return nil, fmt.Errorf("open shard %q: %w", c.name, err)
		}
		if cfg.Store == nil {
			return nil, fmt.Errorf("open shard %q: Open returned no store", c.name)
		}
		cfg.Logger = s.logger.With("shard", c.name)
	}
	consumer, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.store, c.c = cfg.Store, consumer
	s.news()
	return c.store, nil
}

// news tells those who wait. s.mu is held.
func (s *Sharded) news() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// shard returns a shard of this process, which is new if nobody asked for it yet.
func (s *Sharded) shard(name string) *shardConsumer {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.shards[name]
	if !ok {
		c = &shardConsumer{name: name, opening: make(chan struct{}, 1), has: map[string]bool{}}
		s.shards[name] = c
		if s.runs != nil {
			s.runs(c)
		}
		s.news()
	}
	return c
}

// Add adds processors, before Run or while it runs. The control store must be
// there; in the other shards they are added as soon as these are.
//
// Projections across tenants are refused: each store would have a part of their
// documents. So is [FromNow], because a shard that is new has no now that fits
// the others: use [FromPosition] or [FromTime].
func (s *Sharded) Add(ctx context.Context, processors ...Processor) error {
	for _, p := range processors {
		if p.p.Projection != nil && p.p.Projection.CrossTenant() {
			return fmt.Errorf("processor %q folds all tenants into shared documents, but the tenants are spread over several stores: run it in a Consumer of its own", p.Name())
		}
		if p.p.Start == engine.FromNow() {
			return fmt.Errorf("processor %q starts now, which is another position in each shard: give it FromPosition or FromTime", p.Name())
		}
		control := s.shard("")
		if err := control.c.Add(ctx, p); err != nil {
			return err
		}
		s.mu.Lock()
		control.has[p.Name()] = true
		s.procs = append(s.procs, p)
		s.news()
		s.mu.Unlock()
	}
	return nil
}

// Run works until ctx ends, and returns ctx's error then. When it returns,
// everything it started has ended and its leases are given up.
func (s *Sharded) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	s.mu.Lock()
	if s.runs != nil {
		s.mu.Unlock()
		return ErrRunning
	}
	s.runs = func(c *shardConsumer) {
		wg.Go(func() {
			if err := s.run(ctx, c); err != nil {
				cancel(err)
			}
		})
	}
	for _, c := range s.shards {
		s.runs(c)
	}
	s.mu.Unlock()
	s.look(ctx)
	s.mu.Lock()
	s.runs = nil // none begins any more
	s.mu.Unlock()
	wg.Wait()
	return context.Cause(ctx)
}

// look finds shards that other processes have met, until ctx ends.
func (s *Sharded) look(ctx context.Context) {
	for {
		names, err := s.dir.Known(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.Warn("the directory of shards does not answer", "error", err)
		}
		for _, n := range names {
			s.shard(n)
		}
		if !sleep(ctx, cmp.Or(s.cfg.Lease, 10*time.Second)/2) {
			return
		}
	}
}

// run works one shard until ctx ends. Only an error of the control store is one
// of Run.
func (s *Sharded) run(ctx context.Context, c *shardConsumer) error {
	wait := 100 * time.Millisecond
	for {
		began := time.Now()
		err := s.serve(ctx, c)
		if time.Since(began) > time.Minute { // it was well for a while
			wait = 100 * time.Millisecond
		}
		if ctx.Err() != nil {
			return nil
		}
		if c.name == "" {
			return err
		}
		s.logger.Error("the shard is not served, its tenants wait; it is tried again", "shard", c.name, "error", err, "in", wait)
		sleep(ctx, wait)
		wait = min(2*wait, 10*time.Second)
	}
}

// serve opens the shard, adds the processors and runs them.
func (s *Sharded) serve(ctx context.Context, c *shardConsumer) error {
	if _, err := s.open(ctx, c); err != nil {
		return err
	}
	if err := s.addTo(ctx, c); err != nil {
		return err
	}
	ended := make(chan error, 1) // Run returns before serve does
	go func() { ended <- c.c.Run(ctx) }()
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		wait := time.Hour
		if err := s.addTo(ctx, c); err != nil && ctx.Err() == nil {
			s.logger.Error("processors were not added to the shard; it is tried again", "shard", c.name, "error", err)
			wait = time.Second
		}
		timer := time.NewTimer(wait)
		select {
		case err := <-ended:
			timer.Stop()
			return err
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// addTo adds the processors that a shard has not got yet.
func (s *Sharded) addTo(ctx context.Context, c *shardConsumer) error {
	s.mu.Lock()
	var missing []Processor
	for _, p := range s.procs {
		if !c.has[p.Name()] {
			missing = append(missing, p)
		}
	}
	s.mu.Unlock()
	for _, p := range missing {
		if err := c.c.Add(ctx, p); err != nil && !errors.Is(err, ErrExists) {
			return err
		}
		s.mu.Lock()
		c.has[p.Name()] = true
		s.news()
		s.mu.Unlock()
	}
	return nil
}

// ready waits until a shard has a processor, and returns its consumer.
func (s *Sharded) ready(ctx context.Context, name, processor string) (*Consumer, error) {
	c := s.shard(name)
	for {
		s.mu.Lock()
		changed, has := s.changed, c.has[processor]
		known := slices.ContainsFunc(s.procs, func(p Processor) bool { return p.Name() == processor })
		s.mu.Unlock()
		if has {
			return c.c, nil
		}
		if !known {
			return nil, fmt.Errorf("processor %q: %w", processor, ErrUnknownProcessor)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for shard %q: %w", name, ctx.Err())
		}
	}
}

// WaitFor returns nil as soon as a processor's read models contain the append
// that token stands for, or ctx's error. This process must be running.
func (s *Sharded) WaitFor(ctx context.Context, processor string, token eventlog.Token) error {
	byShard := map[string][]string{}
	if len(token.Tenants) == 0 { // everybody's events
		names, err := s.dir.Known(ctx)
		if err != nil {
			return err
		}
		byShard[""] = nil
		for _, n := range names {
			byShard[n] = nil
		}
	} else {
		names, err := s.dir.Find(ctx, token.Tenants...)
		if err != nil {
			return err
		}
		for i, t := range token.Tenants {
			byShard[names[i]] = append(byShard[names[i]], t)
		}
	}
	for name, tenants := range byShard {
		c, err := s.ready(ctx, name, processor)
		if err != nil {
			return err
		}
		part := token
		part.Tenants = tenants
		if err := c.WaitFor(ctx, processor, part); err != nil {
			return err
		}
	}
	return nil
}

// Stats returns the figures of a processor in a shard of this process.
func (s *Sharded) Stats(shard, processor string) (Stats, error) {
	s.mu.Lock()
	var consumer *Consumer
	if c := s.shards[shard]; c != nil {
		consumer = c.c
	}
	s.mu.Unlock()
	if consumer == nil {
		return Stats{}, fmt.Errorf("shard %q is not open in this process: %w", shard, ErrUnknown)
	}
	return consumer.Stats(processor)
}

// Shards returns the shards that have tenants, and "", by name.
func (s *Sharded) Shards(ctx context.Context) ([]string, error) {
	names, err := s.dir.Known(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, "") {
		names = append([]string{""}, names...)
	}
	return names, nil
}

// ShardOf returns in which shard a tenant is, which is decided now if it is not
// yet.
func (s *Sharded) ShardOf(ctx context.Context, tenant string) (string, error) {
	names, err := s.dir.Find(ctx, tenant)
	if err != nil {
		return "", err
	}
	return names[0], nil
}

// Close closes the stores that Open opened. Call it after Run has returned.
func (s *Sharded) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, c := range s.shards {
		if closer, ok := c.store.(io.Closer); ok && name != "" {
			errs = append(errs, closer.Close())
		}
	}
	return errors.Join(errs...)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
