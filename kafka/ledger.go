package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// LedgerLog is the name that the log has in a route ledger: the same for the baseline
// and all sandboxes. Of several topics it is that of their directory, which numbers the
// partitions.
func (l *Log) LedgerLog() string {
	return l.what()
}

// Register registers this sandbox in the log's ledger. S is its store, which has all
// processors of the process by now. Nothing can be read before that. Whoever calls it
// keeps the registration up with [ledger.Registration.Keep].
func (l *Log) Register(ctx context.Context, s store.Store, lease time.Duration) (*ledger.Registration, error) {
	r := l.cfg.Router
	if l.cfg.Ledger == nil || r == nil || r.Host() == "" {
		return nil, errors.New("kafka: only a sandbox that has a ledger registers")
	}
	parts, err := l.Partitions(ctx)
	if err != nil {
		return nil, err
	}
	reg, err := ledger.Join(ctx, l.cfg.Ledger, l.LedgerLog(), r.Service(), r.Host(), s, lease, parts, l.begins)
	if err != nil {
		return nil, fmt.Errorf("kafka: sandbox %q of %s: %w", r.Host(), l.LedgerLog(), err)
	}
	l.registration.Store(reg)
	return reg, nil
}

// Start returns where a log partition begins: what is up to there is read by nobody any
// more. It is what a [fairlead.RouteKeeper] forgets sandboxes by.
//
// [fairlead.RouteKeeper]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#RouteKeeper
func (l *Log) Start(ctx context.Context, partition int) (event.Position, error) {
	at, err := l.offset(ctx, partition, earliest)
	return event.Position(at), err
}

// begins is where a sandbox begins that registers now: at the head. It is asked when
// the ledger has noted that the registration is under way. A partition that has no
// number even then is the sandbox's from its beginning; the baseline may have numbered
// and read it before, so the directory is looked at again. Where the topic is gone the
// sandbox has nothing: should it be there after all, what is in it was the baseline's.
func (l *Log) begins(ctx context.Context, partition int) (event.Position, error) {
	if s := l.several; s != nil {
		l.mu.Lock()
		numbered := partition < len(s.parts)
		l.mu.Unlock()
		if !numbered {
			if _, err := l.refresh(ctx); err != nil {
				return 0, err
			}
		}
	}
	p, err := l.Head(ctx, partition)
	if s := l.stands(partition); err == nil && s != nil && errors.Is(s.err, eventlog.ErrGone) {
		p = closedAt
	}
	return p, err
}

// owners asks the ledger for what it has to say of the records of a chunk, once. It is
// called when they have been read.
func (l *Log) owners(ctx context.Context, c *chunk) error {
	if l.cfg.Ledger == nil || c.verdicts != nil || len(c.records) == 0 {
		return nil
	}
	verdicts := make([]tenancy.Verdict, len(c.records))
	for i, r := range c.records {
		verdicts[i] = l.judge(r)
	}
	if err := l.resolve(ctx, c, verdicts); err != nil {
		return err
	}
	if l.view == nil {
		reg := l.registration.Load()
		if reg == nil {
			return errors.New("kafka: a sandbox that has a ledger must be registered before it reads")
		}
		var err error
		if c.begins, err = reg.From(ctx, c.partition); err == nil {
			c.verdicts = verdicts
		}
		return err
	}
	last := map[string]event.Position{}
	for i := range verdicts {
		if v := &verdicts[i]; v.Action == tenancy.SkipWhileAlive {
			last[string(v.Host)] = event.Position(c.records[i].Offset + 1)
		}
	}
	if len(last) > 0 {
		var err error
		if c.hosts, err = l.view.Registrations(ctx, c.partition, last, event.Position(max(c.head, c.next))); err != nil {
			return l.wrap(c.partition, "ask the route ledger", err)
		}
	}
	c.verdicts = verdicts
	return nil
}

// owned changes what becomes of a record where the ledger has a say in that. Reserved:
// it is its sandbox's for now.
func (l *Log) owned(c *chunk, r *kgo.Record, v *tenancy.Verdict) (reserved bool, fault error) {
	p := event.Position(r.Offset + 1)
	switch {
	case l.view == nil && v.Action == tenancy.Process && p <= c.begins:
		v.Action, v.Rule = tenancy.Skip, tenancy.RuleLedger // it was the baseline's before this sandbox registered
	case l.view != nil && v.Action == tenancy.SkipWhileAlive:
		v.Rule = tenancy.RuleLedger
		if ledger.Decide(c.hosts[string(v.Host)], c.partition, p) != ledger.Nobodys {
			v.Action = tenancy.Skip
			return true, nil
		}
		switch l.cfg.Unowned {
		case ledger.Park:
			v.Action = tenancy.Park
			return false, fmt.Errorf("it is routed to the sandbox %q, which has never had it: retry it to process it here, or skip it", v.Host)
		case ledger.Drop:
		default:
			v.Action = tenancy.Process
		}
	}
	return false, nil
}
