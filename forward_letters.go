package fairlead

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/store"
)

// A LetterPublisher hands a dead letter to a broker.
type LetterPublisher interface {
	// PublishLetter is like [forward.Publisher.Publish]: letters of one ordering key
	// come one after the other.
	PublishLetter(ctx context.Context, l *store.DeadLetter) error
}

// A LetterForwarder publishes the dead letters of a store as they are made; see
// [NewLetterForwarder].
type LetterForwarder struct {
	c    *Consumer
	log  *letterlog.Log
	name string
}

// NewLetterForwarder returns what publishes the dead letters of cfg.Store, of all its
// processors, beside the consumers that make them: the store keeps them all the same,
// and to retry them is what it always was. Its name is that of the processor as which
// operators see it, pause it and see how far it is. Any number of processes may have
// it, one of them works. cfg.Log is of no use here.
//
// Each letter is published at least once, in order by ordering key, after the commit
// that parked it, and whatever dies in between: which ones are published is a
// checkpoint in the store. One that was applied by a retry, or dropped with its
// processor, before its turn came is not published. A letter that fails again when it
// is retried is not published again, nor one that was kept for a sandbox and is parked
// when that is gone. What the broker refuses for good is a dead letter
// of the forwarder.
func NewLetterForwarder(ctx context.Context, cfg Config, name string, to LetterPublisher) (*LetterForwarder, error) {
	if cfg.Store == nil || to == nil {
		return nil, errors.New("fairlead: a store and a publisher are needed")
	}
	f := &LetterForwarder{log: letterlog.New(cfg.Store), name: name}
	cfg.Log = f.log
	if cfg.Memory == 0 {
		cfg.Memory = 4 << 20
	}
	var err error
	if f.c, err = New(cfg); err != nil {
		return nil, err
	}
	err = f.c.Add(ctx, React(name, func(ctx context.Context, d Delivery) error {
		l, ok, err := f.log.Letter(ctx, d.Position)
		if err != nil || !ok {
			return err
		}
		return to.PublishLetter(ctx, &l)
	}, Options{
		Concurrency: lettersAtOnce, Timeout: forwardTimeout,
		Retry: Retry{Attempts: math.MaxInt, Max: 5 * time.Second, Classify: refusedIsFatal},
	}))
	if err != nil {
		return nil, fmt.Errorf("forwarder of dead letters: %w", err)
	}
	return f, nil
}

// lettersAtOnce bounds memory: each is loaded with its event.
const lettersAtOnce = 16

// Run works until ctx ends, as [Consumer.Run] does.
func (f *LetterForwarder) Run(ctx context.Context) error { return f.c.Run(ctx) }

// Wait returns nil as soon as all letters that are there now have been published, or
// ctx's error. A process must be running.
func (f *LetterForwarder) Wait(ctx context.Context) error {
	head, err := f.log.Head(ctx, 0)
	if err != nil || head == event.Beginning {
		return err
	}
	return f.c.WaitFor(ctx, f.name, eventlog.Token{Position: head})
}

// refusedIsFatal has what a broker refuses treated as poison, and all else tried again.
func refusedIsFatal(err error) Class {
	if errors.Is(err, forward.ErrRefused) {
		return Fatal
	}
	return Transient
}
