package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// Tenants adds and removes what the tenants of a layout have on Kafka. Use [OpenTenants].
type Tenants struct {
	cfg    Config
	dir    *directory
	layout *layout.Layout
	client *kgo.Client
	settle time.Duration // see settleFor
}

// An AddTenant says what a new tenant gets.
type AddTenant struct {
	Own         bool // a topic of its own, where the layout has a shared one too
	Partitions  int  // of its topic, or of the shared one if that is not there yet; default 1
	Replication int  // copies of these; default: the broker's
}

// A RemovedTenant is what was removed. The positions are those up to which no event of
// the tenant counts any more, by log partition, for [fairlead.Admin.RemoveTenant].
//
// [fairlead.Admin.RemoveTenant]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#Admin.RemoveTenant
type RemovedTenant struct {
	Topics     []string // that were deleted
	Tombstones int      // that were written to the shared topic
	UpTo       map[int]event.Position
}

// ErrUnknownTenant means that nobody has added the tenant, and nothing is there of it.
var ErrUnknownTenant = errors.New("kafka: unknown tenant")

// closedAt is where the partitions of a removed tenant end: behind every record that
// they ever had, those too that somebody writes until the topic is gone.
const closedAt event.Position = 1 << 53

// OpenTenants opens the directory of cfg.Layout. Of cfg it takes what says where the
// brokers and the topics are.
func OpenTenants(ctx context.Context, cfg Config) (*Tenants, error) {
	if cfg.Layout == nil {
		return nil, errors.New("kafka: tenants are added to a layout: set one")
	}
	if err := cfg.whichTopics(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	t := &Tenants{cfg: cfg, layout: cfg.Layout, settle: settleFor}
	var err error
	if t.dir, err = openDirectory(ctx, &cfg, cfg.Layout.String()); err != nil {
		return nil, err
	}
	if t.client, err = t.newClient(); err != nil {
		t.dir.close()
		return nil, err
	}
	return t, nil
}

func (t *Tenants) newClient() (*kgo.Client, error) {
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(t.cfg.Brokers...), kgo.RetryTimeout(tryFor), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(tryFor),
	}, t.cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return c, nil
}

// Close ends all connections.
func (t *Tenants) Close() error {
	t.client.Close()
	t.dir.close()
	return nil
}

// Own reports whether a tenant was added with a topic of its own: the Dedicated of a
// layout with a shared topic. It goes by what was last read.
func (t *Tenants) Own(tenant string) bool {
	s, _ := t.dir.tenant(tenant)
	return s.own
}

// Add makes what a tenant needs. A tenant that is there already stays as it is. One
// that the layout cannot have is a [layout.ErrTenant]: it is to be refused as it signs up.
func (t *Tenants) Add(ctx context.Context, tenant string, o AddTenant) error {
	if err := t.layout.CheckTenant(tenant); err != nil {
		return err
	}
	if err := t.dir.sync(ctx); err != nil {
		return err
	}
	has, known := t.dir.tenant(tenant)
	own, shared := t.layout.Topics(tenant)
	if shared == "" {
		o.Own = true
	}
	elsewhere := func(has tenantState) error {
		if has.own == o.Own {
			return nil
		}
		return fmt.Errorf("kafka: tenant %q is in %s already: move it", tenant, map[bool]string{true: own, false: shared}[has.own])
	}
	if o.Own && own == "" {
		return fmt.Errorf("kafka: tenant %q: the layout has no topics of tenants' own", tenant)
	}
	if known {
		if err := elsewhere(has); err != nil {
			return err
		}
	}
	topic := shared
	if o.Own {
		topic = own
	}
	if err := createTopic(ctx, t.client, topic, cmp.Or(o.Partitions, 1), cmp.Or(o.Replication, -1), nil); err != nil {
		return err
	}
	if err := t.led(ctx, topic); err != nil {
		return err
	}
	if known {
		return nil
	}
	s := statement{Kind: "tenant", Tenant: tenant}
	if o.Own {
		s.Topic = own
	}
	if err := t.dir.append(ctx, s); err != nil {
		return err
	}
	has, _ = t.dir.tenant(tenant)
	return elsewhere(has) // somebody else may have added it meanwhile
}

