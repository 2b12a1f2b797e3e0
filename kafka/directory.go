package kafka

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A directory numbers the partitions of several topics, for all who read them. It is a
// topic of one partition, to which whoever sees something new appends; its order is
// the order in which that counts. So two that find a topic at the same moment, or
// find two in different orders, number them alike: what was said first counts, and
// what says it again changes nothing. A number once given is never another's, for
// nothing is taken away, and the topic keeps its records for ever.
//
// Numbers go with a topic's id. A topic that was deleted and made again has none until
// the old one is closed.
type directory struct {
	topic  string
	log    *Log
	client *kgo.Client

	syncing sync.Mutex // held over reading
	rounds  atomic.Int64
	synced  int64 // the last round that came to the end

	mu    sync.Mutex
	at    event.Position // how far it was read
	of    string         // what it is the directory of; "": nobody has said
	parts []part

	tenants map[string]tenantState
	// removed are the positions up to which tenants' records in a shared topic are nobody's.
	removed map[string]map[partKey]event.Position
	moves   moves
}

// A tenantState is where a tenant is: in a topic of its own, or in the shared one.
type tenantState struct{ own bool }

// A partKey is a partition of a topic that is known by its id.
type partKey struct {
	id     topicID
	number int32
}

// A part is a partition of a topic, by the number that it has in the log.
type part struct {
	topic  string
	id     topicID
	number int32 // Kafka's
	closed bool  // its tenant was removed: nothing of it is read any more
	end    event.Position
}

type topicID [16]byte

func (id topicID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

func (id *topicID) UnmarshalText(text []byte) error {
	n, err := hex.Decode(id[:], text)
	if err == nil && n != len(id) {
		err = fmt.Errorf("%q is no topic id", text)
	}
	return err
}

// A statement is a record of the directory. One with a kind that is not known is of
// a newer program, which numbers by rules of its own: it is an error.
type statement struct {
	Kind string `json:"kind"`

	Of string `json:"of,omitempty"` // kind "of": what it is the directory of

	// Kind "topic": it has so many partitions. Kind "closed": it is not read any more,
	// its partitions end at these positions.
	Topic      string           `json:"topic,omitempty"`
	ID         topicID          `json:"id,omitzero"`
	Partitions int              `json:"partitions,omitempty"`
	Ends       []event.Position `json:"ends,omitempty"`

	// Kind "tenant": it is added, with a topic of its own (Topic) or in the shared one.
	// Kind "removed": and with it its records in a partition of Topic up to Ends[0].
	Tenant string `json:"tenant,omitempty"`
	Number int32  `json:"number,omitempty"`

	// Kinds "moving", "marked" and "moved": see [moves].
	Move  int64  `json:"move,omitempty"`  // its number
	Own   bool   `json:"own,omitempty"`   // where it goes: a topic of its own
	Marks []mark `json:"marks,omitempty"` // none of a move that is taken back
}

// openDirectory opens a directory, and makes its topic where there is none.
func openDirectory(ctx context.Context, cfg *Config, of string) (_ *directory, err error) {
	if cfg.has(cfg.Directory) {
		return nil, fmt.Errorf("kafka: the directory %q has the name of a topic that is read: name another one as Config.Directory", cfg.Directory)
	}
	d := &directory{topic: cfg.Directory}
	opts := append([]kgo.Opt{
		kgo.SeedBrokers(cfg.Brokers...), kgo.RetryTimeout(tryFor), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(tryFor),
	}, cfg.Options...)
	if d.client, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := d.create(ctx); err != nil {
		return nil, err
	}
	until := time.Now().Add(tryFor)
	for { // a topic that was just made is not known everywhere yet
		d.log, err = Open(ctx, Config{
			Brokers: cfg.Brokers, Topic: d.topic, Options: cfg.Options, Logger: cfg.Logger,
			Decode: func(r *kgo.Record) (event.Event, error) { return event.Event{Data: r.Value}, nil },
		})
		if err == nil {
			break
		}
		if !errors.Is(err, kerr.UnknownTopicOrPartition) || time.Now().After(until) || !pause(ctx, tryEvery) {
			return nil, fmt.Errorf("kafka: the directory: %w", err)
		}
	}
	n, err := d.log.Partitions(ctx)
	if err != nil {
		return nil, err
	}
	if n != 1 {
		return nil, fmt.Errorf("kafka: topic %q has %d partitions, a directory has one, whose order is the numbering: name another topic as Config.Directory", d.topic, n)
	}
	if err := d.sync(ctx); err != nil {
		return nil, err
	}
	if d.what() == "" {
		if err := d.append(ctx, statement{Kind: "of", Of: of}); err != nil {
			return nil, err
		}
	}
	if is := d.what(); is != of {
		return nil, fmt.Errorf("kafka: topic %q is the directory of %s, and not of %s: name another one as Config.Directory; a layout stays as it was begun", d.topic, is, of)
	}
	return d, nil
}

func (d *directory) close() {
	if d.log != nil {
		_ = d.log.Close()
	}
	d.client.Close()
}

func (d *directory) what() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.of
}

