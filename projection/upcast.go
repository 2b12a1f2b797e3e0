package projection

import "fmt"

// An Upcaster turns the payload of an old event type into that of a newer one;
// see [Upcast].
type Upcaster struct {
	old, new string
	first    func() any
	up       func(any) (any, error)
}

// Upcast returns an upcaster: events of type oldType are handled as newType,
// with their payload decoded into an Old and turned into a New by f. Upcasters
// may form a chain. An event whose metadata say "schema": "2" has the type
// "Type@2" here, so versions inside one type name work as well.
func Upcast[Old, New any](oldType, newType string, f func(Old) (New, error)) Upcaster {
	return Upcaster{
		old: oldType, new: newType,
		first: func() any { return new(Old) },
		up: func(v any) (any, error) {
			o, ok := v.(*Old)
			if !ok {
				return nil, fmt.Errorf("upcaster from %q takes %T, got %T", oldType, o, v)
			}
			n, err := f(*o)
			return &n, err
		},
	}
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

func chain(ups []Upcaster, v any) (any, error) {
	for _, u := range ups {
		n, err := u.up(v)
		if err != nil {
			return nil, fmt.Errorf("upcast %q to %q: %w", u.old, u.new, err)
		}
		v = n
	}
	return v, nil
}
