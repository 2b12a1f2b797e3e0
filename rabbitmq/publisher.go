// Package rabbitmq publishes events to RabbitMQ, for [fairlead.Forward].
//
// [fairlead.Forward]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#Forward
package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/tenancy"
	amqp "github.com/rabbitmq/amqp091-go"
)

// A Config says where events go. Exchange and queues are the operator's: nothing is
// declared here.
type Config struct {
	URL      string // amqp://user:password@host:port/vhost
	Exchange string

	// RoutingKey of an event, at most 255 bytes; default: the tenant. All events of a
	// stream must have the same one if they are to stay in order.
	RoutingKey func(*event.Event) string
	// MaxBytes is the largest payload that is sent; default 16 MiB, that of RabbitMQ.
	// The broker ends a channel that exceeds its own limit, with all that is in flight.
	MaxBytes int
	// Names are the headers of tenant, class and route; default: the preset "fairlead".
	Names tenancy.Names
}

// A Publisher is a [forward.Publisher]. It connects when it is first needed, and
// anew after the connection was lost. Messages are persistent and mandatory: the
// broker confirms them when all queues that they reach have stored them, and one
// that no queue is bound for is an error, tried again until there is one.
type Publisher struct {
	c Config

	mu      sync.Mutex // of opening
	session *session
	closed  bool
	failed  time.Time // when opening failed last, with this error
	why     error
}

var _ forward.Publisher = (*Publisher)(nil)

const (
	shortest = 255 // bytes of AMQP's short strings
	inFlight = 4096

	dialAtMost = 5 * time.Second // with the handshake
	dialAgain  = 500 * time.Millisecond
	heartbeat  = 10 * time.Second
)

// New returns a publisher.
func New(c Config) (*Publisher, error) {
	if _, err := amqp.ParseURI(c.URL); err != nil { // which says the URL, and so the password
		return nil, errors.New("rabbitmq: the URL is not of the form amqp://user:password@host:port/vhost: special characters of the password are to be percent-encoded")
	}
	if len(c.Exchange) > shortest {
		return nil, fmt.Errorf("rabbitmq: exchange %.40q…: a name has at most %d bytes", c.Exchange, shortest)
	}
	if c.MaxBytes < 0 {
		return nil, fmt.Errorf("rabbitmq: at most %d bytes of a message: must be positive", c.MaxBytes)
	}
	c.MaxBytes = cmp.Or(c.MaxBytes, 16<<20)
	if c.RoutingKey == nil {
		c.RoutingKey = func(e *event.Event) string { return e.Tenant }
	}
	return &Publisher{c: c}, nil
}

// Publish implements [forward.Publisher].
func (p *Publisher) Publish(ctx context.Context, e *event.Event, id string) error {
	key := p.c.RoutingKey(e)
	headers, err := forward.Headers(e, id, p.c.Names)
	if e.ID != "" {
		id = e.ID
	}
	switch {
	case err != nil:
	case len(e.Data) > p.c.MaxBytes:
		err = fmt.Errorf("%d bytes, at most %d", len(e.Data), p.c.MaxBytes)
	case len(key) > shortest:
		err = fmt.Errorf("routing key of %d bytes, at most %d", len(key), shortest)
	case len(id) > shortest:
		err = fmt.Errorf("id of %d bytes, at most %d", len(id), shortest)
	}
	if err != nil {
		return forward.Refused(e, err)
	}
	table := make(amqp.Table, len(headers))
	for _, h := range headers {
		if len(h.Key) > shortest {
			return forward.Refused(e, fmt.Errorf("metadata key of %d bytes, at most %d", len(h.Key), shortest))
		}
		table[h.Key] = string(h.Value)
	}
	s, err := p.open(ctx)
	if err != nil {
		return err
	}
	return s.publish(ctx, p.c.Exchange, key, amqp.Publishing{
		Headers: table, MessageId: id, Type: short(e.Type), Timestamp: e.OccurredAt, DeliveryMode: amqp.Persistent, Body: e.Data,
	})
}

