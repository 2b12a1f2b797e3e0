package projection_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

type (
	state   struct{ Seen []string }
	payload struct {
		ID  string   `json:"id"`
		IDs []string `json:"ids"`
	}
	ev = projection.Event[payload]
)

func note(s *state, e ev) error {
	s.Seen = append(s.Seen, e.Type+" "+e.Data.ID)
	return nil
}

func on(typ string) *projection.Handler[state, payload] { return projection.On(typ, note) }

func newEvent(typ, data string) *event.Event {
	return &event.Event{Position: 1, Tenant: "acme", Stream: "order-1", Version: 1, Type: typ, Data: []byte(data)}
}

// documents returns the ids of the documents that t names.
func documents(t *projection.Touched) []string {
	if t.Document == "" {
		return append([]string{}, t.More...)
	}
	return append([]string{t.Document}, t.More...)
}

// wantReason fails the test unless err is a HandlerError of a reason ("": nil)
// that has a stack if it is of a panic. It returns what the error says.
func wantReason(t *testing.T, what string, err error, reason string) string {
	t.Helper()
	if reason == "" {
		if err != nil {
			t.Fatalf("%s: %v, want nil", what, err)
		}
		return ""
	}
	herr, ok := errors.AsType[*projection.HandlerError](err)
	if !ok || herr.Reason != reason {
		t.Fatalf("%s: %v, want a HandlerError %q", what, err, reason)
	}
	if (len(herr.Stack) > 0) != (reason == "panic") {
		t.Errorf("%s: stack of %d bytes with reason %q", what, len(herr.Stack), reason)
	}
	return herr.Error()
}

func TestTouch(t *testing.T) {
	p := projection.New("p",
		on("Stream"),
		on("By").By(func(e ev) string { return e.Data.ID }),
		on("Each").ByEach(func(e ev) []string { return e.Data.IDs }),
		on("Stream@2"),
		on("Panics").By(func(ev) string { panic("no") }),
		on("Tenant").By(func(e ev) string { return e.Tenant }),
	)
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	many, wantMany := make([]string, 2000), make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("d%d", i%1000)
		wantMany[i%1000] = many[i]
	}
	for _, tt := range []struct {
		name, typ, schema, data string
		handled                 bool
		want                    []string
		reason                  string
	}{
		{"no handler", "Other", "", `{}`, false, nil, ""},
		{"no handler, not decoded", "Other", "", `{`, false, nil, ""},
		{"the stream", "Stream", "", `{}`, true, []string{"order-1"}, ""},
		{"by schema version", "Stream", "2", `{}`, true, []string{"order-1"}, ""},
		{"another schema version", "Stream", "3", `{}`, false, nil, ""},
		{"schema version in the type", "Stream@2", "", `{}`, true, []string{"order-1"}, ""},
		{"by", "By", "", `{"id":"x"}`, true, []string{"x"}, ""},
		{"by nothing", "By", "", `{}`, true, nil, ""},
		{"by what is not in the payload", "Tenant", "", `{}`, true, []string{"acme"}, ""},
		{"by each", "Each", "", `{"ids":["a","b"]}`, true, []string{"a", "b"}, ""},
		{"by each, repeated", "Each", "", `{"ids":["a","b","a","a","b","c"]}`, true, []string{"a", "b", "c"}, ""},
		{"by each, empty ids", "Each", "", `{"ids":["","a",""]}`, true, []string{"a"}, ""},
		{"by each, only empty ids", "Each", "", `{"ids":["",""]}`, true, nil, ""},
		{"by each of none", "Each", "", `{"ids":[]}`, true, nil, ""},
		{"by each of null", "Each", "", `{"ids":null}`, true, nil, ""},
		{"by each of many", "Each", "", `{"ids":["` + strings.Join(many, `","`) + `"]}`, true, wantMany, ""},
		{"as long as may be", "By", "", `{"id":"` + strings.Repeat("x", projection.MaxDocument) + `"}`, true,
			[]string{strings.Repeat("x", projection.MaxDocument)}, ""},
		{"hostile but possible", "By", "", `{"id":"'; DROP TABLE x; --\u202e"}`, true, []string{"'; DROP TABLE x; --\u202e"}, ""},
		{"too long", "By", "", `{"id":"` + strings.Repeat("x", projection.MaxDocument+1) + `"}`, true, nil, "document"},
		{"a NUL", "By", "", `{"id":"a\u0000b"}`, true, nil, "document"},
		{"a NUL in one of several", "Each", "", `{"ids":["a","b\u0000"]}`, true, nil, "document"},
		{"malformed", "By", "", `{"id":`, true, nil, "decode"},
		{"empty", "By", "", ``, true, nil, "decode"},
		{"another kind of JSON", "By", "", `[]`, true, nil, "decode"},
		{"a panic", "Panics", "", `{}`, true, nil, "panic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEvent(tt.typ, tt.data)
			if tt.schema != "" {
				e.Metadata = event.Metadata{event.SchemaKey: tt.schema}
			}
			touched := projection.Touched{Document: "old", More: []string{"older"}} // of an earlier event
			if wantReason(t, "Touch", p.Touch(e, &touched), tt.reason); tt.reason != "" {
				return
			}
			if got := documents(&touched); touched.Handled != tt.handled || !slices.Equal(got, tt.want) {
				t.Errorf("handled %t, documents %.200q, want %t, %.200q", touched.Handled, got, tt.handled, tt.want)
			}
		})
	}
	t.Run("not UTF-8", func(t *testing.T) {
		p := projection.New("p", on("E").By(func(e ev) string { return e.Data.ID[:1] }))
		wantReason(t, "Touch", p.Touch(newEvent("E", `{"id":"é"}`), new(projection.Touched)), "document")
	})
}

