// Package registry decodes records in the wire format of Confluent's schema registry:
// a zero byte, the id of a schema, and the message in Avro, Protobuf or JSON. It speaks
// to any registry with that API; Apicurio Registry is what it is tested against.
//
// A [Registry] has two parts. [Registry.Decoder], for kafka.Config, has the schema of a
// record at hand before anybody gets the record, and names the event's type after its
// message. The Registry itself is the codec of projections: payloads come as the types
// that their handlers take, states are JSON as ever.
//
// Packages avro and protobuf below this one are the formats; JSON Schema needs none.
// Only who imports them is built with their libraries.
package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/projection"
)

// Config says where the registry is, and what is read. URLs are needed.
type Config struct {
	URLs    []string         // of its servers, tried in turn
	Options []sr.ClientOpt   // TLS, user and password, and the like
	Formats []Format         // beside JSON Schema: avro.New, protobuf.New
	States  projection.Codec // of documents; default [projection.JSON]
	Timeout time.Duration    // of one look-up; default 5 s

	// GiveUp is for how long a lane waits for a schema that the registry answers it does
	// not have. Then the records with its id are dead letters. Default: it waits until
	// the schema is there, since an id is written by who has got it from the registry.
	GiveUp time.Duration
}

// A Format reads the messages of one kind of schema. It is used from many goroutines
// at once.
type Format interface {
	Type() sr.SchemaType
	// Compile makes a schema ready for use. References are the schemas that it refers
	// to, each behind those that it refers to itself. An error is for good.
	Compile(schema string, references []Reference) (Schema, error)
}

// A Reference is a schema under the name by which another one refers to it.
type Reference struct{ Name, Schema string }

// A Schema reads the messages that were written with it. Data are what follows the
// schema's id.
type Schema interface {
	// Message returns the full name of the message that data are, "" where it has none.
	Message(data []byte) (string, error)
	// Decode reads data into the pointer v.
	Decode(data []byte, v any) error
}

// A Registry decodes records by the schemas of a registry. Schemas never change, so
// each is asked for once.
type Registry struct {
	cfg     Config
	client  *sr.Client
	formats map[sr.SchemaType]Format

	known sync.Map // id -> *compiled

	mu     sync.Mutex
	asking map[int]*asked
}

var _ projection.Codec = (*Registry)(nil)

// compiled is a schema for good: it can be used, or err says why it never can.
type compiled struct {
	schema Schema
	err    error
}

// asked is a schema that the registry has not given yet.
type asked struct {
	turn    chan struct{} // taken by who asks for it
	at      time.Time     // when that was answered
	err     error         // and how
	missing time.Time     // since when the registry says that it has none
}

const (
	askEvery  = 500 * time.Millisecond // that a registry which failed is asked again for one schema
	askedMost = 10_000                 // ids that are remembered, if producers write ids that nobody gave them
)

