package projectiontest_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/projection/projectiontest"
)

// A recorder is a test that fails without failing this one.
type recorder struct {
	errors, fatals []string
	cleanups       []func()
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(f string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(f, args...))
}
func (r *recorder) Fatalf(f string, args ...any) {
	r.fatals = append(r.fatals, fmt.Sprintf(f, args...))
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) end() {
	for _, f := range r.cleanups {
		f()
	}
}

type (
	Cart struct {
		Confirmed bool `json:"confirmed"`
		Products  int  `json:"products"`
	}
	ItemAdded struct {
		SKU   string `json:"sku"`
		Count int    `json:"count"`
	}
	Nothing struct{}
)

func carts() *projection.Projection[Cart] {
	return projection.New("carts",
		projection.On("ItemAdded", func(c *Cart, e projection.Event[ItemAdded]) error {
			if e.Data.Count < 0 {
				return fmt.Errorf("count %d", e.Data.Count)
			}
			c.Products += e.Data.Count
			return nil
		}),
		projection.On("Confirmed", func(c *Cart, e projection.Event[Nothing]) error {
			c.Confirmed = true
			return nil
		}),
		projection.On("Abandoned", func(c *Cart, e projection.Event[Nothing]) error { return projection.ErrDelete }),
	)
}

func ExampleFold() {
	t := new(recorder) // in a test: its *testing.T
	projectiontest.For(t, carts()).
		Given("acme", "cart-1", "ItemAdded", ItemAdded{SKU: "tea", Count: 2}).
		Given("acme", "cart-1", "Confirmed", Nothing{}).
		Given("bolt", "cart-1", "ItemAdded", ItemAdded{SKU: "nut", Count: 9}).
		Expect("acme", "cart-1", Cart{Confirmed: true, Products: 3})
	fmt.Println(t.errors[0])
	// Output:
	// carts "cart-1" of tenant "acme" (- want, + got):
	//     {
	//       "confirmed": true,
	//   -   "products": 3
	//   +   "products": 2
	//     }
	// Events that belong to it:
	//   event 1 (ItemAdded, stream "cart-1" of tenant "acme", version 1) {"sku":"tea","count":2}: applied
	//   event 2 (Confirmed, stream "cart-1" of tenant "acme", version 2) {}: applied
}

