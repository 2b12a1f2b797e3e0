package projection_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

func up(from, to string) projection.Upcaster {
	return projection.Upcast(from, to, func(p payload) (payload, error) {
		p.ID += "<" + from
		return p, nil
	})
}

func TestErr(t *testing.T) {
	byTenant := func(e *event.Event) string { return e.Tenant }
	by, each := func(ev) string { return "" }, func(ev) []string { return nil }
	for _, tt := range []struct {
		name string
		p    *projection.Projection[state]
		want []string // a part of each line, in order
	}{
		{"none", projection.New("a-B_9.z", on("E")), nil},
		{"a long name", projection.New(strings.Repeat("a", 100), on("E")), nil},
		{"a longer name", projection.New(strings.Repeat("a", 101), on("E")), []string{"1 to 100 characters"}},
		{"no name", projection.New("", on("E")), []string{"1 to 100 characters"}},
		{"a name with a space", projection.New("a b", on("E")), []string{"only letters"}},
		{"a name with a quote", projection.New("a'b", on("E")), []string{"only letters"}},
		{"a name with a slash", projection.New("../b", on("E")), []string{"only letters"}},
		{"a name with NUL", projection.New("a\x00", on("E")), []string{"only letters"}},
		{"a name that is not ASCII", projection.New("é", on("E")), []string{"only letters"}},
		{"no handlers", projection.New[state]("p"), []string{"no handlers"}},
		{"a nil part", projection.New[state]("p", nil, on("E")), []string{"a nil handler"}},
		{"a nil function", projection.New("p", projection.On[state, payload]("E", nil)), []string{`handler of type "E" is nil`}},
		{"a type without a name", projection.New("p", on("")), []string{"type \"\" is empty"}},
		{"a type with a control character", projection.New("p", on("a\n")), []string{"control character"}},
		{"two handlers", projection.New("p", on("E"), on("F"), on("E")), []string{`two handlers of type "E"`}},
		{"both ways to choose", projection.New("p", on("E").By(by).ByEach(each)), []string{"both By and ByEach"}},
		{"by nothing", projection.New("p", on("E")).By(nil), []string{"By of nil"}},
		{"by twice", projection.New("p", on("E")).By(byTenant).By(byTenant), []string{"By twice"}},
		{"a nil codec", projection.New("p", on("E")).WithCodec(nil), []string{"nil codec"}},
		{"two upcasters", projection.New("p", on("E")).Upcast(up("D", "E"), up("D", "E")), []string{`two upcasters from type "D"`}},
		{"an upcaster to nowhere", projection.New("p", on("E")).Upcast(up("D", "F")), []string{`from "D" ends at "F"`}},
		{"a chain to nowhere", projection.New("p", on("E")).Upcast(up("C", "D"), up("D", "F")), []string{`from "C" ends at "F"`, `from "D" ends at "F"`}},
		{"a circle", projection.New("p", on("E")).Upcast(up("A", "B"), up("B", "A")), []string{`from "A" go round in a circle`, `from "B" go round in a circle`}},
		{"a circle of one", projection.New("p", on("E")).Upcast(up("A", "A")), []string{`from "A" go round in a circle`}},
		{"a way into a circle", projection.New("p", on("E")).Upcast(up("0", "A"), up("A", "B"), up("B", "A")),
			[]string{`from "0" go round`, `from "A" go round`, `from "B" go round`}},
		{"an upcaster that is never used", projection.New("p", on("E"), on("D")).Upcast(up("D", "E")), []string{`type "D" has a handler`}},
		{"an upcaster from no type", projection.New("p", on("E")).Upcast(up("", "E")), []string{`type "" is empty`}},
		{"an upcaster to no type", projection.New("p", on("E")).Upcast(up("D", "")), []string{`type "" is empty`}},
		{"a nil upcaster", projection.New("p", on("E")).Upcast(projection.Upcast[payload, payload]("D", "E", nil)), []string{"its function is nil"}},
		{"a zero upcaster", projection.New("p", on("E")).Upcast(projection.Upcaster{}), []string{"that Upcast did not make"}},
		{"an upcaster of another type than the handler", projection.New("p", on("E")).
			Upcast(projection.Upcast("D", "E", func(int) (string, error) { return "", nil })),
			[]string{`from "D" yields string, but what handles "E" takes projection_test.payload`}},
		{"an upcaster of another type than the next", projection.New("p", on("E")).
			Upcast(projection.Upcast("C", "D", func(int) (string, error) { return "", nil }), up("D", "E")),
			[]string{`from "C" yields string, but what handles "D" takes projection_test.payload`}},
		{"all at once", projection.New("a b", on("E").By(by).ByEach(each), on("\x00")).Upcast(up("C", "D"), up("C", "D")),
			[]string{"only letters", "both By", "control character", "two upcasters", `ends at "D"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.p.Err()
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatalf("Err() = %v, want nil", err)
				}
				return
			}
			if err == nil {
				t.Fatalf("Err() = nil, want %q", tt.want)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("Err() = %q, want %d faults: %q", lines, len(tt.want), tt.want)
			}
			for i := range lines {
				if !strings.Contains(lines[i], tt.want[i]) {
					t.Errorf("fault %d: %q, want %q in it", i, lines[i], tt.want[i])
				}
			}
			if again := tt.p.Err(); again == nil || again.Error() != err.Error() {
				t.Errorf("Err() again = %v, want the same", again)
			}
		})
	}
}

func TestUpcast(t *testing.T) {
	old := errors.New("too old")
	byID := func(e ev) string { return e.Data.ID }
	byStream := projection.New("p", on("E@3"), on("Other")).Upcast(chain(old)...)
	byPayload := projection.New("p", on("E@3").By(byID), on("Other").By(byID)).Upcast(chain(old)...)
	if err := errors.Join(byStream.Err(), byPayload.Err()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, typ, schema, data, want, reason string
	}{
		{"the newest", "E", "3", `{"id":"x"}`, "E x", ""},
		{"one step", "E", "2", `{"First":"Ann","Last":"Lee"}`, "E Lee, Ann", ""},
		{"two steps", "E", "", `{"Name":"Ann Lee"}`, "E Lee, Ann", ""},
		{"a new name", "Renamed", "", `{"id":"x"}`, "Renamed x", ""},
		{"a future one", "E", "4", `{"id":"x"}`, "", ""},
		{"an error", "E", "", `{"Name":"Ann"}`, "", "upcast"},
		{"a panic", "E", "", `{"Name":"panic now"}`, "", "panic"},
		{"malformed", "E", "", `{"Name":`, "", "decode"},
	} {
		for by, p := range map[string]*projection.Projection[state]{"stream": byStream, "payload": byPayload} {
			t.Run(tt.name+" by "+by, func(t *testing.T) {
				e := newEvent(tt.typ, tt.data)
				if tt.schema != "" {
					e.Metadata = event.Metadata{event.SchemaKey: tt.schema}
				}
				got, _, err := apply(p, e)
				if wantReason(t, "apply", err, tt.reason); tt.reason != "" {
					if tt.reason == "upcast" && !errors.Is(err, old) {
						t.Errorf("the upcaster's error is not in %v", err)
					}
					return
				}
				if s := strings.Join(got.Seen, ";"); s != tt.want {
					t.Errorf("got %q, want %q", s, tt.want)
				}
			})
		}
	}
}

// chain leads from E over E@2 to E@3, and from Renamed to Other.
func chain(old error) []projection.Upcaster {
	type v1 struct{ Name string }
	type v2 struct{ First, Last string }
	return []projection.Upcaster{
		projection.Upcast("E", "E@2", func(o v1) (v2, error) {
			first, last, ok := strings.Cut(o.Name, " ")
			switch {
			case !ok:
				return v2{}, old
			case first == "panic":
				panic("in an upcaster")
			}
			return v2{first, last}, nil
		}),
		projection.Upcast("E@2", "E@3", func(o v2) (payload, error) { return payload{ID: o.Last + ", " + o.First}, nil }),
		projection.Upcast("Renamed", "Other", func(p payload) (payload, error) { return p, nil }),
	}
}

// TestFaultyUpcasters shows that a projection whose faults nobody looked at
// still says what is wrong, for each event.
func TestFaultyUpcasters(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ups    []projection.Upcaster
		reason string
	}{
		{"to nowhere", []projection.Upcaster{up("E", "F")}, "upcast"},
		{"a circle", []projection.Upcaster{up("E", "F"), up("F", "E")}, "upcast"},
		{"of another type", []projection.Upcaster{projection.Upcast("E", "X", func(payload) (string, error) { return "", nil })}, "panic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := apply(projection.New("p", on("X")).Upcast(tt.ups...), newEvent("E", "{}"))
			wantReason(t, "apply", err, tt.reason)
		})
	}
}
