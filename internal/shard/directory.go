// Package shard spreads tenants over several stores: a directory says which
// tenant is in which, and a log shows each store the events of its own tenants
// only. The engine knows nothing of it.
package shard

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

const (
	answerWithin = 5 * time.Second       // that the resolver is given for a tenant
	askAtOnce    = 8                     // tenants, in a process
	prefixWithin = 50 * time.Millisecond // that a reader who can go on with less waits for more
	minBackOff   = 100 * time.Millisecond
	maxBackOff   = 10 * time.Second
)

// ErrUnresolved is what an [UnresolvedError] wraps.
var ErrUnresolved = errors.New("the shard is not known")

// An UnresolvedError says of which tenant the shard is not known yet, and why.
type UnresolvedError struct {
	Tenant string
	Err    error
}

func (e *UnresolvedError) Error() string {
	return fmt.Sprintf("the shard of tenant %q is not known, its events and those behind them wait: %v", e.Tenant, e.Err)
}

// Unwrap makes it an [ErrUnresolved], and what the resolver said.
func (e *UnresolvedError) Unwrap() []error { return []error{ErrUnresolved, e.Err} }

// A Directory says in which shard a tenant is. The resolver is asked when a tenant
// has no row in the control store: its answer is written there before any event
// of the tenant is looked at, and the first answer written is the one that holds,
// for all processes. So an event is in exactly one shard, whatever the resolver
// says later.
//
// The resolver is the user's, and may fail or hang for a tenant. It is asked for
// several at once, for each of them once at a time; who has waited for too long
// has an error, and where it has failed it is asked again after a pause that grows.
type Directory struct {
	control store.Store
	resolve func(ctx context.Context, tenant string) (string, error)
	found   func(shard string) // is told of every shard that a tenant was found in
	turns   chan struct{}      // of those that are asked for

	mu    sync.RWMutex
	known map[string]string    // tenant -> shard
	asked map[string]*question // that are not answered, or not written down yet
}

// A question is a call of the resolver for a tenant.
type question struct {
	done, late chan struct{} // closed when it has been answered, and when it should have been and is not
	shard      string
	err        error
	failures   int       // in a row, with this one
	again      time.Time // not before
}

// NewDirectory returns the directory that is kept in control. Found is called
// with the shard of each tenant that was not known to this process.
func NewDirectory(control store.Store, resolve func(ctx context.Context, tenant string) (string, error), found func(shard string)) *Directory {
	return &Directory{
		control: control, resolve: resolve, found: found, turns: make(chan struct{}, askAtOnce),
		known: map[string]string{}, asked: map[string]*question{},
	}
}

// Find returns the shards of tenants, in their order, or an [UnresolvedError]. It asks
// again where the resolver has just failed. A name that can be no tenant's is in the
// control store's shard, "": there its events are parked.
func (d *Directory) Find(ctx context.Context, tenants ...string) ([]string, error) {
	return d.find(ctx, tenants, nil)
}

// Prefix returns the shards of the first of some tenants, up to one that is not
// known and does not become known soon, with its error. It is for those who ask again
// and again.
func (d *Directory) Prefix(ctx context.Context, tenants []string) ([]string, error) {
	soon := time.NewTimer(prefixWithin)
	defer soon.Stop()
	return d.find(ctx, tenants, soon.C)
}

// find returns the shards of the first of the tenants, and where these are not all
// an error. It waits for the first tenant for as long as the resolver has, and for
// the others until enough.
func (d *Directory) find(ctx context.Context, tenants []string, enough <-chan time.Time) (shards []string, err error) {
	missing := d.missing(tenants)
	if len(missing) == 0 {
		return d.look(tenants), nil
	}
	rows := map[string]string{}
	err = d.control.View(ctx, func(tx store.Tx) (err error) { rows, err = tx.Shards(missing); return err })
	if err != nil {
		return nil, fmt.Errorf("directory of shards: %w", err)
	}
	d.learn(rows)
	missing = d.missing(missing)
	answers, err := d.ask(ctx, missing, len(missing) > 0 && missing[0] == tenants[0], enough)
	if len(answers) > 0 {
		if err := d.write(ctx, answers); err != nil {
			return nil, err
		}
	}
	return d.look(tenants), err
}

// look returns the shards of the tenants up to the first that is not known.
func (d *Directory) look(tenants []string) []string {
	shards := make([]string, 0, len(tenants))
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, t := range tenants {
		s, ok := d.known[t]
		if !ok {
			break
		}
		shards = append(shards, s)
	}
	return shards
}

// missing returns the tenants that are not known, each once, in their order.
func (d *Directory) missing(tenants []string) (missing []string) {
	d.mu.RLock()
	for _, t := range tenants {
		if _, ok := d.known[t]; !ok {
			missing = append(missing, t)
		}
	}
	d.mu.RUnlock()
	if missing == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]bool{}
	return slices.DeleteFunc(missing, func(t string) bool {
		if event.CheckTenant(t) != nil {
			d.known[t] = ""
		}
		_, ok := d.known[t]
		again := seen[t]
		seen[t] = true
		return ok || again
	})
}

