package projection

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

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
// payload for Apply. It is valid as long as the event.
type Touched struct {
	Handled  bool
	Document string   // "": none
	More     []string // further documents
	data     any
}

// A HandlerError is an event that cannot be applied, however often it is tried
// on the same state: its payload does not decode, its handler fails or panics,
// or the state that it leaves cannot be encoded.
type HandlerError struct {
	Reason string // "decode", "handler", "panic" or "encode"
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
	if h == nil || err != nil {
		return err
	}
	t.Handled = true
	if p.byStream {
		t.Document = e.Stream
		return nil
	}
	defer recovered(&err)
	if err := p.decode(h, ups, e, t); err != nil {
		return err
	}
	h.documents(e, t.data, t)
	return nil
}

// Apply implements [Definition].
func (p *Projection[S]) Apply(state any, e *event.Event, t *Touched) (deleted bool, err error) {
	h, ups, err := p.resolve(e.HandledType())
	if h == nil || err != nil {
		return false, err
	}
	defer recovered(&err)
	if t.data == nil {
		if err := p.decode(h, ups, e, t); err != nil {
			return false, err
		}
	}
	switch err := h.apply(state.(*S), e, t.data); {
	case err == nil:
		return false, nil
	case errors.Is(err, ErrDelete):
		return true, nil
	default:
		return false, &HandlerError{Reason: "handler", Err: err}
	}
}

func (p *Projection[S]) decode(h handler[S], ups []Upcaster, e *event.Event, t *Touched) (err error) {
	if e.Withheld > 0 {
		return &HandlerError{Reason: "decode", Err: fmt.Errorf("payload of %d bytes is larger than this consumer allows", e.Withheld)}
	}
	if len(ups) == 0 {
		t.data, err = h.decode(p.codec, e, nil, nil)
	} else {
		t.data, err = h.decode(p.codec, e, func(v any) (any, error) { return chain(ups, v) }, ups[0].first)
	}
	if err != nil {
		return &HandlerError{Reason: "decode", Err: fmt.Errorf("type %q: %w", e.HandledType(), err)}
	}
	return nil
}

// Init implements [Definition].
func (p *Projection[S]) Init(tenant, id string) any {
	s := new(S)
	if p.initial != nil {
		*s = p.initial(tenant, id)
	}
	return s
}

// Decode implements [Definition].
func (p *Projection[S]) Decode(data []byte) (any, error) {
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

// recovered turns a panic of the user's code into an error, so that it parks a
// key instead of ending the process.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &HandlerError{Reason: "panic", Err: fmt.Errorf("%v", v), Stack: debug.Stack()}
	}
}
