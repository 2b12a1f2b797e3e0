package projection

import (
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
)

// An Upcaster turns the payload of an old event type into that of a newer one;
// see [Upcast].
type Upcaster struct {
	old, new string
	from, to func() any // a new *Old, a new *New
	up       func(any) (any, error)
	err      error
}

// Upcast returns an upcaster: events of type oldType are handled as newType,
// with their payload decoded into an Old and turned into a New by f. Upcasters
// may form a chain. An event whose metadata say "schema": "2" has the type
// "Type@2" here, so versions inside one type name work as well.
func Upcast[Old, New any](oldType, newType string, f func(Old) (New, error)) Upcaster {
	u := Upcaster{
		old: oldType, new: newType,
		from: func() any { return new(Old) },
		to:   func() any { return new(New) },
		up: func(v any) (any, error) {
			n, err := f(*v.(*Old))
			return &n, err
		},
		err: errors.Join(event.CheckType(oldType), event.CheckType(newType)),
	}
	if f == nil {
		u.err = errors.Join(u.err, errors.New("its function is nil"))
	}
	return u
}

// resolve returns the handler of a type and the upcasters that lead to it.
func (p *Projection[S]) resolve(typ string) (handler[S], []Upcaster, error) {
	if h := p.handlers[typ]; h != nil || len(p.upcasts) == 0 {
		return h, nil, nil
	}
	var ups []Upcaster
	for at := typ; ; {
		u, ok := p.upcasts[at]
		if !ok {
			if len(ups) == 0 {
				return nil, nil, nil
			}
			return nil, nil, fmt.Errorf("projection %q: upcast from %q ends at %q, which has no handler", p.name, typ, at)
		}
		ups = append(ups, u)
		if len(ups) > len(p.upcasts) {
			return nil, nil, fmt.Errorf("projection %q: upcasters from %q go round in a circle", p.name, typ)
		}
		if at = u.new; p.handlers[at] != nil {
			return p.handlers[at], ups, nil
		}
	}
}