// keeps are the settings of a topic whose records stay.
var keeps = map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

// create makes the topic where there is none, which takes the right to do so, and
// returns an error if its records would not stay.
func (d *directory) create(ctx context.Context) error {
	found, err := findTopic(ctx, d.client, d.topic)
	if err == nil && found == nil {
		err = createTopic(ctx, d.client, d.topic, 1, -1, keeps)
	}
	for until := time.Now().Add(tryFor); err == nil; { // a topic that was just made is not known everywhere yet
		err = d.checkKeeps(ctx)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) || time.Now().After(until) {
			return err
		}
		if !pause(ctx, tryEvery) {
			return ctx.Err()
		}
		err = nil
	}
	return err
}

// checkKeeps returns an error if the topic loses records in time: then nobody who comes
// later could tell the numbers.
func (d *directory) checkKeeps(ctx context.Context) error {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, d.topic
	for name := range keeps {
		r.ConfigNames = append(r.ConfigNames, name)
	}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, d.client)
	if err != nil {
		return fmt.Errorf("kafka: settings of the directory %q: %w", d.topic, ended(ctx, err))
	}
	for i := range resp.Resources {
		switch err := kerr.ErrorForCode(resp.Resources[i].ErrorCode); {
		case errors.Is(err, kerr.TopicAuthorizationFailed): // it is for those to see who may
			continue
		case err != nil:
			return fmt.Errorf("kafka: settings of the directory %q: %w", d.topic, err)
		}
		for _, c := range resp.Resources[i].Configs {
			if c.Value != nil && *c.Value != keeps[c.Name] {
				return fmt.Errorf("kafka: the directory %q has %s=%s: it would lose records, and with them which partition has which number; "+
					"set cleanup.policy=delete, retention.ms=-1 and retention.bytes=-1 (kafka-configs --alter)", d.topic, c.Name, *c.Value)
			}
		}
	}
	return nil
}

// createTopic makes a topic; it is no error if there is one. Replication -1 is the
// broker's default.
func createTopic(ctx context.Context, client *kgo.Client, name string, partitions, replication int, configs map[string]string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, int32(partitions), int16(replication)
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("kafka: create topic %q: %w", name, ended(ctx, err))
	}
	for i := range resp.Topics {
		r := &resp.Topics[i]
		switch err := kerr.ErrorForCode(r.ErrorCode); {
		case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		case r.ErrorMessage != nil:
			return fmt.Errorf("kafka: create topic %q: %w: %s", name, err, *r.ErrorMessage)
		default:
			return fmt.Errorf("kafka: create topic %q: %w", name, err)
		}
	}
	return nil
}

// append says something, and reads what counts of it.
func (d *directory) append(ctx context.Context, statements ...statement) error {
	var records []*kgo.Record
	for _, s := range statements {
		data, err := json.Marshal(s)
		if err != nil {
			return err
		}
		records = append(records, &kgo.Record{Topic: d.topic, Value: data})
	}
	if err := d.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("kafka: the directory %q cannot be written to: %w", d.topic, err)
	}
	return d.sync(ctx)
}