// New returns a registry. It asks for nothing yet.
func New(cfg Config) (*Registry, error) {
	if len(cfg.URLs) == 0 {
		return nil, errors.New("registry: a URL is needed")
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	if cfg.States == nil {
		cfg.States = projection.JSON{}
	}
	r := &Registry{cfg: cfg, formats: map[sr.SchemaType]Format{sr.TypeJSON: jsonFormat{}}, asking: map[int]*asked{}}
	for _, f := range cfg.Formats {
		if f == nil {
			return nil, errors.New("registry: a nil format")
		}
		r.formats[f.Type()] = f
	}
	var err error
	// The look-up's context ends it, not the client.
	r.client, err = sr.NewClient(append([]sr.ClientOpt{sr.HTTPClient(&http.Client{}), sr.URLs(cfg.URLs...)}, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return r, nil
}

// Decoder returns a function for kafka.Config.Decode: m's events, whose payload is in
// the wire format or as it was. The type of an event whose record and mapping say none
// is the full name of its message, where the schema has one.
//
// While the registry does not answer, or does not know a schema, the error wraps
// [kafka.ErrUnavailable]: the lane waits, and nothing becomes a dead letter. What is no
// message of its schema is one.
func (r *Registry) Decoder(m kafka.Mapping) func(*kgo.Record) (event.Event, error) {
	return func(rec *kgo.Record) (event.Event, error) {
		e, err := m.Decode(rec)
		if err != nil {
			return e, err
		}
		for _, h := range rec.Headers {
			if h.Key == "__value_schema_id" {
				return e, errors.New("its schema's id is in the header __value_schema_id, and only ids in front of the value are read: " +
					"set the producer's value.schema.id.serializer to the one with the prefix")
			}
		}
		if !framed(e.Data) {
			return e, nil
		}
		// The topic stands in for a type that nobody said.
		said := e.Type != rec.Topic || e.Metadata["type"] != "" || e.Metadata["ce_type"] != ""
		name, err := r.message(rec.Context, e.Data)
		switch {
		case said:
		case err != nil:
			e.Type = "" // it may be any that is handled
		case name != "":
			e.Type = name
		}
		return e, err
	}
}

// message returns the name of the message in data, whose schema is known then.
func (r *Registry) message(ctx context.Context, data []byte) (string, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	id, body, err := open(data)
	if err != nil {
		return "", err
	}
	s, err := r.schema(ctx, id)
	if err != nil {
		return "", err
	}
	name, err := s.Message(body)
	if err != nil {
		return "", fmt.Errorf("schema %d: %w", id, err)
	}
	return name, nil
}

// Decode implements [projection.Codec]: what is in the wire format is read by its
// schema, all else as states are.
func (r *Registry) Decode(data []byte, v any) error {
	if !framed(data) {
		return r.cfg.States.Decode(data, v)
	}
	id, body, err := open(data)
	if err != nil {
		return err
	}
	// Only what did not come through Decoder has to wait here.
	s, err := r.schema(context.Background(), id)
	if err != nil {
		return err
	}
	if err := s.Decode(body, v); err != nil {
		return fmt.Errorf("schema %d: %w", id, err)
	}
	return nil
}

// Encode implements [projection.Codec], for states.
func (r *Registry) Encode(v any) ([]byte, error) { return r.cfg.States.Encode(v) }

// framed reports whether data are in the wire format. JSON never begins with a zero.
func framed(data []byte) bool { return len(data) > 0 && data[0] == 0 }

func open(data []byte) (id int, body []byte, err error) {
	id, body, err = new(sr.ConfluentHeader).DecodeID(data)
	if err != nil {
		return 0, nil, fmt.Errorf("the value begins with a zero byte, but has %d bytes, too few for the id of a schema", len(data))
	}
	return id, body, nil
}

// schema returns a schema, which the registry is asked for if it was not yet.
func (r *Registry) schema(ctx context.Context, id int) (Schema, error) {
	if c, ok := r.known.Load(id); ok {
		return c.(*compiled).schema, c.(*compiled).err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	r.mu.Lock()
	a := r.asking[id]
	if a == nil {
		if len(r.asking) >= askedMost {
			clear(r.asking)
		}
		a = &asked{turn: make(chan struct{}, 1)}
		r.asking[id] = a
	}
	r.mu.Unlock()
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return nil, r.unavailable(id, ctx.Err())
	}
	if c, ok := r.known.Load(id); ok {
		return c.(*compiled).schema, c.(*compiled).err
	}
	if a.err != nil && time.Since(a.at) < askEvery {
		return nil, a.err
	}
	c, err := r.fetch(ctx, id)
	if err == nil {
		r.known.Store(id, c)
		r.mu.Lock()
		delete(r.asking, id)
		r.mu.Unlock()
		return c.schema, c.err
	}
	a.at, a.err = time.Now(), r.unavailable(id, err)
	switch re, answered := errors.AsType[*sr.ResponseError](err); {
	case !answered || re.StatusCode != http.StatusNotFound:
		a.missing = time.Time{}
	case a.missing.IsZero():
		a.missing = a.at
	case r.cfg.GiveUp > 0 && a.at.Sub(a.missing) >= r.cfg.GiveUp:
		a.err = fmt.Errorf("schema %d: the registry at %s says that it has none, for %v: %w", id, strings.Join(r.cfg.URLs, ", "), r.cfg.GiveUp, err)
	}
	return nil, a.err
}

func (r *Registry) unavailable(id int, err error) error {
	if re, ok := errors.AsType[*sr.ResponseError](err); ok {
		err = fmt.Errorf("status %d %s: %w", re.StatusCode, http.StatusText(re.StatusCode), err)
	}
	return fmt.Errorf("schema %d: the registry at %s: %w: see that it runs and has that schema; it is asked again: %w",
		id, strings.Join(r.cfg.URLs, ", "), err, kafka.ErrUnavailable)
}

// fetch asks the registry. An error is one that time may heal.
func (r *Registry) fetch(ctx context.Context, id int) (*compiled, error) {
	s, err := r.client.SchemaByID(ctx, id)
	if err != nil {
		return nil, err
	}
	f := r.formats[s.Type]
	if f == nil {
		// Waiting is better than a topic full of dead letters.
		return nil, fmt.Errorf("the schema is %v, and the program reads none of that kind: give registry.Config the format", s.Type)
	}
	refs, err := r.references(ctx, s.References, nil, map[string]bool{})
	if err != nil {
		return nil, err
	}
	c := &compiled{}
	if c.schema, err = compile(f, s.Schema, refs); err != nil {
		c.err = fmt.Errorf("schema %d is none that can be used: %w", id, err)
	}
	return c, nil
}

// compile has a format make a schema ready. A library's panic is an error.
func compile(f Format, text string, refs []Reference) (s Schema, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v panicked: %v", f.Type(), v)
		}
	}()
	return f.Compile(text, refs)
}

// references appends what schemas refer to, each behind what it refers to itself.
func (r *Registry) references(ctx context.Context, refs []sr.SchemaReference, all []Reference, seen map[string]bool) ([]Reference, error) {
	for _, ref := range refs {
		at := fmt.Sprintf("%s/%d", ref.Subject, ref.Version)
		if seen[at] {
			continue
		}
		seen[at] = true
		s, err := r.client.SchemaByVersion(ctx, ref.Subject, ref.Version)
		if err != nil {
			return nil, fmt.Errorf("the schema %q, version %d, to which it refers: %w", ref.Subject, ref.Version, err)
		}
		if all, err = r.references(ctx, s.References, all, seen); err != nil {
			return nil, err
		}
		all = append(all, Reference{ref.Name, s.Schema.Schema})
	}
	return all, nil
}

// jsonFormat reads JSON, and leaves it to producers to keep to their schema, as
// Confluent's deserializers do unless told otherwise.
type jsonFormat struct{}

func (jsonFormat) Type() sr.SchemaType { return sr.TypeJSON }

func (jsonFormat) Compile(schema string, _ []Reference) (Schema, error) {
	var title struct {
		Title string `json:"title"`
	}
	text := bytes.TrimSpace([]byte(schema))
	if len(text) > 0 && text[0] == '{' { // true and false are schemas too
		if err := (projection.JSON{}).Decode(text, &title); err != nil {
			return nil, err
		}
	}
	return jsonSchema(title.Title), nil
}

// A jsonSchema is its title.
type jsonSchema string

func (s jsonSchema) Message([]byte) (string, error) { return string(s), nil }

func (s jsonSchema) Decode(data []byte, v any) error { return projection.JSON{}.Decode(data, v) }