// ask asks the resolver for tenants. It returns the answers, and an error about the
// first tenant without one. First says that nobody can go on without the first.
func (d *Directory) ask(ctx context.Context, tenants []string, first bool, enough <-chan time.Time) (map[string]string, error) {
	questions := make([]*question, len(tenants))
	for i, t := range tenants {
		questions[i] = d.question(ctx, t, enough != nil)
	}
	answers := map[string]string{}
	var failed error
	over := false
	for i, t := range tenants {
		q := questions[i]
		if q == nil {
			continue // it is known by now
		}
		stop := enough
		if first && i == 0 {
			stop = nil
		}
		answered := false
		select {
		case <-q.done:
			answered = true
		default:
			if over || failed != nil && enough == nil { // what there is of the others is taken along
				break
			}
			select {
			case <-q.done:
				answered = true
			case <-q.late:
			case <-stop:
				over = true
			case <-ctx.Done():
				return answers, ctx.Err()
			}
		}
		switch {
		case answered && q.err == nil:
			answers[t] = q.shard
		case failed != nil:
		case answered:
			failed = &UnresolvedError{t, q.err}
		default:
			failed = &UnresolvedError{t, fmt.Errorf("the function that says so has not answered; it is given %v, and asked again when it has returned", answerWithin)}
		}
		over = over || failed != nil && enough != nil
	}
	return answers, failed
}

// question returns the call of the resolver for a tenant that is in progress, or
// that has an answer, or (with rest) has failed a moment ago; else it makes one. Nil:
// the tenant is known.
func (d *Directory) question(ctx context.Context, tenant string, rest bool) *question {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[tenant]; ok {
		return nil
	}
	q := &question{done: make(chan struct{}), late: make(chan struct{}), failures: 1}
	if last := d.asked[tenant]; last != nil {
		select {
		case <-last.done:
			if last.err == nil || rest && time.Now().Before(last.again) {
				return last
			}
			q.failures = last.failures + 1
		default:
			return last
		}
	}
	d.asked[tenant] = q
	// The call is for all who want to know, so that one of them goes does not end it.
	// It ends in time if the resolver heeds its context. One that does not is left
	// alone: there is one such call for a tenant at most, and it keeps nobody's turn.
	ctx = context.WithoutCancel(ctx)
	go func() {
		d.turns <- struct{}{}
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		context.AfterFunc(ctx, func() {
			<-d.turns
			if errors.Is(ctx.Err(), context.DeadlineExceeded) { // not where it has answered
				close(q.late)
			}
		})
		defer cancel()
		q.shard, q.err = d.call(ctx, tenant)
		q.again = time.Now().Add(min(minBackOff<<min(q.failures-1, 10), maxBackOff))
		close(q.done)
	}()
	return q
}

// call is the resolver's answer. That it took too long is no end of the context of
// those who wait for it.
func (d *Directory) call(ctx context.Context, tenant string) (shard string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	shard, err = d.resolve(ctx, tenant)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer in %v: %v", answerWithin, err) //nolint:errorlint // not to be taken for the end of another context
	}
	return shard, err
}

// write writes answers down. Where another process was first, its answer holds.
func (d *Directory) write(ctx context.Context, answers map[string]string) error {
	tenants := slices.Sorted(maps.Keys(answers))
	var rows map[string]string
	err := d.control.Update(ctx, func(tx store.Tx) (err error) {
		if rows, err = tx.Shards(tenants); err != nil {
			return err
		}
		for _, t := range tenants {
			if _, ok := rows[t]; ok {
				continue
			}
			if err := tx.PutShard(t, answers[t]); err != nil {
				return err
			}
			rows[t] = answers[t]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("directory of shards: %w", err)
	}
	d.learn(rows)
	return nil
}

// learn notes rows of the control store.
func (d *Directory) learn(rows map[string]string) {
	d.mu.Lock()
	maps.Copy(d.known, rows)
	for t := range rows {
		delete(d.asked, t)
	}
	d.mu.Unlock()
	for _, s := range rows {
		d.found(s)
	}
}

// Look returns the shard of a tenant, if it is decided.
func (d *Directory) Look(ctx context.Context, tenant string) (shard string, ok bool, err error) {
	d.mu.RLock()
	shard, ok = d.known[tenant]
	d.mu.RUnlock()
	if ok {
		return shard, true, nil
	}
	err = d.control.View(ctx, func(tx store.Tx) error {
		rows, err := tx.Shards([]string{tenant})
		shard, ok = rows[tenant]
		return err
	})
	return shard, ok, err
}

// Known returns the shards that have tenants, by name.
func (d *Directory) Known(ctx context.Context) (shards []string, err error) {
	err = d.control.View(ctx, func(tx store.Tx) (err error) { shards, err = tx.ShardNames(); return err })
	return shards, err
}
