package kafka

import (
	"context"
	"errors"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Publisher publishes events to Kafka, for [fairlead.Forward]: the record's topic,
// key and partition are those of a layout, with the stream as the key. Its producer
// is idempotent and waits for all in-sync replicas, so an event is there twice only
// after a crash or an outage; its id is in the header "id".
//
// A record's timestamp is the time of publishing. When the event happened is in the
// header "occurred": as a timestamp it would have retention delete events that are
// older than it as soon as they are there.
//
// [fairlead.Forward]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#Forward
type Publisher struct {
	out    *producer
	layout *layout.Layout
	names  tenancy.Names
	follow *follower // instead of out, where it goes by a directory
}

var _ forward.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher with a client of its own, made of opts:
// kgo.SeedBrokers at least. The zero names mean the preset "fairlead". Topics are
// not made here. It knows of no tenant that moves: where tenants do, use
// [Tenants.NewPublisher].
func NewPublisher(l *layout.Layout, names tenancy.Names, opts ...kgo.Opt) (*Publisher, error) {
	if l == nil {
		return nil, errors.New("kafka: a publisher needs a layout: layout.New says where tenants' records go")
	}
	out, err := newProducer(append(slices.Clone(opts), kgo.RecordPartitioner(Partitioner(l)))...)
	if err != nil {
		return nil, err
	}
	return &Publisher{out: out, layout: l, names: names}, nil
}

// Partitioner returns the partitioner of a layout, for producers that exist: records
// of a shared topic go where their tenant's go, those of other topics where Kafka's
// default partitioner would put their key. All partitions count, with leader or
// without.
func Partitioner(l *layout.Layout) kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int {
			p := layout.Place{Hash: l.Hash(topic, string(r.Key))}
			return p.Partition(n)
		}
	})
}

// Publish implements [forward.Publisher].
func (p *Publisher) Publish(ctx context.Context, e *event.Event, id string) error {
	place, err := p.layout.Place(e.Tenant, e.Stream)
	if err != nil {
		return forward.Refused(e, err)
	}
	headers, err := forward.Headers(e, id, p.names)
	if err != nil {
		return forward.Refused(e, err)
	}
	r := &kgo.Record{Topic: place.Topic, Key: []byte(place.Key), Value: e.Data, Headers: make([]kgo.RecordHeader, len(headers))}
	for i, h := range headers {
		r.Headers[i] = kgo.RecordHeader(h)
	}
	if p.follow != nil {
		return p.follow.publish(ctx, r, e)
	}
	return p.out.produce(ctx, r, e)
}

// Close ends the client. What is in flight fails.
func (p *Publisher) Close() error {
	if p.follow != nil {
		p.follow.close()
		return nil
	}
	p.out.close()
	return nil
}
