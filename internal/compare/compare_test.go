package compare

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

func TestDiff(t *testing.T) {
	for _, tt := range []struct{ name, was, is, want string }{
		{"the same", `{"a":1}`, `{"a":1}`, ""},
		{"another order, spaces, numbers", `{"a":1.50,"b":[1000, -0],"c":"é"}`, ` {"c":"\u00e9","b":[1e3,0.0],"a":15e-1}`, ""},
		{"a value", `{"a":{"b":[1,{"c":true}]}}`, `{"a":{"b":[1,{"c":false}]}}`, `.a.b[1].c: true -> false`},
		{"a member more, one less", `{"a":1,"b":2}`, `{"b":2,"c":null}`, `.a: 1 -> ; .c:  -> null`},
		{"elements", `[1,2,3]`, `[1,4]`, `[1]: 2 -> 4; [2]: 3 -> `},
		{"odd names", `{"a b":1,"":2}`, `{"a b":2,"":3}`, `[""]: 2 -> 3; ["a b"]: 1 -> 2`},
		{"kinds", `{"a":[],"b":1}`, `{"a":{},"b":"1"}`, `.a: [] -> {}; .b: 1 -> "1"`},
		{"large numbers", `[123456789012345678901]`, `[123456789012345678902]`, `[0]: 123456789012345678901 -> 123456789012345678902`},
		{"exponents beyond all bounds", `[1e99999999999999999999]`, `[1e99999999999999999998]`, `[0]: 1e99999999999999999999 -> 1e99999999999999999998`},
		{"a large exponent", `[10e999999999]`, `[1e1000000000]`, ""},
		{"no JSON", "abcd", "abXd!", ": 4 bytes, the first difference at 2 -> 5 bytes"},
		{"two values are no JSON", `1 2`, `1 3`, ": 3 bytes, the first difference at 2 -> 3 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fields, n := Diff([]byte(tt.was), []byte(tt.is), 10)
			var got []string
			for _, f := range fields {
				got = append(got, f.Path+": "+f.Old+" -> "+f.New)
			}
			if s := strings.Join(got, "; "); s != tt.want || n != len(got) {
				t.Errorf("Diff = %s (%d), want %s", s, n, tt.want)
			}
		})
	}
	long := func(c string) []byte {
		return fmt.Appendf(nil, `{"%s":"%s"}`, strings.Repeat("n", 1000), strings.Repeat(c, 1<<20))
	}
	fields, n := Diff(long("é"), long("ü"), 1)
	if n != 1 || len(fields[0].Path)+len(fields[0].Old)+len(fields[0].New) > pathAtMost+2*valueAtMost+20 {
		t.Errorf("a diff of long values has %d and %d bytes", len(fields[0].Old), len(fields[0].New))
	}
	if fields, n := Diff([]byte(`[1,2,3,4]`), []byte(`[2,3,4,5]`), 3); n != 4 || len(fields) != 3 {
		t.Errorf("%d fields of %d, want 3 of 4", len(fields), n)
	}
}

// fixture is a processor with build 1 live and build 2 in the making.
type fixture struct {
	*testing.T
	s *memstore.Store
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t, memstore.New()}
	want := store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 1, Version: "v1"}
	if _, err := lane.Setup(t.Context(), f.s, want, func(int) event.Position { return 0 }); err != nil {
		t.Fatal(err)
	}
	if err := lane.StartRebuild(t.Context(), f.s, "p", ""); err != nil {
		t.Fatal(err)
	}
	return f
}

func id(build int64) store.LaneID {
	return store.LaneID{Build: store.Build{Processor: "p", Number: build}}
}

