package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
)

// A producer is an idempotent one that waits for all in-sync replicas.
type producer struct {
	client *kgo.Client
	opts   []kgo.Opt

	// alone sends batches of one record. It is made when it is first needed, and taken
	// out of the channel by who uses it.
	alone chan *kgo.Client

	closing context.Context // ends with close, and what is sent alone with it
	cancel  context.CancelFunc
}

func newProducer(opts ...kgo.Opt) (*producer, error) {
	p := &producer{opts: append([]kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// A lane has at most one event of a stream in flight, and many streams: what
		// comes meanwhile is a batch, nothing is gained by waiting.
		kgo.ProducerLinger(0),
		// A call ends with its context, also while no broker answers: what was sent by
		// then may come again.
		kgo.AllowIdempotentProduceCancellation(),
	}, opts...), alone: make(chan *kgo.Client, 1)}
	p.alone <- nil
	p.closing, p.cancel = context.WithCancel(context.Background())
	var err error
	if p.client, err = kgo.NewClient(p.opts...); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return p, nil
}

func (p *producer) close() {
	p.cancel()
	p.client.Close()
	if c := <-p.alone; c != nil {
		c.Close()
	}
	p.alone <- nil
}

// produce returns nil when the brokers have r, which is of e. What they will never
// take is a [forward.RefusedError].
func (p *producer) produce(ctx context.Context, r *kgo.Record, e *event.Event) error {
	err := p.client.ProduceSync(ctx, r).FirstErr()
	if refused(err) {
		// A broker refuses the whole batch for one record in it.
		err = p.produceAlone(ctx, &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers})
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("kafka: publish to topic %s: %w", r.Topic, err)
	switch {
	case refused(err):
		return forward.Refused(e, err)
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("%w: make the topic", err)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("%w: the client needs the right to write to it", err)
	}
	return err
}

func refused(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) || errors.Is(err, kerr.InvalidTimestamp) || errors.Is(err, kerr.InvalidRecord)
}

// produceAlone sends a record in a batch of its own.
func (p *producer) produceAlone(ctx context.Context, r *kgo.Record) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.closing, func() { cancel(kgo.ErrClientClosed) })()
	var c *kgo.Client
	select {
	case c = <-p.alone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { p.alone <- c }()
	if p.closing.Err() != nil {
		return kgo.ErrClientClosed
	}
	if c == nil {
		made, err := kgo.NewClient(p.opts...)
		if err != nil {
			return err
		}
		c = made
	}
	err := c.ProduceSync(ctx, r).FirstErr()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
