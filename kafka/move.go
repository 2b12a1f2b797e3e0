package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// settleFor is between the begin of a move and its marks. By then producers that go by
// the directory have stopped, and what they had sent is there. Nothing hangs on it: what
// comes later is written again.
const settleFor = 500 * time.Millisecond

// A MoveTenant says where a tenant goes.
type MoveTenant struct {
	Own         bool // to a topic of its own; else to the shared one
	Partitions  int  // of that topic, if it is made; default 1
	Replication int  // copies of these; default: the broker's
}

// A Stay is where a tenant is.
type Stay struct {
	Topic  string // that it is in
	Own    bool   // it is the tenant's own
	Moves  int64  // that have ended, or were taken back
	Moving bool   // it is about to leave: a move was begun and has not ended
	Marked bool   // and has got as far as its marks
}

// Stay returns where a tenant is by the directory.
func (t *Tenants) Stay(ctx context.Context, tenant string) (Stay, error) {
	if err := t.layout.CheckTenant(tenant); err != nil {
		return Stay{}, err
	}
	if err := t.dir.sync(ctx); err != nil {
		return Stay{}, err
	}
	if _, known := t.dir.tenant(tenant); !known {
		return Stay{}, fmt.Errorf("%w %q: the directory does not have it", ErrUnknownTenant, tenant)
	}
	is, move := t.dir.stay(tenant), t.dir.move(tenant)
	own, shared := t.layout.Topics(tenant)
	s := Stay{Topic: cmp.Or(shared, own), Own: is.own, Moves: is.move, Moving: is.moving, Marked: move.marked != nil}
	if is.own {
		s.Topic = own
	}
	return s, nil
}

// Move moves a tenant to a topic of its own, or back to the shared one, while producers
// and consumers run. Those that write by a [Producer] wait for about half a second.
// What was written before the move is applied before what is written after it, by each
// consumer and in each rebuild, and other tenants do not wait for that. What another
// producer writes to the old place after the move is parked.
//
// A move that was interrupted leaves the tenant's producers waiting: call it again, to
// end it, or with the place where the tenant was, to take it back.
func (t *Tenants) Move(ctx context.Context, tenant string, o MoveTenant) error {
	if err := t.layout.CheckTenant(tenant); err != nil {
		return err
	}
	own, shared := t.layout.Topics(tenant)
	if own == "" || shared == "" {
		return fmt.Errorf("kafka: tenant %q: the layout has one place for it: nothing can be moved", tenant)
	}
	if err := t.dir.sync(ctx); err != nil {
		return err
	}
	if _, known := t.dir.tenant(tenant); !known { // it has signed up by writing to the shared topic
		if err := t.Add(ctx, tenant, AddTenant{}); err != nil {
			return err
		}
	}
	is := t.dir.stay(tenant)
	switch {
	case is.own == o.Own && is.moving: // what was begun is taken back, unless it ends before that counts
		if err := t.dir.append(ctx, statement{Kind: "moved", Tenant: tenant, Move: is.move + 1}); err != nil {
			return err
		}
		return t.moved(tenant, is.move+1, o.Own)
	case is.own == o.Own:
		return nil
	}
	topic := map[bool]string{true: own, false: shared}[o.Own]
	if err := createTopic(ctx, t.client, topic, cmp.Or(o.Partitions, 1), cmp.Or(o.Replication, -1), nil); err != nil {
		return err
	}
	if err := t.led(ctx, topic); err != nil {
		return err
	}
	move := is.move + 1
	if err := t.number(ctx, own, shared); err != nil {
		return err
	}
	if !is.moving {
		if err := t.dir.append(ctx, statement{Kind: "moving", Tenant: tenant, Move: move, Own: o.Own}); err != nil {
			return err
		}
		if !pause(ctx, t.settle) {
			return ctx.Err()
		}
	}
	if m := t.dir.move(tenant); m.last == move && m.moving && m.marked == nil {
		marks, err := t.mark(ctx, tenant, move, own, t.dir.partsOf(own))
		if err != nil {
			return err
		}
		if err := t.dir.append(ctx, statement{Kind: "marked", Tenant: tenant, Move: move, Marks: marks}); err != nil {
			return err
		}
	}
	if m := t.dir.move(tenant); m.last == move && m.moving {
		parts := t.dir.partsOf(shared)
		at := (&layout.Place{Hash: tenant}).Partition(len(parts))
		marks, err := t.mark(ctx, tenant, move, shared, parts[at:at+1])
		if err != nil {
			return err
		}
		if err := t.dir.append(ctx, statement{Kind: "moved", Tenant: tenant, Move: move, Marks: marks}); err != nil {
			return err
		}
	}
	return t.moved(tenant, move, o.Own)
}

// moved returns an error if a move has ended otherwise than it was to.
func (t *Tenants) moved(tenant string, move int64, own bool) error {
	if is := t.dir.stay(tenant); is.move < move || is.own != own {
		return fmt.Errorf("kafka: tenant %q was moved by somebody else meanwhile: see where it is, and try again", tenant)
	}
	return nil
}

// number sees to it that the partitions of the topics have numbers in the directory.
func (t *Tenants) number(ctx context.Context, topics ...string) error {
	l, err := Open(ctx, Config{Brokers: t.cfg.Brokers, Options: t.cfg.Options, Logger: t.cfg.Logger, Layout: t.layout, Directory: t.cfg.Directory})
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	if err := t.dir.sync(ctx); err != nil {
		return err
	}
	for _, topic := range topics {
		found, err := t.find(ctx, topic)
		if err != nil {
			return err
		}
		parts := t.dir.partsOf(topic)
		if found == nil || len(parts) == 0 || parts[0].id != found.TopicID || len(parts) != len(found.Partitions) {
			return fmt.Errorf("kafka: topic %q is not there, or is another one than the directory has: try again", topic)
		}
	}
	return nil
}

// mark writes a mark into each of these partitions, and returns where they are.
func (t *Tenants) mark(ctx context.Context, tenant string, move int64, topic string, parts []part) ([]mark, error) {
	records := make([]*kgo.Record, len(parts))
	for i := range parts {
		records[i] = &kgo.Record{
			Topic: topic, Partition: parts[i].number, Value: []byte(tenant),
			Key:     fmt.Appendf(nil, "%s/%s/%d", moveHeader, tenant, move), // a compacted topic wants one
			Headers: []kgo.RecordHeader{{Key: moveHeader, Value: strconv.AppendInt(nil, move, 10)}},
		}
	}
	client, err := t.newClient() // the other one may remember an older topic of that name
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return nil, fmt.Errorf("kafka: tenant %q: mark topic %q: %w", tenant, topic, err)
	}
	marks := make([]mark, len(parts))
	for i := range parts {
		marks[i] = mark{parts[i].id, parts[i].number, event.Position(records[i].Offset + 1)}
	}
	return marks, nil
}

// ErrMoving means that it is not known whether a record counts: its producer was closed
// while its tenant moved.
var ErrMoving = errors.New("kafka: the tenant is being moved")