// TestTouchByStream shows that choosing documents by stream decodes nothing.
func TestTouchByStream(t *testing.T) {
	var touched projection.Touched
	p := projection.New("p", on("E"))
	if err := p.Touch(newEvent("E", "{"), &touched); err != nil || touched.Document != "order-1" {
		t.Fatalf("Touch = %v, document %q, want nil, order-1", err, touched.Document)
	}
	_, err := p.Apply(p.Init("acme", "order-1"), newEvent("E", "{"), &touched)
	wantReason(t, "Apply", err, "decode")
}

// TestBy shows that a projection's own choice is for handlers without one, and
// that it decodes nothing: an event that does not decode still has its document.
func TestBy(t *testing.T) {
	p := projection.New("p", on("E"), on("Other").By(func(e ev) string { return e.Data.ID })).
		By(func(e *event.Event) string {
			switch e.Stream {
			case "panics":
				panic("no")
			case "passed":
				return ""
			case "nul":
				return "a\x00"
			}
			return "of " + e.Tenant
		})
	if err := p.Err(); err != nil || p.ByStream() {
		t.Fatalf("Err() = %v, ByStream() = %t, want nil, false", err, p.ByStream())
	}
	for _, tt := range []struct{ name, typ, stream, data, want, reason string }{
		{"the projection's", "E", "s", `{"id":"x"}`, "of acme", ""},
		{"the handler's own", "Other", "s", `{"id":"x"}`, "x", ""},
		{"malformed", "E", "s", `{`, "of acme", ""},
		{"malformed, by payload", "Other", "s", `{`, "", "decode"},
		{"passed over", "E", "passed", `{}`, "", ""},
		{"a panic", "E", "panics", `{}`, "", "panic"},
		{"an id that cannot be", "E", "nul", `{}`, "", "document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEvent(tt.typ, tt.data)
			e.Stream = tt.stream
			touched := projection.Touched{Document: "old", More: []string{"older"}} // of an earlier event
			if wantReason(t, "Touch", p.Touch(e, &touched), tt.reason); tt.reason != "" {
				return
			}
			if !touched.Handled || touched.Document != tt.want || len(touched.More) > 0 {
				t.Errorf("Touch: %+v, want the document %q", touched, tt.want)
			}
		})
	}
	s, _, err := apply(p, newEvent("E", `{"id":"x"}`))
	if err != nil || !slices.Equal(s.Seen, []string{"E x"}) {
		t.Errorf("apply = %+v, %v, want the payload", s, err)
	}
	_, _, err = apply(p, newEvent("E", `{`))
	wantReason(t, "Apply", err, "decode")
}