// sync reads to the end, as it is when this is called or later. Who waits for another
// one to read shares what that one has begun meanwhile.
func (d *directory) sync(ctx context.Context) error {
	asked := d.rounds.Load()
	d.syncing.Lock()
	defer d.syncing.Unlock()
	if d.synced > asked {
		return nil
	}
	round := d.rounds.Add(1)
	head, err := d.log.Head(ctx, 0)
	if err != nil {
		return fmt.Errorf("kafka: the directory: %w", err)
	}
	for d.at < head {
		page, err := d.log.Read(ctx, eventlog.ReadRequest{After: d.at})
		if err != nil {
			return fmt.Errorf("kafka: the directory: its records must all be kept, for the numbers of partitions are in them; if some are lost, "+
				"name another one as Config.Directory, and build the read models anew in another store: %w", err)
		}
		d.mu.Lock()
		for i := range page.Events {
			if err = d.apply(page.Events[i].Data); err != nil {
				break
			}
		}
		d.mu.Unlock()
		if err != nil {
			return err
		}
		d.at = page.Next
	}
	d.synced = round
	return nil
}

// apply takes a record into account. The caller holds mu.
func (d *directory) apply(data []byte) error {
	var s statement
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("kafka: the directory %q has a record that is none of Fairlead's: %w", d.topic, err)
	}
	switch s.Kind {
	case "of":
		if d.of == "" {
			d.of = s.Of
		}
	case "topic":
		n := 0
		for i := range d.parts {
			if p := &d.parts[i]; p.topic == s.Topic && !p.closed {
				if p.id != s.ID {
					return nil // another topic of that name is still open
				}
				n++
			} else if p.topic == s.Topic && p.id == s.ID {
				return nil // it was closed
			}
		}
		for ; n < s.Partitions; n++ {
			d.parts = append(d.parts, part{topic: s.Topic, id: s.ID, number: int32(n)})
		}
	case "closed":
		for i := range d.parts {
			p := &d.parts[i]
			if p.id == s.ID && !p.closed {
				p.closed, p.end = true, closedAt // of one that whoever closed it did not know yet
				if int(p.number) < len(s.Ends) {
					p.end = s.Ends[p.number]
				}
			}
		}
	case "tenant":
		if _, ok := d.tenants[s.Tenant]; ok {
			break // of two that add it at once, to different places, the first one counts
		}
		if d.tenants == nil {
			d.tenants = map[string]tenantState{}
		}
		d.tenants[s.Tenant] = tenantState{own: s.Topic != ""}
	case "moving", "marked", "moved":
		d.applyMove(&s)
	case "removed":
		delete(d.tenants, s.Tenant)
		d.moves.forget(s.Tenant)
		if len(s.Ends) == 0 {
			break
		}
		if d.removed == nil {
			d.removed = map[string]map[partKey]event.Position{}
		}
		if d.removed[s.Tenant] == nil {
			d.removed[s.Tenant] = map[partKey]event.Position{}
		}
		k := partKey{s.ID, s.Number}
		d.removed[s.Tenant][k] = max(d.removed[s.Tenant][k], s.Ends[0])
	default:
		return fmt.Errorf("kafka: the directory %q has a record of the kind %q: a newer program writes to it, use that one", d.topic, s.Kind)
	}
	return nil
}

// removedTo returns up to where a tenant's records in a partition are nobody's.
func (d *directory) removedTo(tenant string, k partKey) event.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removed[tenant][k]
}

// hasRemoved reports whether there is such a tenant.
func (d *directory) hasRemoved() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.removed) > 0
}

// tenant returns where a tenant is; false: it was not added.
func (d *directory) tenant(name string) (tenantState, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.tenants[name]
	return s, ok
}

// numbered returns all partitions, by their numbers.
func (d *directory) numbered() []part {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.parts)
}