func TestPasses(t *testing.T) {
	f := projectiontest.For(t, carts()).
		Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 2}).
		Expect("acme", "cart-1", Cart{Products: 2}).
		ExpectNone("acme", "cart-2").
		ExpectNone("bolt", "cart-1").
		Given("acme", "cart-1", "Searched", []byte("not even JSON")).
		Given("acme", "cart-1", "Abandoned", &Nothing{}).
		ExpectNone("acme", "cart-1").
		Given("acme", "cart-1", "ItemAdded", ItemAdded{"nut", 5}).
		Expect("acme", "cart-1", Cart{Products: 5})
	if got, ok := f.Get("acme", "cart-1"); !ok || got != (Cart{Products: 5}) {
		t.Errorf("Get = %+v, %t, want 5 products", got, ok)
	}
	if got, ok := f.Get("acme", "cart-2"); ok {
		t.Errorf("Get of no document = %+v, true", got)
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name string
		test func(*projectiontest.Fold[Cart])
		want []string // in the one error, in this order
	}{
		{"another document", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 2}).Expect("acme", "cart-1", Cart{Products: 7})
		}, []string{`carts "cart-1" of tenant "acme"`, `  -   "products": 7`, `  +   "products": 2`, "event 1 (ItemAdded,", `{"sku":"tea","count":2}: applied`}},
		{"of another tenant", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 2}).Expect("bolt", "cart-1", Cart{Products: 2})
		}, []string{"no such document", `"products": 2`, "No event belongs to it. Events given:", "event 1", `"cart-1" of tenant "acme"`}},
		{"no event at all", func(f *projectiontest.Fold[Cart]) { f.Expect("acme", "cart-1", Cart{}) },
			[]string{"no such document", "No event belongs to it."}},
		{"deleted", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 2}).Given("acme", "cart-1", "Abandoned", Nothing{}).
				Expect("acme", "cart-1", Cart{Products: 2})
		}, []string{"no such document", "event 2 (Abandoned,", "deleted the document"}},
		{"not deleted", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 2}).ExpectNone("acme", "cart-1")
		}, []string{"want no such document, got", `"products": 2`, "event 1 (ItemAdded,"}},
		{"not handled", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAddedd", ItemAdded{"tea", 2}).Expect("acme", "cart-1", Cart{Products: 2})
		}, []string{"no such document", "event 1 (ItemAddedd,", "no handler"}},
		{"an error that nobody expects", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", -2})
		}, []string{`event 1 (ItemAdded,`, `document "cart-1" of tenant "acme"`, "cannot be applied: handler: count -2", `ExpectError("handler")`}},
		{"an error that is followed by an event", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", -2}).Given("acme", "cart-2", "Confirmed", Nothing{}).
				Expect("acme", "cart-2", Cart{Confirmed: true})
		}, []string{"event 1 (ItemAdded,", "handler: count -2"}},
		{"another error than expected", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", []byte(`{"sku":`)).ExpectError("decode").
				Given("acme", "cart-2", "ItemAdded", ItemAdded{"tea", 1}).ExpectError("decode")
		}, []string{`want an error "decode", got none`, "event 2 (ItemAdded,"}},
		{"an expected error without an event", func(f *projectiontest.Fold[Cart]) { f.ExpectError("decode") },
			[]string{`want an error "decode", got none`, "no event was given"}},
		{"parked", func(f *projectiontest.Fold[Cart]) {
			f.Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 1}).
				Given("acme", "cart-1", "ItemAdded", []byte(`[]`)).ExpectError("decode").
				Given("acme", "cart-1", "ItemAdded", ItemAdded{"tea", 1}).
				Expect("acme", "cart-1", Cart{Products: 2})
		}, []string{`  -   "products": 2`, `  +   "products": 1`, "event 2", "failed: decode: ", "event 3", "waits behind the failed one"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			tt.test(projectiontest.For(&r, carts()))
			r.end()
			if len(r.errors) != 1 || len(r.fatals) != 0 {
				t.Fatalf("errors %q, fatals %q, want one error", r.errors, r.fatals)
			}
			inOrder(t, r.errors[0], tt.want)
		})
	}
}

func inOrder(t *testing.T, got string, want []string) {
	t.Helper()
	rest := got
	for _, w := range want {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			t.Fatalf("message lacks %q (or has it too early):\n%s", w, got)
		}
		rest = after
	}
}

func TestExpectErrorOfAnotherReason(t *testing.T) {
	var r recorder
	projectiontest.For(&r, carts()).Given("acme", "c", "ItemAdded", ItemAdded{"tea", -1}).ExpectError("panic")
	r.end()
	if len(r.errors) != 2 {
		t.Fatalf("errors %q, want two: of the one that did not come, and of the one that did", r.errors)
	}
	inOrder(t, r.errors[0], []string{`want an error "panic", got none`})
	inOrder(t, r.errors[1], []string{"handler: count -1"})
}

func TestExpectError(t *testing.T) {
	f := projectiontest.For(t, carts())
	f.Given("acme", "c", "ItemAdded", ItemAdded{"tea", 4})
	f.Given("acme", "c", "ItemAdded", []byte(`{"count":1,"count":2}`)).ExpectError("decode")
	f.Expect("acme", "c", Cart{Products: 4})
	f.Given("\x00", "c", "ItemAdded", ItemAdded{"tea", 4}).ExpectError("name")
	f.Given("acme", "d", "ItemAdded", ItemAdded{"tea", 4})
	f.GivenEvent(event.Event{Tenant: "acme", Stream: "d", Type: "ItemAdded", Version: 3, Data: []byte(`{"count":1}`)}).ExpectError("gap")
	f.GivenEvent(event.Event{Tenant: "acme", Stream: "e", Type: "ItemAdded", Withheld: 50 << 20}).ExpectError("size")
	f.ExpectNone("acme", "e")
	f.Expect("acme", "d", Cart{Products: 4})
}