// led waits until a topic that was just made can be written to.
func (t *Tenants) led(ctx context.Context, topic string) error {
	for until := time.Now().Add(tryFor); ; {
		found, err := t.find(ctx, topic)
		if err == nil && found == nil {
			err = kerr.UnknownTopicOrPartition
		}
		for i := 0; err == nil && i < len(found.Partitions); i++ {
			err = kerr.ErrorForCode(found.Partitions[i].ErrorCode)
		}
		if err == nil {
			return nil
		}
		if time.Now().After(until) || !pause(ctx, tryEvery) {
			return fmt.Errorf("kafka: topic %q was made and has no leaders: %w", topic, ended(ctx, err))
		}
	}
}

func (t *Tenants) find(ctx context.Context, topic string) (*kmsg.MetadataResponseTopic, error) {
	return findTopic(ctx, t.client, topic)
}

// findTopic returns what a broker knows of a topic; nil: nothing.
func findTopic(ctx context.Context, client *kgo.Client, topic string) (*kmsg.MetadataResponseTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
	r := kmsg.NewMetadataRequestTopic()
	r.Topic = &topic
	req.Topics = append(req.Topics, r)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("kafka: topic %q: %w", topic, ended(ctx, err))
	}
	if len(resp.Topics) == 0 {
		return nil, nil
	}
	found := &resp.Topics[0]
	switch err := kerr.ErrorForCode(found.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("kafka: topic %q: %w", topic, err)
	}
	return found, nil
}

// Remove takes a tenant away: its topic is deleted, and in the shared topic a tombstone
// is written for each of its keys, so that compaction deletes its records. From then on
// no record of it that was there counts any more, in rebuilds neither. What was made of
// them is the store's to remove. It can be repeated, and then ends what was begun.
//
// Stop its producers first: what they write afterwards to the shared topic is a new
// tenant's of that name.
func (t *Tenants) Remove(ctx context.Context, tenant string) (r RemovedTenant, err error) {
	if err := t.layout.CheckTenant(tenant); err != nil {
		return r, err
	}
	l, err := Open(ctx, Config{Brokers: t.cfg.Brokers, Options: t.cfg.Options, Logger: t.cfg.Logger, Layout: t.layout, Directory: t.cfg.Directory})
	if err != nil {
		return r, err
	}
	defer func() { _ = l.Close() }()
	if err := t.dir.sync(ctx); err != nil {
		return r, err
	}
	_, known := t.dir.tenant(tenant)
	r.UpTo = map[int]event.Position{}
	own, shared := t.layout.Topics(tenant)
	if own != "" {
		if err := t.removeOwn(ctx, own, &r); err != nil {
			return r, err
		}
	}
	if shared != "" {
		if err := t.removeShared(ctx, l, tenant, shared, &r); err != nil {
			return r, err
		}
	}
	if len(r.UpTo) == 0 && !known {
		return r, fmt.Errorf("%w %q: neither the directory nor a topic has it", ErrUnknownTenant, tenant)
	}
	if known {
		err = t.dir.append(ctx, statement{Kind: "removed", Tenant: tenant})
	}
	return r, err
}

// removeOwn closes the topic of a tenant, all that ever had its name, and deletes it.
func (t *Tenants) removeOwn(ctx context.Context, topic string, r *RemovedTenant) error {
	open := map[topicID]int{}
	for n, p := range t.dir.numbered() {
		if p.topic == topic {
			r.UpTo[n] = closedAt
			if !p.closed {
				open[p.id]++
			}
		}
	}
	for id, n := range open {
		ends := slices.Repeat([]event.Position{closedAt}, n)
		if err := t.dir.append(ctx, statement{Kind: "closed", Topic: topic, ID: id, Ends: ends}); err != nil {
			return err
		}
	}
	// With partitions that it has got meanwhile, and somebody has numbered.
	for n, p := range t.dir.numbered() {
		if p.topic == topic {
			r.UpTo[n] = closedAt
		}
	}
	found, err := t.find(ctx, topic)
	if err != nil || found == nil {
		return err
	}
	// One that nobody has numbered yet is closed too: it may be seen before it is gone.
	if open[found.TopicID] == 0 {
		for _, s := range []statement{
			{Kind: "topic", Topic: topic, ID: found.TopicID, Partitions: len(found.Partitions)},
			{Kind: "closed", Topic: topic, ID: found.TopicID, Ends: slices.Repeat([]event.Position{closedAt}, len(found.Partitions))},
		} {
			if err := t.dir.append(ctx, s); err != nil {
				return err
			}
		}
		for n, p := range t.dir.numbered() {
			if p.topic == topic {
				r.UpTo[n] = closedAt
			}
		}
	}
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{topic}
	d := kmsg.NewDeleteTopicsRequestTopic()
	d.Topic = &topic
	req.Topics = append(req.Topics, d)
	resp, err := req.RequestWith(ctx, t.client)
	if err != nil {
		return fmt.Errorf("kafka: delete topic %q: %w", topic, ended(ctx, err))
	}
	for i := range resp.Topics {
		if err := kerr.ErrorForCode(resp.Topics[i].ErrorCode); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("kafka: delete topic %q: %w", topic, err)
		}
	}
	r.Topics = append(r.Topics, topic)
	return nil
}

