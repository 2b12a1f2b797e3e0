package projection

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/event"
)

// A Definition is what the engine sees of a [Projection]: the same, with its
// types hidden. A state is a *S in an any. Its methods are pure and may be
// called from many goroutines at once, on different states.
type Definition interface {
	Name() string
	Version() string
	Err() error

	// Types returns the types that have a handler or an upcaster, sorted.
	Types() []string
	// ByStream reports whether every document is made from the one stream that
	// it is named after.
	ByStream() bool
	// CrossTenant reports whether documents belong to no tenant.
	CrossTenant() bool

	// Touch finds the documents that e belongs to. It decodes the payload only
	// if it must. Errors: [*HandlerError].
	Touch(e *event.Event, t *Touched) error
	// Apply folds e into a state. It reports whether the document is to be
	// deleted. Errors: [*HandlerError]; then the state is no longer usable.
	Apply(state any, e *event.Event, t *Touched) (deleted bool, err error)

	Init(tenant, id string) any
	Decode(data []byte) (state any, err error)
	Encode(state any) ([]byte, error)
}

// Touched says which documents an event belongs to, and keeps its decoded
// payload for Apply. It is valid as long as the event. Once filled in it may be
// used by several Apply at once if it names more than one document.
type Touched struct {
	Handled  bool
	Document string   // "": none
	More     []string // further documents
	data     any
}

// A HandlerError is an event that cannot be applied, however often it is tried
// on the same state: its payload does not decode or upcast, it chooses a
// document that cannot be, its handler fails or panics, the state that it leaves
// cannot be encoded, or the stored document that it is for does not decode.
type HandlerError struct {
	Reason string // "size", "decode", "upcast", "document", "handler", "panic", "encode" or "state"
	Err    error
	Stack  []byte // of a panic
}

func (e *HandlerError) Error() string { return e.Reason + ": " + e.Err.Error() }
func (e *HandlerError) Unwrap() error { return e.Err }

// Version implements [Definition].
func (p *Projection[S]) Version() string { return p.version }

// Types implements [Definition].
func (p *Projection[S]) Types() []string {
	types := slices.Collect(maps.Keys(p.handlers))
	types = slices.AppendSeq(types, maps.Keys(p.upcasts))
	slices.Sort(types)
	return slices.Compact(types)
}

// ByStream implements [Definition].
func (p *Projection[S]) ByStream() bool { return p.byStream && !p.across }

// CrossTenant implements [Definition].
func (p *Projection[S]) CrossTenant() bool { return p.across }

// Touch implements [Definition].
func (p *Projection[S]) Touch(e *event.Event, t *Touched) (err error) {
	*t = Touched{More: t.More[:0]}
	h, ups, err := p.resolve(e.HandledType())
	if err != nil {
		return &HandlerError{Reason: "upcast", Err: err}
	}
	if h == nil {
		return nil
	}
	t.Handled = true
	if p.byStream {
		t.Document = e.Stream
		return nil
	}
	defer recovered(&err)
	if p.by != nil && !h.chooses() { // so that an event that does not decode has its place in the order too
		t.Document = p.by(e)
		return checkDocument(t.Document)
	}
	if t.data, err = p.decode(h, ups, e); err != nil {
		return err
	}
	h.documents(e, t.data, t)
	if err := checkDocument(t.Document); err != nil {
		return err
	}
	for _, id := range t.More {
		if err := checkDocument(id); err != nil {
			return err
		}
	}
	return nil
}

// Apply implements [Definition].
func (p *Projection[S]) Apply(state any, e *event.Event, t *Touched) (deleted bool, err error) {
	h, ups, err := p.resolve(e.HandledType())
	if err != nil {
		return false, &HandlerError{Reason: "upcast", Err: err}
	}
	if h == nil {
		return false, nil
	}
	defer recovered(&err)
	s, ok := state.(*S)
	if !ok {
		return false, state.(*noState).err
	}
	data := t.data
	if data == nil || len(t.More) > 0 && h.aliased() {
		// Each document gets a payload of its own: a handler may keep a slice
		// of it and write to that later.
		if data, err = p.decode(h, ups, e); err != nil {
			return false, err
		}
	}
	switch err := h.apply(s, e, data); {
	case err == nil:
		return false, nil
	case errors.Is(err, ErrDelete):
		return true, nil
	default:
		return false, &HandlerError{Reason: "handler", Err: err}
	}
}

