// Package nats publishes events to NATS JetStream, for [fairlead.Forward].
//
// [fairlead.Forward]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#Forward
package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Config says where events go. Streams are the operator's: none is made here.
type Config struct {
	// Conn is the caller's, who closes it after the consumer has ended. It reconnects
	// by itself.
	Conn *nats.Conn
	// Subject of an event; default: "events", the tenant and the type, each made a
	// token with [Token].
	Subject func(*event.Event) string
	// Names are the headers of tenant, class and route; default: the preset "fairlead".
	Names tenancy.Names
	// Source names the log that the events are of. Give each log its own name where
	// forwarders of one name publish from several logs into one JetStream stream, as
	// when each region has a database: their events may have equal ids. Default: none.
	Source string
}

// A Publisher is a [forward.Publisher]. JetStream drops a message whose id it has
// seen in the duplicate window of the stream; make that longer than an outage. The
// message's id names the source, the tenant, the stream, the position and the
// forwarder beside the event: the same for an event that comes again, and another
// for each other one, since the ids of events are unique in their log only. That of
// the event is in the header "id".
type Publisher struct {
	c  Config
	js jetstream.JetStream
}

var _ forward.Publisher = (*Publisher)(nil)

// New returns a publisher.
func New(c Config) (*Publisher, error) {
	if c.Conn == nil {
		return nil, errors.New("nats: a connection is needed: nats.Connect(url)")
	}
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	if c.Subject == nil {
		c.Subject = func(e *event.Event) string { return "events." + Token(e.Tenant) + "." + Token(e.Type) }
	}
	return &Publisher{c: c, js: js}, nil
}

// Token makes a token of a subject from any name, so that no tenant can reach into
// the subjects of another: letters, digits, "_" and "-" stay, every other byte is
// "%" and two hex digits. Different names have different tokens.
func Token(name string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '_', c == '-':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// codeTooLarge is JetStream's error for a message above the limit of its stream.
const codeTooLarge = 10054

// Publish implements [forward.Publisher].
func (p *Publisher) Publish(ctx context.Context, e *event.Event, id string) error {
	headers, err := forward.Headers(e, id, p.c.Names)
	if err != nil {
		return forward.Refused(e, err)
	}
	m := &nats.Msg{Subject: p.c.Subject(e), Data: e.Data, Header: make(nats.Header, len(headers)+1)}
	for _, h := range headers {
		// What begins with Nats- commands the server: to purge the stream, say.
		if len(h.Key) >= 5 && strings.EqualFold(h.Key[:5], "Nats-") {
			return forward.Refused(e, fmt.Errorf("metadata %q would command the server", h.Key))
		}
		// Values are a line of text for NATS.
		if strings.ContainsAny(h.Key, "\r\n: ") || strings.ContainsAny(string(h.Value), "\r\n") {
			return forward.Refused(e, fmt.Errorf("metadata %q has a line break, or its name a colon or a space: NATS cannot carry it", h.Key))
		}
		m.Header[h.Key] = []string{string(h.Value)}
	}
	_, err = p.js.PublishMsg(ctx, m, jetstream.WithMsgID(p.messageID(e, id)))
	if err == nil {
		return nil
	}
	err = fmt.Errorf("nats: publish to %s: %w", m.Subject, err)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == codeTooLarge ||
		errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) {
		return forward.Refused(e, err)
	}
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		err = fmt.Errorf("%w: make a stream that has this subject", err)
	}
	return err
}

// messageID is the same for an event each time, and that of no other one: no part of
// it has a dot.
func (p *Publisher) messageID(e *event.Event, id string) string {
	return strings.Join([]string{Token(p.c.Source), Token(e.Tenant), Token(e.Stream), e.Position.String(), Token(id)}, ".")
}