// removeShared writes tombstones for the tenant's keys in the shared topic.
func (t *Tenants) removeShared(ctx context.Context, l *Log, tenant, topic string, r *RemovedTenant) error {
	found, err := t.find(ctx, topic)
	if err != nil || found == nil {
		return err
	}
	// All partitions: where the topic has got more, the tenant has been in another one.
	for number := range int32(len(found.Partitions)) {
		l.mu.Lock()
		n, ok := l.several.numbers[place{topic, number}]
		l.mu.Unlock()
		if !ok {
			return fmt.Errorf("kafka: topic %q, partition %d has no number yet: try again", topic, number)
		}
		keys, last, err := t.keys(ctx, l, n, tenant)
		if err != nil {
			return err
		}
		if before := t.dir.removedTo(tenant, partKey{found.TopicID, number}); before > 0 {
			r.UpTo[n] = before
		}
		if last == 0 {
			continue
		}
		var tombs []*kgo.Record
		for key, alive := range keys {
			if alive {
				tombs = append(tombs, &kgo.Record{Topic: topic, Partition: number, Key: []byte(key)})
			}
		}
		slices.SortFunc(tombs, func(a, b *kgo.Record) int { return strings.Compare(string(a.Key), string(b.Key)) })
		for some := range slices.Chunk(tombs, 1000) {
			if err := t.client.ProduceSync(ctx, some...).FirstErr(); err != nil {
				return fmt.Errorf("kafka: tombstones of tenant %q in topic %q: %w", tenant, topic, err)
			}
		}
		for _, tomb := range tombs {
			last = max(last, event.Position(tomb.Offset+1))
		}
		r.Tombstones += len(tombs)
		r.UpTo[n] = last
		said := statement{Kind: "removed", Tenant: tenant, Topic: topic, ID: found.TopicID, Number: number, Ends: []event.Position{last}}
		if err := t.dir.append(ctx, said); err != nil {
			return err
		}
	}
	return nil
}

// keys returns the keys that a tenant has in a partition, and whether their last record
// is more than a tombstone, with the position of the tenant's last record.
func (t *Tenants) keys(ctx context.Context, l *Log, n int, tenant string) (map[string]bool, event.Position, error) {
	keys, last := map[string]bool{}, event.Beginning
	l.several.late = true // who has the name next has no moves, and would take them for its own
	l.decode = func(r *kgo.Record) (event.Event, error) {
		whose, _, err := t.layout.Resolve(r.Topic, string(r.Key))
		if err != nil {
			whose = ""
		}
		return event.Event{Tenant: whose, Stream: string(r.Key), Data: r.Value}, nil
	}
	after, err := l.offset(ctx, n, earliest)
	if err != nil {
		return nil, 0, err
	}
	for at := event.Position(after); ; {
		page, err := l.Read(ctx, eventlog.ReadRequest{Partition: n, After: at, Filter: eventlog.Filter{Tenants: []string{tenant}}, MaxBytes: 4 << 20})
		if err != nil {
			return nil, 0, err
		}
		for i := range page.Events {
			e := &page.Events[i]
			keys[e.Stream], last = e.Data != nil, e.Position
		}
		if at = page.Next; at >= page.Head {
			return keys, last, nil
		}
	}
}

// removed returns a function that reports whether a record of a partition is of a
// tenant that was removed since; nil: none is.
func (l *Log) removed(partition int) func(tenant string, at event.Position) bool {
	s := l.several
	if s == nil || !s.dir.hasRemoved() {
		return nil
	}
	at, id := l.place(partition)
	return func(tenant string, p event.Position) bool {
		return p <= s.dir.removedTo(tenant, partKey{id, at.number})
	}
}
