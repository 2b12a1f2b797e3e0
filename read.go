package fairlead

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A Projection folds events into documents of type S; see [NewProjection].
type Projection[S any] = projection.Projection[S]

// An Event is an event with its payload decoded into an E.
type Event[E any] = projection.Event[E]

// A Part is what [NewProjection] takes: the handlers that [On] makes.
type Part[S any] = projection.Part[S]

// ErrDelete is returned by a handler to delete its document.
var ErrDelete = projection.ErrDelete

// ErrNotFound means that there is no such document of that tenant.
var ErrNotFound = store.ErrNotFound

// NewProjection returns the projection called name; parts are what [On] makes.
func NewProjection[S any](name string, parts ...Part[S]) *Projection[S] {
	return projection.New(name, parts...)
}

// On makes f the handler of events of type typ; see [projection.On].
func On[S, E any](typ string, f func(*S, Event[E]) error) *projection.Handler[S, E] {
	return projection.On(typ, f)
}

// Upcast turns the payload of an old event type into that of a newer one; see
// [projection.Upcast].
func Upcast[Old, New any](oldType, newType string, f func(Old) (New, error)) projection.Upcaster {
	return projection.Upcast(oldType, newType, f)
}

// A Document is a typed document of a read model.
type Document[S any] struct {
	Tenant   string
	ID       string
	Version  int64          // of its stream, 0 if it is made from several
	Position event.Position // of the last event in it
	Updated  time.Time
	State    S
}

// Get returns one document of a tenant, or an error that is [ErrNotFound]. A
// document can only be read with its tenant; the tenant of a projection across
// tenants is "".
func Get[S any](ctx context.Context, r store.Reader, p *Projection[S], tenant, id string) (Document[S], error) {
	d, err := r.Get(ctx, p.Name(), tenant, id)
	if errors.Is(err, store.ErrNotFound) {
		return Document[S]{}, fmt.Errorf("%s %q of tenant %q: %w", p.Name(), id, tenant, ErrNotFound)
	}
	if err != nil {
		return Document[S]{}, fmt.Errorf("get %s %q of tenant %q: %w", p.Name(), id, tenant, err)
	}
	return typed(p, d)
}

// List returns documents of a tenant with ids above after, in byte order, at
// most limit: the next page begins after the last id of this one.
func List[S any](ctx context.Context, r store.Reader, p *Projection[S], tenant, after string, limit int) ([]Document[S], error) {
	rows, err := r.List(ctx, p.Name(), tenant, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list %s of tenant %q: %w", p.Name(), tenant, err)
	}
	docs := make([]Document[S], len(rows))
	for i, d := range rows {
		if docs[i], err = typed(p, d); err != nil {
			return nil, err
		}
	}
	return docs, nil
}

func typed[S any](p *Projection[S], d store.Document) (Document[S], error) {
	s, err := p.DecodeState(d.Data)
	if err != nil {
		return Document[S]{}, fmt.Errorf("decode %s %q of tenant %q: %w: was it made by another version of the projection?", p.Name(), d.ID, d.Tenant, err)
	}
	return Document[S]{d.Tenant, d.ID, d.Version, d.Position, d.Updated, s}, nil
}
