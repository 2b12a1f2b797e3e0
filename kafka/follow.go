package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// A follower publishes to where tenants are by the directory.
type follower struct {
	all *Producer
	// alone has one record at a time: what a broker refuses a batch for is sent again in a
	// batch of its own. It is taken out of the channel by who uses it.
	alone chan *Producer
}

// NewPublisher returns a [Publisher] that goes by the directory: what it publishes is
// where the tenant is, also while that moves, as with a [Producer]. An event of a tenant
// that is being moved waits, as long as the context of Publish lets it. The tenants
// must stay open for as long. The zero names mean the preset "fairlead".
func (t *Tenants) NewPublisher(names tenancy.Names, opts ...kgo.Opt) (*Publisher, error) {
	opts = append([]kgo.Opt{kgo.ProducerLinger(0), kgo.AllowIdempotentProduceCancellation()}, opts...) // see newProducer
	f := &follower{alone: make(chan *Producer, 1)}
	var err error
	if f.all, err = t.NewProducer(opts...); err != nil {
		return nil, err
	}
	alone, err := t.NewProducer(opts...)
	if err != nil {
		f.all.end()
		return nil, err
	}
	f.alone <- alone
	return &Publisher{layout: t.layout, names: names, follow: f}, nil
}

// publish returns nil when a record counts where its tenant is.
func (f *follower) publish(ctx context.Context, r *kgo.Record, e *event.Event) error {
	err := produceOne(ctx, f.all, r, e)
	if refused(err) {
		select {
		case p := <-f.alone:
			err = produceOne(ctx, p, &kgo.Record{Value: r.Value, Headers: slices.Clip(r.Headers)}, e)
			f.alone <- p
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("kafka: publish for tenant %q: %w", e.Tenant, err)
	switch {
	case refused(err):
		return forward.Refused(e, err)
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("%w: make the topic", err)
	}
	return err
}

// produceOne waits until a record counts. When ctx ends before, it may count all the same.
func produceOne(ctx context.Context, p *Producer, r *kgo.Record, e *event.Event) error {
	said := make(chan error, 1)
	if err := p.Produce(ctx, e.Tenant, e.Stream, r, func(_ *kgo.Record, err error) { said <- err }); err != nil {
		return err
	}
	select {
	case err := <-said:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *follower) close() {
	f.all.end()
	p := <-f.alone
	p.end()
	f.alone <- p
}
