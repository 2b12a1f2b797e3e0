package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// A Registration is a sandbox's hold on what is routed to it. All processes of a
// sandbox share one.
type Registration struct {
	l     Ledger
	id    int64
	lease time.Duration
	head  func(ctx context.Context, partition int) (event.Position, error)

	mu    sync.Mutex
	begun map[int]event.Position
}

// Join registers a sandbox, or joins its open registration, with the partitions that
// its log has now. Head is the end of a log partition: the position of the last event
// that any reader may have seen by then, or a higher one. From now on s commits only
// while the registration is open.
//
// The lanes of the store must begin at or before the end of the log as it is when Join
// is called, so add processors first.
func Join(ctx context.Context, l Ledger, log, service, host string, s store.Store, lease time.Duration, partitions int,
	head func(ctx context.Context, partition int) (event.Position, error),
) (*Registration, error) {
	switch {
	case !nameable(host):
		return nil, fmt.Errorf("ledger: the host label %q of service %q is not UTF-8, has a NUL in it, or is empty: give the sandbox another one", host, service)
	case lease <= 0:
		return nil, fmt.Errorf("ledger: sandbox %q of service %q: a lease of %v has ended before it begins: give it some seconds", host, service, lease)
	}
	sb, err := l.Register(ctx, log, service, host, s, lease)
	if err != nil {
		return nil, err
	}
	r := &Registration{l: l, id: sb.ID, lease: lease, head: head, begun: map[int]event.Position{}}
	for p := range partitions {
		if _, err := r.From(ctx, p); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// From returns where the sandbox's interval of a log partition begins. A partition
// that the registration does not have yet gets its beginning now: so it is to be
// called when the events that are to be decided about have been read.
func (r *Registration) From(ctx context.Context, partition int) (event.Position, error) {
	r.mu.Lock()
	from, ok := r.begun[partition]
	r.mu.Unlock()
	if ok {
		return from, nil
	}
	span, err := r.l.Reserve(ctx, r.id, partition)
	if err == nil && span.Pending {
		if span.From, err = r.head(ctx, partition); err == nil {
			span.From, err = r.l.Begin(ctx, r.id, partition, span.From)
		}
	}
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun[partition] = span.From
	return span.From, nil
}

// Partitions returns those that the registration has, as far as this process knows.
func (r *Registration) Partitions() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.begun))
}

// Keep renews the lease until ctx ends, and returns ctx's error, or [ErrClosed] when
// the registration was closed: the process can do nothing more as that sandbox, and
// should end. Of an error that may pass it tells failed, and goes on.
func (r *Registration) Keep(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(max(r.lease/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		err := r.l.Renew(ctx, r.id, r.lease)
		switch {
		case errors.Is(err, ErrClosed):
			return err
		case err != nil && ctx.Err() == nil:
			failed(err)
		}
	}
}

// Leave closes the registration if this was the last process of the sandbox. It is to
// be called when the process has given up its leases in the store.
func (r *Registration) Leave(ctx context.Context) error {
	_, err := r.l.End(ctx, r.id, Left)
	return err
}
