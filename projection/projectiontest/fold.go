package projectiontest

import (
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

type key struct{ tenant, id string }

// A document is kept twice; see the package comment.
type document[S any] struct {
	data    []byte // as it is stored; nil: there is none
	live    any    // the state that stayed in memory; nil: there is none
	split   bool   // the two differ, which was reported
	version int64  // of its stream; 0 where it is made from several
	parked  bool
	touched []touch
}

// A touch is an event that belongs to a document, with what became of it.
type touch struct {
	event   int // in Fold.events
	outcome string
}

// project does with an event what a lane of the engine does. before is the
// version that its stream had.
func (f *Fold[S]) project(e *event.Event, before int64) {
	f.tb.Helper()
	n := len(f.events) - 1
	// Decoded once for each of the two folds, so that these share nothing.
	var live, stored projection.Touched
	err := f.check(e)
	if err == nil {
		err = f.p.Touch(e, &live)
	}
	if err == nil {
		err = f.p.Touch(e, &stored)
	}
	if err != nil {
		herr := handlerError(err)
		f.notes[n] = "failed: " + herr.Error()
		f.fail(e, "of which no document can be told", herr)
		return
	}
	switch {
	case !live.Handled:
		f.notes[n] = "no handler"
		return
	case live.Document == "" && len(live.More) == 0:
		f.notes[n] = "belongs to no document"
		return
	}
	tenant := e.Tenant
	if f.p.CrossTenant() {
		tenant = ""
	}
	for _, id := range append([]string{live.Document}, live.More...) {
		k := key{tenant, id}
		d := f.docs[k]
		if d == nil {
			d = &document[S]{}
			f.docs[k] = d
			f.order = append(f.order, k)
		}
		outcome, herr := f.apply(d, k, e, before, &live, &stored)
		d.touched = append(d.touched, touch{n, outcome})
		if herr != nil {
			d.parked = true
			f.fail(e, fmt.Sprintf("of document %q of tenant %q", id, tenant), herr)
		}
	}
}

func (f *Fold[S]) check(e *event.Event) error {
	if err := e.Check(); err != nil {
		return &projection.HandlerError{Reason: "name", Err: err}
	}
	return nil
}

// apply applies an event to a document, and says what became of it.
func (f *Fold[S]) apply(d *document[S], k key, e *event.Event, before int64, live, stored *projection.Touched) (string, *projection.HandlerError) {
	f.tb.Helper()
	byStream := f.p.ByStream()
	switch {
	case d.parked:
		return "waits behind the failed one", nil
	case byStream && d.data != nil && e.Version <= d.version:
		return "duplicate, passed over", nil
	case byStream && d.data != nil && e.Version > before+1:
		err := &projection.HandlerError{Reason: "gap", Err: fmt.Errorf("stream %q of tenant %q jumps from version %d to %d",
			e.Stream, e.Tenant, before, e.Version)}
		return "failed: " + err.Error(), err
	}
	data, herr := f.store(d.data, k, e, stored)
	if herr != nil {
		return "failed: " + herr.Error(), herr
	}
	f.keep(d, k, e, live, data)
	d.data = data
	if byStream {
		d.version = e.Version
	}
	if data == nil {
		d.version = 0
		return "deleted the document", nil
	}
	return "applied", nil
}

// store applies an event to a document that was stored, and stores it again.
func (f *Fold[S]) store(data []byte, k key, e *event.Event, t *projection.Touched) ([]byte, *projection.HandlerError) {
	var state any
	var err error
	if data == nil {
		state = f.p.Init(k.tenant, k.id)
	} else if state, err = f.p.Decode(data); err != nil {
		// It was encoded by the same codec: it does not read what it writes.
		return nil, &projection.HandlerError{Reason: "encode", Err: err}
	}
	deleted, err := f.p.Apply(state, e, t)
	if err != nil {
		return nil, handlerError(err)
	}
	if deleted {
		return nil, nil
	}
	out, err := f.p.Encode(state)
	if err != nil {
		return nil, handlerError(err)
	}
	if out == nil {
		out = []byte{}
	}
	if _, err := f.p.Decode(out); err != nil {
		return nil, &projection.HandlerError{Reason: "encode", Err: fmt.Errorf("what the state is encoded as cannot be decoded: %w", err)}
	}
	return out, nil
}

// keep applies an event to the state that stayed in memory, and compares it
// with the stored one.
func (f *Fold[S]) keep(d *document[S], k key, e *event.Event, t *projection.Touched, stored []byte) {
	f.tb.Helper()
	if d.live == nil {
		d.live = f.p.Init(k.tenant, k.id)
	}
	deleted, err := f.p.Apply(d.live, e, t)
	var got string
	switch {
	case err != nil:
		got = "  the error: " + err.Error()
	case deleted:
		d.live = nil
		if stored == nil {
			return
		}
		got = "  no document"
	default:
		data, err := f.p.Encode(d.live)
		switch {
		case err != nil:
			got = "  the error: " + err.Error()
		case stored != nil && string(data) == string(stored):
			return
		default:
			got = indent(data)
		}
	}
	if d.split {
		return
	}
	d.split = true
	want := "  no document"
	if stored != nil {
		want = indent(stored)
	}
	f.tb.Errorf("%s %q of tenant %q depends on whether it was stored and loaded before %s "+
		"(- stored, + stayed in memory):\n%s\n"+
		"Either its state has fields that are not encoded, or a handler uses the clock or chance, or two documents share memory.",
		f.p.Name(), k.id, k.tenant, describe(e), diff(want, got))
}

func handlerError(err error) *projection.HandlerError {
	if herr, ok := errors.AsType[*projection.HandlerError](err); ok {
		return herr
	}
	return &projection.HandlerError{Reason: "handler", Err: err}
}