// short leaves out what does not fit a property: it is in a header too.
func short(s string) string {
	if len(s) > shortest {
		return ""
	}
	return s
}

// Close ends the connection. What is in flight fails.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.session == nil {
		return nil
	}
	if err := p.session.conn.Close(); err != nil && !errors.Is(err, amqp.ErrClosed) {
		return fmt.Errorf("rabbitmq: %w", err)
	}
	return nil
}

// open returns a session that is open.
func (p *Publisher) open(ctx context.Context) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p.closed {
		return nil, errors.New("rabbitmq: the publisher is closed")
	}
	if p.session != nil {
		if !p.session.ch.IsClosed() {
			return p.session, nil
		}
		_ = p.session.conn.Close()
		p.session = nil
	}
	// Those who have waited meanwhile do not try one after the other.
	if time.Since(p.failed) < dialAgain {
		return nil, p.why
	}
	conn, err := amqp.DialConfig(p.c.URL, amqp.Config{Dial: amqp.DefaultDial(dialAtMost), Heartbeat: heartbeat, Locale: "en_US"})
	if err != nil {
		p.failed, p.why = time.Now(), fmt.Errorf("rabbitmq: connect: %w", err) // without the URL, which has the password
		return nil, p.why
	}
	s := &session{conn: conn, slots: make(chan struct{}, inFlight), returns: make(chan amqp.Return, inFlight), returned: map[string]string{}}
	if s.ch, err = conn.Channel(); err == nil {
		s.ch.NotifyReturn(s.returns)
		s.why = s.ch.NotifyClose(make(chan *amqp.Error, 1))
		err = s.ch.Confirm(false)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("rabbitmq: open a channel with confirms: %w", err)
	}
	p.session = s
	return s, nil
}

// A session is a connection with one channel.
type session struct {
	conn  *amqp.Connection
	ch    *amqp.Channel
	slots chan struct{} // of what is in flight
	why   chan *amqp.Error

	// The library sends a returned message here before it acts on the confirmation
	// that follows it, so whoever has the confirmation finds it here, or in returned.
	// There is room for all that is in flight.
	returns  chan amqp.Return
	mu       sync.Mutex
	returned map[string]string // message id -> why
	ended    string            // why the session has ended
}

func (s *session) publish(ctx context.Context, exchange, key string, m amqp.Publishing) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	confirmed, err := s.ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, m)
	if err != nil {
		return fmt.Errorf("rabbitmq: publish to exchange %q: %w", exchange, err)
	}
	acked, err := confirmed.WaitContext(ctx)
	if err != nil {
		// What the broker says of it would come later, when nobody waits for it: the
		// channel is given up, so that its slot is not.
		_ = s.conn.Close()
		return fmt.Errorf("rabbitmq: exchange %q has not confirmed in time: %w", exchange, err)
	}
	returned, why := s.result(m.MessageId)
	switch {
	case !acked && why != "":
		return fmt.Errorf("rabbitmq: exchange %q: the channel ended before the confirmation: %s", exchange, why)
	case !acked:
		return fmt.Errorf("rabbitmq: exchange %q: the broker could not store the message", exchange)
	case returned != "":
		return fmt.Errorf("rabbitmq: exchange %q, routing key %q: %s: bind a queue to the exchange", exchange, key, returned)
	}
	return nil
}

// result says whether the message was returned, with the reason, and why the session
// has ended if it has.
func (s *session) result(id string) (returned, ended string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case r, ok := <-s.returns:
			if ok {
				s.returned[r.MessageId] = r.ReplyText
				continue
			}
			s.returns = nil
			continue
		case err := <-s.why:
			if s.why = nil; err != nil {
				s.ended = err.Error()
			} else {
				s.ended = "closed"
			}
			continue
		default:
		}
		break
	}
	returned = s.returned[id]
	delete(s.returned, id)
	return returned, s.ended
}