// TooLarge returns the error of an event whose payload was withheld.
func TooLarge(e *event.Event) error {
	if e.Fault != nil {
		return e.Fault
	}
	return fmt.Errorf("payload of %d bytes is larger than this consumer allows: give it more memory, then retry", e.Withheld)
}

// decode returns the payload as what h takes, a pointer.
func (p *Projection[S]) decode(h handler[S], ups []Upcaster, e *event.Event) (any, error) {
	if e.Withheld > 0 {
		return nil, &HandlerError{Reason: "size", Err: TooLarge(e)}
	}
	// A payload that nobody can change through a copy is decoded once for all
	// projections that take it in the same form.
	_, standard := p.codec.(JSON)
	share := standard && len(ups) == 0 && !h.aliased()
	if share {
		if known, ok := e.Decoded(h.form()); ok {
			return known, nil
		}
	}
	v := h.payload()
	if len(ups) > 0 {
		v = ups[0].from()
	}
	if len(e.Data) == 0 && reflect.TypeOf(v).Elem().Size() == 0 {
		return v, nil // a struct{}: the event says all with its type
	}
	if err := p.codec.Decode(e.Data, v); err != nil {
		return nil, &HandlerError{Reason: "decode", Err: fmt.Errorf("type %q: %w", e.HandledType(), err)}
	}
	if share {
		e.SetDecoded(h.form(), v)
	}
	for _, u := range ups {
		n, err := u.up(v)
		if err != nil {
			return nil, &HandlerError{Reason: "upcast", Err: fmt.Errorf("type %q: upcast %q to %q: %w", e.HandledType(), u.old, u.new, err)}
		}
		v = n
	}
	return v, nil
}

// noState is what Init returns where the user's function panics. Each Apply to
// it fails, which parks the document.
type noState struct{ err error }

// Init implements [Definition].
func (p *Projection[S]) Init(tenant, id string) (state any) {
	s := new(S)
	if p.initial == nil {
		return s
	}
	var err error
	defer func() {
		if err != nil {
			state = &noState{err}
		}
	}()
	defer recovered(&err)
	*s = p.initial(tenant, id)
	return s
}

// Decode implements [Definition].
func (p *Projection[S]) Decode(data []byte) (state any, err error) {
	defer recovered(&err)
	s := new(S)
	if err := p.codec.Decode(data, s); err != nil {
		return nil, fmt.Errorf("projection %q: stored document: %w", p.name, err)
	}
	return s, nil
}

// DecodeState is Decode for readers that know S.
func (p *Projection[S]) DecodeState(data []byte) (S, error) {
	var s S
	err := p.codec.Decode(data, &s)
	return s, err
}

// Encode implements [Definition].
func (p *Projection[S]) Encode(state any) (data []byte, err error) {
	defer recovered(&err)
	data, err = p.codec.Encode(state)
	if err != nil {
		return nil, &HandlerError{Reason: "encode", Err: err}
	}
	return data, nil
}

// MaxDocument is the most bytes in the id of a document.
const MaxDocument = event.MaxStream

// ReservedDocument begins the ordering keys under which the engine parks events
// whose documents cannot be told. No document's id may begin so.
const ReservedDocument = "?stream/"

// checkDocument refuses ids that not every store can hold: such an id comes
// from the payload of an event, and must not fail the commit of a whole batch.
func checkDocument(id string) error {
	switch {
	case len(id) > MaxDocument:
		return &HandlerError{Reason: "document", Err: fmt.Errorf("id %+q… has %d bytes, more than %d", id[:64], len(id), MaxDocument)}
	case strings.IndexByte(id, 0) >= 0:
		return &HandlerError{Reason: "document", Err: fmt.Errorf("id %+q has a NUL", id)}
	case strings.HasPrefix(id, ReservedDocument):
		return &HandlerError{Reason: "document", Err: fmt.Errorf("id %+q begins with %q, which is reserved", id, ReservedDocument)}
	case !utf8.ValidString(id):
		return &HandlerError{Reason: "document", Err: fmt.Errorf("id %+q is not valid UTF-8", id)}
	}
	return nil
}

// recovered turns a panic of the user's code into an error, so that it parks a
// key instead of ending the process.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &HandlerError{Reason: "panic", Err: fmt.Errorf("%v", v), Stack: debug.Stack()}
	}
}
