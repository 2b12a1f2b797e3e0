package kafka

import (
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// resolve finds out what the routing keys of a chunk's records stand for. It is called
// when they have been read.
func (l *Log) resolve(ctx context.Context, c *chunk, verdicts []tenancy.Verdict) error {
	if l.keys == nil {
		return nil
	}
	var last map[string]event.Position
	for i := range verdicts {
		if v := &verdicts[i]; l.cfg.Router.Keyed(v) {
			if last == nil {
				last = map[string]event.Position{}
			}
			last[string(v.Host)] = event.Position(c.records[i].Offset + 1)
		}
	}
	if len(last) == 0 {
		return nil
	}
	keys, err := l.keys.Keys(ctx, c.partition, last, event.Position(max(c.head, c.next)))
	if err != nil {
		return l.wrap(c.partition, "ask the route ledger for routing keys", err)
	}
	for i := range verdicts {
		if v := &verdicts[i]; l.cfg.Router.Keyed(v) {
			*v = l.cfg.Router.Resolve(*v, keys[string(v.Host)].At(c.partition, event.Position(c.records[i].Offset+1)))
		}
	}
	return nil
}

// Bind has changes of routes in the ledger take effect for records that carry a routing
// key: all that is produced when it has returned is routed by what the routes of these
// names were when it was called, or by later ones; nil is for all routes. Consumers do so
// by themselves, but only when they come to a record that carries the key. It does nothing where
// there is no ledger, or records do not carry routing keys.
func (l *Log) Bind(ctx context.Context, names []string) error {
	if l.keys == nil {
		return nil
	}
	parts, err := l.Partitions(ctx)
	if err == nil {
		err = l.keys.Bind(ctx, names, parts)
	}
	if err != nil {
		return fmt.Errorf("kafka: bind routing keys of %s: %w", l.LedgerLog(), err)
	}
	return nil
}
