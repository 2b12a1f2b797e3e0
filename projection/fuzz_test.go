package projection_test

import (
	"errors"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

// FuzzDecode shows that no payload makes a projection panic: it is applied, or
// refused with a reason, the same each time; and what it leaves can be stored
// and read again.
func FuzzDecode(f *testing.F) {
	type wide struct {
		ID    string
		IDs   []string
		N     int8
		F     float64
		T     time.Time
		D     time.Duration
		M     map[string]any
		P     *wide
		Bytes []byte
		Any   any
	}
	type wideEvent = projection.Event[wide]
	keep := func(s *[]wide, e wideEvent) error {
		*s = append(*s, e.Data)
		return nil
	}
	p := projection.New("p",
		projection.On("Stream", keep),
		projection.On("By", keep).By(func(e wideEvent) string { return e.Data.ID }),
		projection.On("Each", keep).ByEach(func(e wideEvent) []string { return e.Data.IDs }),
		projection.On("New@2", keep).By(func(e wideEvent) string { return e.Data.ID }),
	).Upcast(projection.Upcast("New", "New@2", func(s []string) (wide, error) { return wide{IDs: s, ID: s[0]}, nil }))
	if err := p.Err(); err != nil {
		f.Fatal(err)
	}
	for _, data := range []string{
		``, `{}`, `null`, `[]`, `"x"`, `{"ID":"a","IDs":["a","b","a",""]}`, `{"N":128}`, `{"F":1e999}`, `{"ID":"\u0000"}`, `{"ID":"\ud800"}`,
		`{"T":"0000-01-01T00:00:00Z","D":-1}`, `{"P":{"P":{"P":null}}}`, `{"M":{"a":1,"a":2}}`, `{"Any":[{}]}`, `["x","y"]`, "\xff", "{\"ID\":\"\xff\"}",
		`{"T":"9999-12-31T23:59:60Z"}`, `{"Bytes":"AQ"}`,
	} {
		f.Add([]byte(data), "")
		f.Add([]byte(data), "2")
	}
	f.Fuzz(func(t *testing.T, data []byte, schema string) {
		for _, typ := range []string{"Stream", "By", "Each", "New"} {
			e := &event.Event{Position: 1, Tenant: "t", Stream: "s", Version: 1, Type: typ, Data: data, Metadata: event.Metadata{event.SchemaKey: schema}}
			first, err := fold(p, e)
			again, err2 := fold(p, e)
			if (err == nil) != (err2 == nil) || string(first) != string(again) {
				t.Fatalf("%s %q: %q, %v, and the second time %q, %v", typ, data, first, err, again, err2)
			}
			if err == nil {
				continue
			}
			herr, ok := errors.AsType[*projection.HandlerError](err)
			if !ok {
				t.Fatalf("%s %q: %v, want a HandlerError", typ, data, err)
			}
			if herr.Reason == "panic" && (typ != "New" || schema != "") { // s[0] of none may
				t.Fatalf("%s %q: %v\n%s", typ, data, err, herr.Stack)
			}
		}
	})
}

// fold applies an event to all its documents and returns them, encoded, in a row.
func fold[S any](p *projection.Projection[S], e *event.Event) (out []byte, err error) {
	var touched projection.Touched
	if err := p.Touch(e, &touched); err != nil {
		return nil, err
	}
	for _, id := range documents(&touched) {
		s := p.Init(e.Tenant, id)
		if _, err := p.Apply(s, e, &touched); err != nil {
			return nil, err
		}
		data, err := p.Encode(s)
		if err != nil {
			return nil, err
		}
		if _, err := p.Decode(data); err != nil {
			return nil, errors.New("cannot be read again: " + err.Error())
		}
		out = append(append(out, id...), data...)
	}
	return out, nil
}