// put writes documents "tenant/id@position=data" and moves the lane on.
func (f *fixture) put(build int64, to event.Position, docs ...string) {
	f.Helper()
	var l store.Lane
	err := f.s.View(f.Context(), func(tx store.Tx) (err error) { l, err = tx.Lane(id(build)); return err })
	c := store.Commit{Lane: id(build), Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, Position: to}
	for _, d := range docs {
		var w store.Write
		key, data, _ := strings.Cut(d, "=")
		key, at, _ := strings.Cut(key, "@")
		w.Tenant, w.ID, _ = strings.Cut(key, "/")
		if _, err := fmt.Sscan(at, &w.Position); err != nil {
			f.Fatal(err)
		}
		w.Data, w.Delete = []byte(data), data == ""
		c.Writes = append(c.Writes, w)
	}
	if err = errors.Join(err, f.s.Commit(f.Context(), &c)); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) compare(tenant string, o Options) *Report {
	f.Helper()
	r, err := Builds(f.Context(), f.s, "p", tenant, o)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

func TestReport(t *testing.T) {
	f := newFixture(t)
	f.put(1, 50, `a/1@10={"n":1,"m":2}`, `a/2@11={"n":1}`, `a/3@12={}`, `b/1@13={"x":1}`, `c/only@14={}`, `d/1@15={}`)
	f.put(2, 50, `a/1@10={"m":2,"n":1.0}`, `a/2@9={"n":2}`, `a/4@12={}`, `b/1@13={"x":1}`, `d/1@15={}`, `d/2@15={}`, `d/3@15={}`, `d/4@15={}`)
	r := f.compare("", Options{})
	if want := (Counts{Equal: 3, Different: 1, OnlyOld: 2, OnlyNew: 4}); r.Counts != want {
		t.Errorf("counts = %+v, want %+v", r.Counts, want)
	}
	var tenants []string
	for _, x := range r.Tenants {
		tenants = append(tenants, fmt.Sprintf("%s:%d", x.Tenant, x.Differences()))
	}
	if got := fmt.Sprint(tenants); got != "[a:3 d:3 c:1]" {
		t.Errorf("tenants = %s", got)
	}
	var samples []string
	for _, x := range r.Samples {
		samples = append(samples, fmt.Sprintf("%s/%s %s %v", x.Tenant, x.ID, x.Kind, x.Fields))
	}
	want := "a/2 different [{.n 1 2}]; a/3 only in old []; a/4 only in new []; c/only only in old []; d/2 only in new []; d/3 only in new []; d/4 only in new []"
	if got := strings.Join(samples, "; "); got != want {
		t.Errorf("samples = %s\nwant %s", got, want)
	}
	if r.Old != (Side{Build: 1, Version: "v1"}) || r.New != (Side{Build: 2}) {
		t.Errorf("sides = %+v, %+v", r.Old, r.New)
	}
	r = f.compare("a", Options{Samples: 1, Tenants: 1, Fields: 1})
	if want := (Counts{Equal: 1, Different: 1, OnlyOld: 1, OnlyNew: 1}); r.Counts != want || len(r.Samples) != 1 {
		t.Errorf("counts of a tenant = %+v with %d samples, want %+v and 1", r.Counts, len(r.Samples), want)
	}
	if r := f.compare("nobody", Options{}); r.Counts != (Counts{}) {
		t.Errorf("counts of nobody = %+v", r.Counts)
	}
	if _, err := Builds(t.Context(), f.s, "q", "", Options{}); !errors.Is(err, lane.ErrUnknown) {
		t.Errorf("an unknown processor: %v", err)
	}
}

// What one build has not come to is in motion, and what moved meanwhile is looked
// at again.
func TestReportInMotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.put(1, 100, `a/1@90={"n":2}`, `a/2@10={"n":1}`, `a/3@95={}`, `a/4@20={}`, `a/5@20={}`)
		f.put(2, 50, `a/1@40={"n":1}`, `a/2@10={"n":7}`, `a/4@20={}`, `a/6@30={}`)
		// a/3 is new, a/5 is not where it should be, a/6 may be deleted by an event
		// that the new build has not come to.
		want := Counts{Equal: 1, Different: 1, OnlyOld: 1, InMotion: 3}
		if r := f.compare("", Options{}); r.Counts != want {
			t.Errorf("counts = %+v, want %+v", r.Counts, want)
		}
		go func() {
			time.Sleep(betweenLooks + betweenLooks/2)
			f.put(2, 100, `a/1@90={"n":2}`, `a/3@95={}`, `a/6@99=`)
		}()
		want = Counts{Equal: 4, Different: 1, OnlyOld: 1}
		if r := f.compare("", Options{}); r.Counts != want {
			t.Errorf("counts when the new build comes after = %+v, want %+v", r.Counts, want)
		}
	})
}

// Live traffic goes on while builds that fold alike are compared: nothing is
// reported to differ that does not.
func TestReportBesideTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		slow := &slowStore{f.s}
		at := event.Position(0)
		next := func() (docs []string) {
			for i := range 40 {
				at++
				k := fmt.Sprintf("t%d/%d@%d=", (int(at)/7)%9, int(at)%31, at)
				if (int(at)+i)%11 != 0 {
					k += fmt.Sprintf(`{"n":%d}`, at)
				}
				docs = append(docs, k)
			}
			return docs
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				docs := next()
				f.put(1, at, docs...)
				time.Sleep(3 * time.Millisecond)
				f.put(2, at, docs...)
				time.Sleep(time.Millisecond)
			}
		}()
		for range 20 {
			r, err := Builds(t.Context(), slow, "p", "", Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Differences() != 0 {
				t.Fatalf("differences beside traffic: %+v, %+v", r.Counts, r.Samples)
			}
		}
		stop()
		<-ended
		if r := f.compare("", Options{}); r.Differences() != 0 || r.InMotion != 0 || r.Equal == 0 {
			t.Errorf("at rest: %+v", r.Counts)
		}
	})
}

// A slowStore takes time to read.
type slowStore struct{ store.Store }

func (s *slowStore) ListBuild(ctx context.Context, b store.Build, after store.Key, limit int) ([]store.Document, error) {
	time.Sleep(time.Millisecond)
	return s.Store.ListBuild(ctx, b, after, limit)
}

func (s *slowStore) Load(ctx context.Context, b store.Build, keys []store.Key) ([]store.Document, error) {
	time.Sleep(time.Millisecond)
	return s.Store.Load(ctx, b, keys)
}
