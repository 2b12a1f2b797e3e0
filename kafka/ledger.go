package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// LedgerLog is the name that the log has in a route ledger: the same for the baseline
// and all sandboxes. Of several topics it is that of their directory, which numbers the
// partitions.
func (l *Log) LedgerLog() string {
	if l.several != nil {
		return "kafka topics of the directory with " + strings.TrimPrefix(l.several.dir.log.LedgerLog(), "kafka topic ")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("kafka topic id %x", l.id)
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
	reg, err := ledger.Join(ctx, l.cfg.Ledger, l.LedgerLog(), r.Service(), r.Host(), s, lease, parts, l.Head)
	if err != nil {
		return nil, fmt.Errorf("kafka: topic %q: %w", l.cfg.Topic, err)
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