// apply applies one event to a new state.
func apply[S any](p *projection.Projection[S], e *event.Event) (s S, deleted bool, err error) {
	var touched projection.Touched
	if err := p.Touch(e, &touched); err != nil {
		return s, false, err
	}
	v := p.Init(e.Tenant, touched.Document)
	deleted, err = p.Apply(v, e, &touched)
	if v, ok := v.(*S); ok {
		s = *v
	}
	return s, deleted, err
}

func TestApply(t *testing.T) {
	someError := errors.New("out of stock")
	p := projection.New("p",
		on("Noted"),
		projection.On("Deleted", func(*state, ev) error { return projection.ErrDelete }),
		projection.On("DeletedWithReason", func(*state, ev) error { return fmt.Errorf("closed: %w", projection.ErrDelete) }),
		projection.On("Fails", func(*state, ev) error { return someError }),
		projection.On("Panics", func(s *state, e ev) error { _ = e.Data.IDs[3]; return nil }),
		projection.On("PanicsWithError", func(*state, ev) error { panic(someError) }),
		projection.On("PanicsWithNil", func(*state, ev) error { panic(nil) }),
		projection.On("Number", func(s *state, e projection.Event[int]) error { s.Seen = []string{fmt.Sprint(e.Data)}; return nil }),
		projection.On("Any", func(s *state, e projection.Event[any]) error { s.Seen = []string{fmt.Sprint(e.Data)}; return nil }),
	)
	for _, tt := range []struct {
		name, typ, data string
		want            []string
		deleted         bool
		reason          string
		text            string // in the error
	}{
		{"applied", "Noted", `{"id":"x"}`, []string{"Noted x"}, false, "", ""},
		{"unknown fields", "Noted", `{"id":"x","colour":"red","more":{"a":[1]}}`, []string{"Noted x"}, false, "", ""},
		{"names match by case", "Noted", `{"ID":"x"}`, []string{"Noted "}, false, "", ""},
		{"null", "Noted", `null`, []string{"Noted "}, false, "", ""},
		{"a number", "Number", `7`, []string{"7"}, false, "", ""},
		{"anything", "Any", `["a",{"b":null}]`, []string{"[a map[b:<nil>]]"}, false, "", ""},
		{"deleted", "Deleted", `{}`, nil, true, "", ""},
		{"deleted, wrapped", "DeletedWithReason", `{}`, nil, true, "", ""},
		{"an error", "Fails", `{}`, nil, false, "handler", "out of stock"},
		{"a panic", "Panics", `{}`, nil, false, "panic", "index out of range"},
		{"a panic with an error", "PanicsWithError", `{}`, nil, false, "panic", "out of stock"},
		{"a panic with nil", "PanicsWithNil", `{}`, nil, false, "panic", "nil"},
		{"malformed", "Noted", `{"id":"x"`, nil, false, "decode", `type "Noted"`},
		{"empty", "Noted", ``, nil, false, "decode", "EOF"},
		{"two values", "Noted", `{} {}`, nil, false, "decode", "after top-level value"},
		{"a name twice", "Noted", `{"id":"x","id":"y"}`, nil, false, "decode", "duplicate"},
		{"an unknown name twice", "Noted", `{"z":1,"z":2}`, nil, false, "decode", "duplicate"},
		{"not UTF-8", "Noted", "{\"id\":\"\xff\"}", nil, false, "decode", "UTF-8"},
		{"another kind", "Noted", `{"id":7}`, nil, false, "decode", "/id"},
		{"too large a number", "Number", `99999999999999999999`, nil, false, "decode", ""},
		{"very deep", "Any", strings.Repeat("[", 1<<20), nil, false, "decode", "depth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, deleted, err := apply(p, newEvent(tt.typ, tt.data))
			if text := wantReason(t, "Apply", err, tt.reason); tt.reason != "" {
				if !strings.Contains(text, tt.text) || !strings.HasPrefix(text, tt.reason+": ") {
					t.Errorf("error %q, want %q in it after the reason", text, tt.text)
				}
				return
			}
			if deleted != tt.deleted || !deleted && !slices.Equal(got.Seen, tt.want) {
				t.Errorf("Apply = %q, deleted %t, want %q, %t", got.Seen, deleted, tt.want, tt.deleted)
			}
		})
	}
	if _, _, err := apply(p, newEvent("Fails", `{}`)); !errors.Is(err, someError) {
		t.Errorf("the error of a handler is not in %v", err)
	}
}