func TestVersions(t *testing.T) {
	type seen struct{ Events []string }
	p := projection.New("seen",
		projection.On("E", func(s *seen, e projection.Event[Nothing]) error {
			s.Events = append(s.Events, fmt.Sprintf("%d at %d %s %s", e.Version, e.Position, e.ID, e.OccurredAt.Format(time.TimeOnly)))
			return nil
		}))
	projectiontest.For(t, p).
		Given("a", "s", "E", Nothing{}).
		Given("b", "s", "E", Nothing{}).
		Given("a", "t", "E", nil).
		Given("a", "s", "Other", Nothing{}).
		At(projectiontest.Start.Add(time.Hour)).
		Given("a", "s", "E", Nothing{}).
		GivenEvent(event.Event{Tenant: "a", Stream: "s", Type: "E", Version: 3, Data: []byte("{}")}). // a duplicate
		Given("a", "s", "E", Nothing{}).
		Expect("a", "s", seen{[]string{"1 at 1 1:a/s@1 00:00:00", "3 at 5 1:a/s@3 01:00:00", "4 at 7 1:a/s@4 01:00:02"}}).
		Expect("b", "s", seen{[]string{"1 at 2 1:b/s@1 00:00:01"}}).
		Expect("a", "t", seen{[]string{"1 at 3 1:a/t@1 00:00:02"}})
}

func TestManyDocumentsUpcastInitialAcrossTenants(t *testing.T) {
	type total struct {
		Name  string
		Count int
	}
	type addedOld struct{ SKUs string }
	type added struct{ SKUs []string }
	p := projection.New("products",
		projection.On("Added@2", func(s *total, e projection.Event[added]) error {
			s.Count++
			return nil
		}).ByEach(func(e projection.Event[added]) []string { return e.Data.SKUs }),
	).Upcast(
		projection.Upcast("Added", "Added@2", func(o addedOld) (added, error) {
			if o.SKUs == "" {
				return added{}, errors.New("nothing added")
			}
			return added{strings.Split(o.SKUs, " ")}, nil
		}),
	).Initial(func(_, id string) total { return total{Name: "product " + id} }).AcrossTenants()

	projectiontest.For(t, p).
		Given("acme", "cart-1", "Added", addedOld{"tea nut tea"}).
		Given("bolt", "cart-1", "Added@2", added{[]string{"nut", ""}}).
		GivenEvent(event.Event{Tenant: "bolt", Stream: "x", Type: "Added", Metadata: event.Metadata{event.SchemaKey: "2"}, Data: []byte(`{"SKUs":["nut"]}`)}).
		Given("bolt", "cart-1", "Added", addedOld{}).ExpectError("upcast").
		Given("bolt", "cart-1", "Added@2", added{}).
		Expect("", "tea", total{"product tea", 1}).
		Expect("", "nut", total{"product nut", 3})

	var r recorder
	projectiontest.For(&r, p).Given("acme", "c", "Added", addedOld{"tea"}).Expect("acme", "tea", total{"product tea", 1})
	if len(r.errors) != 1 {
		t.Fatalf("errors %q, want one", r.errors)
	}
	inOrder(t, r.errors[0], []string{"no such document", `its documents have the tenant ""`})
}

