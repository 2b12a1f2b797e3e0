// Package projection is the pure part of a read model: a fold from events to
// typed documents, without I/O, clock or goroutines. The engine does the rest.
package projection

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

// ErrDelete is returned by a handler to delete the document it was given. A
// later event starts the document anew.
var ErrDelete = errors.New("projection: delete this document")

// An Event is an event with its payload decoded. The embedded event's own Data
// are the bytes.
type Event[E any] struct {
	*event.Event
	Data E
}

// A Projection folds events into documents of type S. S is stored by its codec,
// JSON unless said otherwise, so what S does not encode does not last.
//
// A Projection is built once, before it is added to a consumer, and never
// changed after.
type Projection[S any] struct {
	name     string
	version  string
	handlers map[string]handler[S]
	upcasts  map[string]Upcaster
	initial  func(tenant, id string) S
	codec    Codec
	by       func(*event.Event) string
	across   bool
	byStream bool
	errs     []error
}

// A Part is what [New] takes: the handlers that [On] makes.
type Part[S any] interface{ addTo(*Projection[S]) }

// New returns the projection called name, which also names its collection of
// documents. Faults in the parts are reported by [Projection.Err], and so by
// the consumer it is added to.
func New[S any](name string, parts ...Part[S]) *Projection[S] {
	p := &Projection[S]{
		name:     name,
		handlers: map[string]handler[S]{},
		upcasts:  map[string]Upcaster{},
		codec:    JSON{},
		byStream: true,
	}
	if err := checkName(name); err != nil {
		p.errs = append(p.errs, err)
	}
	for _, part := range parts {
		if part == nil {
			p.errs = append(p.errs, fmt.Errorf("projection %q: a nil handler", name))
			continue
		}
		part.addTo(p)
	}
	if len(p.handlers) == 0 {
		p.errs = append(p.errs, fmt.Errorf("projection %q: no handlers: give New at least one On", name))
	}
	return p
}

// Initial sets the state from which a document starts; default: the zero S.
func (p *Projection[S]) Initial(f func(tenant, id string) S) *Projection[S] {
	p.initial = f
	return p
}

// By chooses the document of every event whose handler has no By or ByEach of
// its own, from the event without its payload: one document for each tenant,
// for example. "" passes an event over.
func (p *Projection[S]) By(id func(*event.Event) string) *Projection[S] {
	switch {
	case id == nil:
		p.errs = append(p.errs, fmt.Errorf("projection %q: By of nil", p.name))
	case p.by != nil:
		p.errs = append(p.errs, fmt.Errorf("projection %q: By twice", p.name))
	}
	p.by, p.byStream = id, false
	return p
}

// Upcast adds upcasters from old event types to newer ones.
func (p *Projection[S]) Upcast(ups ...Upcaster) *Projection[S] {
	for _, u := range ups {
		if u.err != nil {
			p.errs = append(p.errs, fmt.Errorf("projection %q: upcaster from %q to %q: %w", p.name, u.old, u.new, u.err))
			continue
		}
		if u.up == nil {
			p.errs = append(p.errs, fmt.Errorf("projection %q: an upcaster that Upcast did not make", p.name))
			continue
		}
		if _, dup := p.upcasts[u.old]; dup {
			p.errs = append(p.errs, fmt.Errorf("projection %q: two upcasters from type %q", p.name, u.old))
		}
		p.upcasts[u.old] = u
	}
	return p
}

// WithCodec sets how states and payloads are encoded; default [JSON].
func (p *Projection[S]) WithCodec(c Codec) *Projection[S] {
	if c == nil {
		p.errs = append(p.errs, fmt.Errorf("projection %q: a nil codec", p.name))
		return p
	}
	p.codec = c
	return p
}

// WithVersion states the version of the fold's code. A consumer that finds
// documents made by another version says so; a rebuild brings them up to date.
func (p *Projection[S]) WithVersion(v string) *Projection[S] {
	p.version = v
	return p
}

// AcrossTenants makes the documents belong to no tenant: all tenants' events
// fold into one document space, which is read with the tenant "". Such a
// projection has no tenant lanes, so one tenant can hold up the others in it.
func (p *Projection[S]) AcrossTenants() *Projection[S] {
	p.across = true
	return p
}

// Name returns the projection's name.
func (p *Projection[S]) Name() string { return p.name }

// Err returns all faults of the projection's making, joined.
func (p *Projection[S]) Err() error {
	errs := slices.Clone(p.errs)
	for _, old := range slices.Sorted(maps.Keys(p.upcasts)) {
		if p.handlers[old] != nil {
			errs = append(errs, fmt.Errorf("projection %q: type %q has a handler, so its upcaster would never be used", p.name, old))
			continue
		}
		h, ups, err := p.resolve(old)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// Each upcaster has its own turn as old: one step is enough.
		takes := h.payload
		if len(ups) > 1 {
			takes = ups[1].from
		}
		if yields, takes := reflect.TypeOf(ups[0].to()).Elem(), reflect.TypeOf(takes()).Elem(); yields != takes {
			errs = append(errs, fmt.Errorf("projection %q: the upcaster from %q yields %v, but what handles %q takes %v",
				p.name, old, yields, ups[0].new, takes))
		}
	}
	return errors.Join(errs...)
}