func TestWithheld(t *testing.T) {
	for _, p := range []*projection.Projection[state]{
		projection.New("p", on("E")),
		projection.New("p", on("E").By(func(ev) string { return "x" })),
	} {
		e := newEvent("E", "")
		e.Data, e.Withheld = nil, 50<<20
		_, _, err := apply(p, e)
		if text := wantReason(t, "apply", err, "size"); !strings.Contains(text, "52428800 bytes") {
			t.Errorf("error %q, want the size in it", text)
		}
	}
}

func TestEventOfHandler(t *testing.T) {
	e := newEvent("E", `{"id":"x"}`)
	e.Metadata = event.Metadata{"who": "me"}
	called := false
	p := projection.New("p", projection.On("E", func(s *state, got ev) error {
		called = true
		if got.Event != e || got.Data.ID != "x" || string(got.Event.Data) != `{"id":"x"}` || got.Metadata["who"] != "me" {
			t.Errorf("got %+v", got)
		}
		return nil
	}))
	if _, _, err := apply(p, e); err != nil || !called {
		t.Errorf("called %t, error %v", called, err)
	}
}

// TestPayloadPerDocument shows that documents which share an event do not share
// the memory of its payload.
func TestPayloadPerDocument(t *testing.T) {
	type lines struct{ Counts []int }
	p := projection.New("p", projection.On("E", func(s *lines, e projection.Event[lines]) error {
		s.Counts = e.Data.Counts
		s.Counts[0]++
		return nil
	}).ByEach(func(projection.Event[lines]) []string { return []string{"a", "b"} }))
	e := newEvent("E", `{"Counts":[1]}`)
	var touched projection.Touched
	if err := p.Touch(e, &touched); err != nil {
		t.Fatal(err)
	}
	a, b := p.Init("acme", "a"), p.Init("acme", "b")
	for _, s := range []any{a, b} {
		if _, err := p.Apply(s, e, &touched); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := a.(*lines).Counts[0], b.(*lines).Counts[0]; a != 2 || b != 2 {
		t.Errorf("counts %d and %d, want 2 and 2", a, b)
	}
}

func TestInit(t *testing.T) {
	zero := projection.New("p", on("E"))
	if got := zero.Init("acme", "x").(*state); got.Seen != nil {
		t.Errorf("Init = %+v, want the zero state", got)
	}
	p := projection.New("p", on("E")).Initial(func(tenant, id string) state { return state{[]string{tenant, id}} })
	if got := p.Init("acme", "x").(*state); !slices.Equal(got.Seen, []string{"acme", "x"}) {
		t.Errorf("Init = %+v, want tenant and id", got)
	}
	bad := projection.New("p", on("E")).Initial(func(string, string) state { panic("no state") })
	_, _, err := apply(bad, newEvent("E", `{}`))
	if text := wantReason(t, "Apply to what Init could not make", err, "panic"); !strings.Contains(text, "no state") {
		t.Errorf("error %q, want that of the panic", text)
	}
}

func TestEncode(t *testing.T) {
	encode := func(p projection.Definition, v any) error { _, err := p.Encode(v); return err }
	type number struct{ F float64 }
	type function struct{ F func() }
	numbers := projection.New("p", projection.On("E", func(*number, ev) error { return nil }))
	functions := projection.New("p", projection.On("E", func(*function, ev) error { return nil }))
	panics := projection.New("p", projection.On("E", func(*marshalPanics, ev) error { return nil }))
	for _, tt := range []struct {
		name   string
		err    error
		reason string
	}{
		{"a number", encode(numbers, &number{1.5}), ""},
		{"NaN", encode(numbers, &number{math.NaN()}), "encode"},
		{"infinite", encode(numbers, &number{math.Inf(-1)}), "encode"},
		{"a function", encode(functions, &function{func() {}}), "encode"},
		{"a panic", encode(panics, new(marshalPanics)), "panic"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantReason(t, "Encode", tt.err, tt.reason) })
	}
	if _, err := panics.Decode([]byte(`{}`)); err == nil {
		t.Error("Decode of a state that panics = nil, want an error")
	} else {
		wantReason(t, "Decode", err, "panic")
	}
	if _, err := numbers.Decode([]byte(`{"F":"x"}`)); err == nil || !strings.Contains(err.Error(), `projection "p"`) {
		t.Errorf("Decode of another shape = %v, want an error that names the projection", err)
	}
}