// TestStoredAndInMemory shows that the kit finds what goes well in one batch
// and wrong in two.
func TestStoredAndInMemory(t *testing.T) {
	type hidden struct {
		N    int
		last string
	}
	type shared struct{ Counts map[string]int }
	template := map[string]int{}
	calls := 0
	for _, tt := range []struct {
		name string
		run  func(projectiontest.TB)
		want string
	}{
		{"a field that is not encoded", func(tb projectiontest.TB) {
			p := projection.New("p", projection.On("E", func(s *hidden, e projection.Event[ItemAdded]) error {
				if s.last != e.Data.SKU {
					s.N++
				}
				s.last = e.Data.SKU
				return nil
			}))
			projectiontest.For(tb, p).Given("a", "s", "E", ItemAdded{"tea", 1}).Given("a", "s", "E", ItemAdded{"tea", 1})
		}, `p "s" of tenant "a" depends on whether it was stored`},
		{"two documents that share a map", func(tb projectiontest.TB) {
			p := projection.New("p", projection.On("E", func(s *shared, e projection.Event[ItemAdded]) error {
				s.Counts[e.Data.SKU] += e.Data.Count
				return nil
			})).Initial(func(_, _ string) shared { return shared{template} })
			projectiontest.For(tb, p).Given("a", "s", "E", ItemAdded{"tea", 1}).Given("a", "t", "E", ItemAdded{"tea", 1})
		}, "two documents share memory"},
		{"chance", func(tb projectiontest.TB) {
			p := projection.New("p", projection.On("E", func(s *hidden, e projection.Event[ItemAdded]) error {
				calls++
				s.N = calls
				return nil
			}))
			projectiontest.For(tb, p).Given("a", "s", "E", ItemAdded{"tea", 1})
		}, "clock or chance"},
		{"a deletion by a field that is not encoded", func(tb projectiontest.TB) {
			p := projection.New("p", projection.On("E", func(s *hidden, e projection.Event[ItemAdded]) error {
				if s.last != "" {
					return projection.ErrDelete
				}
				s.last = e.Data.SKU
				return nil
			}))
			projectiontest.For(tb, p).Given("a", "s", "E", ItemAdded{"tea", 1}).Given("a", "s", "E", ItemAdded{"tea", 1})
		}, "  + no document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			tt.run(&r)
			r.end()
			if len(r.errors) == 0 {
				t.Fatal("no error, want one")
			}
			inOrder(t, r.errors[0], []string{tt.want})
		})
	}
}

func TestFatal(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(projectiontest.TB)
		want string
	}{
		{"a faulty projection", func(tb projectiontest.TB) { projectiontest.For(tb, projection.New[Cart]("")) }, "a name has 1 to 100 characters"},
		{"a payload that cannot be encoded", func(tb projectiontest.TB) {
			projectiontest.For(tb, carts()).Given("a", "s", "ItemAdded", math.NaN())
		}, `payload of event "ItemAdded": encode: `},
		{"a want that cannot be encoded", func(tb projectiontest.TB) {
			type s struct{ F float64 }
			p := projection.New("p", projection.On("E", func(*s, projection.Event[Nothing]) error { return nil }))
			projectiontest.For(tb, p).Expect("a", "s", s{math.Inf(1)})
		}, "what is wanted cannot be encoded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			tt.run(&r)
			if len(r.fatals) != 1 {
				t.Fatalf("fatals %q, want one", r.fatals)
			}
			inOrder(t, r.fatals[0], []string{tt.want})
		})
	}
}

// A codec that is not JSON, and one that does not read what it writes.
type textCodec struct{ broken bool }

func (c textCodec) Decode(data []byte, v any) error {
	if c.broken {
		return errors.New("no")
	}
	_, err := fmt.Sscanf(string(data), "<%d>", v.(*int))
	return err
}
func (textCodec) Encode(v any) ([]byte, error) { return fmt.Appendf(nil, "<%d>", *v.(*int)), nil }

func TestOtherCodec(t *testing.T) {
	sum := func(c projection.Codec) *projection.Projection[int] {
		return projection.New("sums", projection.On("Add", func(s *int, e projection.Event[int]) error {
			*s += e.Data
			return nil
		})).WithCodec(c)
	}
	var r recorder
	projectiontest.For(&r, sum(textCodec{})).Given("a", "s", "Add", 2).Given("a", "s", "Add", 3).Expect("a", "s", 5).Expect("a", "s", 6)
	if len(r.errors) != 1 {
		t.Fatalf("errors %q, want one", r.errors)
	}
	inOrder(t, r.errors[0], []string{"  - \"<6>\"\n  + \"<5>\""})
	projectiontest.For(t, sum(textCodec{broken: true})).Given("a", "s", "Add", 2).ExpectError("decode")
}

func BenchmarkGivenExpect(b *testing.B) {
	p := carts()
	var r recorder
	b.ReportAllocs()
	for b.Loop() {
		r.cleanups = r.cleanups[:0]
		projectiontest.For(&r, p).
			Given("acme", "cart-1", "ItemAdded", ItemAdded{SKU: "tea", Count: 2}).
			Given("acme", "cart-1", "Confirmed", Nothing{}).
			Expect("acme", "cart-1", Cart{Confirmed: true, Products: 2})
	}
	if len(r.errors)+len(r.fatals) > 0 {
		b.Fatal(r.errors, r.fatals)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N), "µs/test")
}