// A handler is an On with its payload type hidden.
type handler[S any] interface {
	payload() any       // a new *E
	form() reflect.Type // E
	aliased() bool      // an E refers to memory that copies of it share
	chooses() bool      // the documents, from the payload
	documents(e *event.Event, data any, t *Touched)
	apply(s *S, e *event.Event, data any) error
}

// A Handler handles the events of one type; see [On].
type Handler[S, E any] struct {
	typ  string
	f    func(*S, Event[E]) error
	one  func(Event[E]) string
	many func(Event[E]) []string

	aliases bool
}

// On makes f the handler of events of type typ, whose payload is decoded into
// an E. f changes the document that it is given a pointer to, and nothing else:
// it may be run again on the same event after a failure, always from the state
// before. An error of f parks the document; [ErrDelete] deletes it. f may keep
// what the payload refers to, but not the event's own Data and Metadata.
//
// The document is the one with the stream's name, unless [Handler.By],
// [Handler.ByEach] or [Projection.By] say otherwise.
func On[S, E any](typ string, f func(*S, Event[E]) error) *Handler[S, E] {
	return &Handler[S, E]{typ: typ, f: f, aliases: aliases(reflect.TypeFor[E]())}
}

// By chooses the document that an event belongs to, by its id inside the
// tenant. "" passes the event over.
func (h *Handler[S, E]) By(id func(Event[E]) string) *Handler[S, E] {
	h.one = id
	return h
}

// ByEach lets one event touch several documents; the handler is called for each
// of them. Ids that repeat count once; none passes the event over.
func (h *Handler[S, E]) ByEach(ids func(Event[E]) []string) *Handler[S, E] {
	h.many = ids
	return h
}

func (h *Handler[S, E]) addTo(p *Projection[S]) {
	switch {
	case event.CheckType(h.typ) != nil:
		p.errs = append(p.errs, fmt.Errorf("projection %q: %w", p.name, event.CheckType(h.typ)))
	case h.f == nil:
		p.errs = append(p.errs, fmt.Errorf("projection %q: handler of type %q is nil", p.name, h.typ))
	case h.one != nil && h.many != nil:
		p.errs = append(p.errs, fmt.Errorf("projection %q: handler of type %q has both By and ByEach", p.name, h.typ))
	case p.handlers[h.typ] != nil:
		p.errs = append(p.errs, fmt.Errorf("projection %q: two handlers of type %q", p.name, h.typ))
	}
	if h.chooses() {
		p.byStream = false
	}
	p.handlers[h.typ] = h
}

func (h *Handler[S, E]) payload() any { return new(E) }

func (h *Handler[S, E]) form() reflect.Type { return reflect.TypeFor[E]() }

func (h *Handler[S, E]) aliased() bool { return h.aliases }

func (h *Handler[S, E]) chooses() bool { return h.one != nil || h.many != nil }

func (h *Handler[S, E]) documents(e *event.Event, data any, t *Touched) {
	switch {
	case h.one != nil:
		t.Document = h.one(Event[E]{e, *data.(*E)})
	case h.many != nil:
		t.More = distinct(t.More[:0], h.many(Event[E]{e, *data.(*E)}))
		if len(t.More) > 0 {
			t.Document, t.More = t.More[0], t.More[1:]
		}
	default:
		t.Document = e.Stream
	}
}

func (h *Handler[S, E]) apply(s *S, e *event.Event, data any) error {
	return h.f(s, Event[E]{e, *data.(*E)})
}

// distinct appends to out what is in ids and not empty, once each, in order.
func distinct(out, ids []string) []string {
	const few = 16 // up to here a look through all is faster than a map
	var seen map[string]bool
	if len(ids) > few {
		seen = make(map[string]bool, len(ids))
	}
	for _, id := range ids {
		if id == "" || seen[id] || seen == nil && slices.Contains(out, id) {
			continue
		}
		if seen != nil {
			seen[id] = true
		}
		out = append(out, id)
	}
	return out
}

// aliases reports whether copies of a value of type t may share memory that can
// be written to.
func aliases(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return false // its pointer leads to what nobody writes to
		}
		for f := range t.Fields() {
			if aliases(f.Type) {
				return true
			}
		}
		return false
	case reflect.Array:
		return aliases(t.Elem())
	case reflect.Slice, reflect.Map, reflect.Pointer, reflect.Interface, reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return true
	}
	return false
}

func checkName(name string) error {
	if name == "" || len(name) > 100 {
		return fmt.Errorf("projection %q: a name has 1 to 100 characters", name)
	}
	for _, c := range name {
		if c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return fmt.Errorf("projection %q: a name has only letters, digits, '-', '_' and '.'", name)
		}
	}
	return nil
}
