package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/engine"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// A watchedStore tells of commits that reach a position. So to wait for the end
// of a run costs the run nothing.
type watchedStore struct {
	store.Store
	head    event.Position
	reached chan struct{} // of capacity 1
}

func (s *watchedStore) Commit(ctx context.Context, c *store.Commit) error {
	err := s.Store.Commit(ctx, c)
	if err == nil && c.Position >= s.head {
		select {
		case s.reached <- struct{}{}:
		default:
		}
	}
	return err
}

// catchUp runs a consumer with these processors over a database that was filled
// before, until all of them have applied all of it. The time is from the start
// of the consumer to its last commit.
func catchUp(ctx context.Context, path string, memory int, tenants []string, processors ...fairlead.Processor) (time.Duration, error) {
	db, err := sqlite.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	return catchUpOn(ctx, db, memory, tenants, processors...)
}

// A database is a log and a store in one.
type database interface {
	eventlog.Log
	eventlog.Appender
	store.Store
	Close() error
}

// catchUpOn is catchUp on a database that is open.
func catchUpOn(ctx context.Context, db database, memory int, tenants []string, processors ...fairlead.Processor) (time.Duration, error) {
	head, err := db.Head(ctx, 0)
	if err != nil {
		return 0, err
	}
	watched := &watchedStore{Store: db, head: head, reached: make(chan struct{}, 1)}
	c, err := fairlead.New(fairlead.Config{Log: db, Store: watched, Memory: memory})
	if err != nil {
		return 0, err
	}
	if err := c.Add(ctx, processors...); err != nil {
		return 0, err
	}
	started := time.Now()
	consumer := start(ctx, c)
	defer func() { _ = consumer.stop() }()
	token := eventlog.Token{Position: head, Tenants: tenants}
	for _, p := range processors {
		for {
			ok, err := engine.Reached(ctx, db, db, p.Name(), token)
			if err != nil {
				return 0, err
			}
			if ok {
				break
			}
			select {
			case <-watched.reached:
			case <-time.After(100 * time.Millisecond): // a tenant may have come home without a commit
			case <-consumer.ended:
				return 0, consumer.stop()
			}
		}
	}
	took := time.Since(started)
	letters, err := fairlead.Admin{Log: db, Store: db}.DeadLetters(ctx, fairlead.LetterFilter{Limit: 1})
	if err == nil && len(letters) > 0 {
		err = fmt.Errorf("wrong result: a dead letter: %s", letters[0].Error)
	}
	return took, errors.Join(err, consumer.stop())
}

// A running is a consumer that runs.
type running struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed as it has ended
	err    error
}

// start runs a consumer until stop.
func start(ctx context.Context, c *fairlead.Consumer) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = c.Run(ctx)
	}()
	return r
}

// hasEnded reports whether the consumer has ended by itself.
func (r *running) hasEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// stop ends the consumer, waits for it, and returns why it ended, unless that is
// stop. It may be called again.
func (r *running) stop() error {
	r.cancel()
	<-r.ended
	if errors.Is(r.err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("the consumer ended: %w", r.err)
}

// A foldedDoc is a document as the plain fold in memory has it.
type foldedDoc struct {
	version  int64
	position event.Position
	data     string
}

// foldLog folds a log in memory, event by event: what a read model must be.
func foldLog(ctx context.Context, log eventlog.Log, d projection.Definition) (map[store.Key]foldedDoc, error) {
	type state struct {
		value    any
		version  int64
		position event.Position
	}
	states := map[store.Key]*state{}
	err := eachEvent(ctx, log, func(e *event.Event) error {
		var t projection.Touched
		if err := d.Touch(e, &t); err != nil {
			return err
		}
		if !t.Handled || t.Document == "" {
			return nil
		}
		for _, id := range append([]string{t.Document}, t.More...) {
			k := store.Key{Tenant: e.Tenant, ID: id}
			s := states[k]
			if s == nil {
				s = &state{value: d.Init(k.Tenant, k.ID)}
				states[k] = s
			}
			deleted, err := d.Apply(s.value, e, &t)
			if err != nil {
				return err
			}
			if deleted {
				delete(states, k)
				continue
			}
			s.position = e.Position
			if d.ByStream() {
				s.version = e.Version
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	docs := make(map[store.Key]foldedDoc, len(states))
	for k, s := range states {
		data, err := d.Encode(s.value)
		if err != nil {
			return nil, err
		}
		docs[k] = foldedDoc{s.version, s.position, string(data)}
	}
	return docs, nil
}

// compareDocuments compares the documents of a processor in a database with
// what they must be, all of them and both ways.
func compareDocuments(path, processor string, want map[store.Key]foldedDoc) error {
	left := len(want)
	err := eachDocument(path, processor, func(k store.Key, got foldedDoc) error {
		w, ok := want[k]
		if !ok || w != got {
			return fmt.Errorf("wrong result: %s: document %q of tenant %q: got %+v, want %+v", processor, k.ID, k.Tenant, got, w)
		}
		left--
		return nil
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("wrong result: %s: %d of %d documents are missing", processor, left, len(want))
	}
	return err
}

// atWork waits until a consumer works a processor's lane, so that its start is
// no part of what is measured.
func (r *running) atWork(c *fairlead.Consumer, processor string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		st, err := c.Stats(processor)
		if err != nil || st.Lanes > 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-r.ended:
			return r.stop()
		}
	}
}