// marshalPanics is a state whose own methods fail.
type marshalPanics struct{}

func (marshalPanics) MarshalJSON() ([]byte, error) { panic("marshal") }
func (*marshalPanics) UnmarshalJSON([]byte) error  { panic("unmarshal") }

func TestRoundTrip(t *testing.T) {
	p := projection.New("p", on("E"))
	want := state{[]string{"é", "\u2028", "", `"`}}
	data, err := p.Encode(&want)
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Decode(data)
	if err != nil || !slices.Equal(v.(*state).Seen, want.Seen) {
		t.Errorf("Decode(%s) = %+v, %v, want %+v", data, v, err, want)
	}
	got, err := p.DecodeState(data)
	if err != nil || !slices.Equal(got.Seen, want.Seen) {
		t.Errorf("DecodeState(%s) = %+v, %v, want %+v", data, got, err, want)
	}
}

func TestDescription(t *testing.T) {
	by := func(ev) string { return "x" }
	for _, tt := range []struct {
		name     string
		p        *projection.Projection[state]
		types    []string
		byStream bool
		across   bool
	}{
		{"by stream", projection.New("p", on("B"), on("A")), []string{"A", "B"}, true, false},
		{"by another key", projection.New("p", on("B"), on("A").By(by)), []string{"A", "B"}, false, false},
		{"by each", projection.New("p", on("A").ByEach(func(ev) []string { return nil })), []string{"A"}, false, false},
		{"across tenants", projection.New("p", on("A")).AcrossTenants(), []string{"A"}, false, true},
		{"with upcasters", projection.New("p", on("B")).Upcast(up("A", "B"), up("@", "A")), []string{"@", "A", "B"}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.p.Err(); err != nil {
				t.Fatal(err)
			}
			if got := tt.p.Types(); !slices.Equal(got, tt.types) {
				t.Errorf("Types() = %q, want %q", got, tt.types)
			}
			if got := tt.p.ByStream(); got != tt.byStream {
				t.Errorf("ByStream() = %t, want %t", got, tt.byStream)
			}
			if got := tt.p.CrossTenant(); got != tt.across {
				t.Errorf("CrossTenant() = %t, want %t", got, tt.across)
			}
		})
	}
	p := projection.New("p", on("A")).WithVersion("7")
	if p.Name() != "p" || p.Version() != "7" {
		t.Errorf("Name, Version = %q, %q, want p, 7", p.Name(), p.Version())
	}
}

func TestNoPayload(t *testing.T) {
	p := projection.New("p", projection.On("Closed", func(n *int, _ projection.Event[struct{}]) error { *n++; return nil }))
	e := newEvent("Closed", "")
	e.Data = nil
	if n, _, err := apply(p, e); err != nil || n != 1 {
		t.Errorf("state %v, error %v; want an event without a payload applied", n, err)
	}
}
