package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

func runDocuments(sub func(string, func(*fixture))) {
	sub("DocumentRoundTrip", testDocumentRoundTrip)
	sub("DocumentData", testDocumentData)
	sub("DocumentUpsertAndDelete", testUpsertDelete)
	sub("DocumentsOfTenantsAreApart", testIsolation)
	sub("DocumentsWithoutTenant", testNoTenant)
	sub("DocumentNames", testDocumentNames)
	sub("Load", testLoad)
	sub("ListPages", testListPages)
	sub("TenantsPages", testTenantsPages)
	sub("ReadersWithoutCollection", testNoCollection)
	sub("ReadersContextEnded", testReadersContext)
	sub("DocumentsAreCopies", testDocumentCopies)
}

func (t *fixture) get(collection, tenant, id string) store.Document {
	t.Helper()
	d, err := t.s.Get(t.Context(), collection, tenant, id)
	if err != nil {
		t.Fatalf("Get(%q, %q, %q) = %v", collection, tenant, id, err)
	}
	return d
}

// absent fails the test unless a document is not found in any way.
func (t *fixture) absent(collection, tenant, id string) {
	t.Helper()
	if d, err := t.s.Get(t.Context(), collection, tenant, id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get(%q, %q, %q) = %s, %v, want ErrNotFound", collection, tenant, id, show(d), err)
	}
	for _, d := range t.list(collection, tenant) {
		if d.ID == id {
			t.Errorf("List(%q, %q) has %q, want it gone", collection, tenant, id)
		}
	}
}

func testDocumentRoundTrip(t *fixture) {
	t.setup("p")
	want := store.Document{Key: store.Key{Tenant: "a", ID: "1"}, Version: 1 << 60, Position: event.Unbounded - 1, Data: []byte(`{"n":1}`)}
	w := want
	w.Updated = moment(0) // for the store to set
	t.put(base("p"), w)
	got := t.get("p", "a", "1")
	if !about(got.Updated) {
		t.Errorf("Updated = %v, want about now", got.Updated)
	}
	want.Updated = got.Updated
	loaded, err := t.s.Load(t.Context(), build("p"), []store.Key{want.Key})
	if err != nil {
		t.Fatalf("Load = %v", err)
	}
	for what, docs := range map[string][]store.Document{"Get": {got}, "List": t.list("p", "a"), "Load": loaded} {
		for i := range docs {
			if t.equal(docs[i].Data, want.Data) {
				docs[i].Data = want.Data
			}
		}
		t.same(what, docs, []store.Document{want})
	}
}

// equal reports whether a document came back as the store promises.
func (t *fixture) equal(got, want []byte) bool {
	return bytes.Equal(got, want) || t.f.JSONByValue && equalJSON(got, want)
}

// equalJSON reports whether two texts are the same JSON value. Numbers are compared
// exactly, whatever their spelling; of equal keys the last one counts.
func equalJSON(a, b []byte) bool {
	x, ok1 := decodeJSON(a)
	y, ok2 := decodeJSON(b)
	return ok1 && ok2 && reflect.DeepEqual(x, y)
}

func decodeJSON(data []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil || d.More() {
		return nil, false
	}
	return exact(v), true
}

// exact writes the numbers in v in one way only.
func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		r, ok := new(big.Rat).SetString(v.String())
		if !ok {
			return v
		}
		return json.Number(r.RatString())
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = exact(v[k])
		}
	}
	return v
}

func testDocumentData(t *fixture) {
	t.setup("p")
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, tt := range []struct {
		name string
		data []byte
		json bool
	}{
		{"object", []byte(`{"a":1}`), true},
		{"key order stays", []byte(`{"b":1,"a":2}`), true},
		{"keys of all kinds", []byte(`{"":1,"é":{"b":[{"a":[]},{}]},"a":null,"\"":true,"\\":"\n\u2028"}`), true},
		{"white space", []byte(" [ 1 ,\t2 ]\n"), true},
		{"numbers", []byte(`[0,-1,1e2,1E+2,1.50,-0.000001,1e-30,123456789012345678901234567890,1.7976931348623157e308,5e-324]`), true},
		{"exponent beyond all bounds", []byte(`[1e999999,-1e-999999]`), true},
		{"number of 200,000 digits", fmt.Appendf(nil, `[%s]`, strings.Repeat("1", 200000)), true},
		{"negative zero", []byte(`-0`), true},
		{"equal keys", []byte(`{"a":1,"a":2}`), true},
		{"surrogate pair", []byte(`"\ud83d\ude00"`), true},
		{"half surrogates", []byte(`{"\ud800":"\udc00\ud800","a":"\ud800\u0041\udbff"}`), true},
		{"backslashes", []byte(`"\\u0000 \\\u0000 \\\\u0000"`), true},
		{"NUL in a key", []byte(`{"a\u0000b":1}`), true},
		{"nested 5,000 times", []byte(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), true},
		{"number as it was written", []byte(`123456789012345678901234567890.10`), true},
		{"escapes stay", []byte(`"\u00e9é"`), true},
		{"NUL in a string", []byte(`"\u0000"`), true},
		{"null", []byte(`null`), true},
		{"1 MB", fmt.Appendf(nil, `"%s"`, strings.Repeat("é", 1<<19)), true},
		{"empty", nil, false},
		{"text", []byte("hello"), false},
		{"1 MB of noise", noise, false},
	} {
		if t.f.JSONOnly && !tt.json {
			continue
		}
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			d := doc("a", tt.name, "")
			d.Data = tt.data
			t.put(base("p"), d)
			if got := t.get("p", "a", tt.name); !t.equal(got.Data, tt.data) {
				t.Errorf("%d bytes %.40q came back as %d bytes %.40q", len(tt.data), tt.data, len(got.Data), got.Data)
			}
		})
	}
}

func testUpsertDelete(t *fixture) {
	t.setup("p")
	t.put(base("p"), doc("a", "1", "one"), doc("a", "2", "two"))
	second := doc("a", "2", "second")
	second.Version, second.Position = 0, 9
	t.put(base("p"), second, doc("a", "3", "three"))
	if got, want := t.values("p", "a"), `1="one" 2="second" 3="three"`; got != want {
		t.Errorf("documents = %s, want %s", got, want)
	}
	if got := t.get("p", "a", "2"); got.Version != 0 || got.Position != 9 {
		t.Errorf("replaced document has version %d and position %v, want 0 and 9", got.Version, got.Position)
	}
	t.commit(base("p"), func(c *store.Commit) {
		c.Writes = []store.Write{
			{Document: doc("a", "1", "x"), Delete: true},
			{Document: doc("a", "3", "x"), Delete: true},
			{Document: doc("a", "never there", "x"), Delete: true},
			{Document: doc("a", "4", "four")},
		}
	})
	if got, want := t.values("p", "a"), `2="second" 4="four"`; got != want {
		t.Errorf("documents after deleting = %s, want %s", got, want)
	}
	t.absent("p", "a", "1")
	t.put(base("p"), doc("a", "1", "again"))
	if got, want := t.values("p", "a"), `1="again" 2="second" 4="four"`; got != want {
		t.Errorf("documents after a deleted one came again = %s, want %s", got, want)
	}
}

// pairs are tenants and ids that a careless key would mix up.
var pairs = []store.Key{
	{Tenant: "a", ID: "b/c"}, {Tenant: "a/b", ID: "c"}, {Tenant: "ab", ID: "c"}, {Tenant: "a", ID: "bc"},
	{Tenant: "a", ID: "x"}, {Tenant: "b", ID: "x"}, {Tenant: "A", ID: "x"}, {Tenant: "a ", ID: "x"}, {Tenant: "aa", ID: "x"}, {Tenant: "a%", ID: "x"}, {Tenant: "_", ID: "x"},
	{Tenant: "a", ID: "X"}, {Tenant: "a", ID: "x "}, {Tenant: "a:b", ID: "c"}, {Tenant: "a", ID: "b:c"}, {Tenant: "1", ID: "01"}, {Tenant: "01", ID: "1"}, {Tenant: "1", ID: "1"},
	{Tenant: "é", ID: "x"}, {Tenant: "e\u0301", ID: "x"}, {Tenant: "", ID: "x"}, {Tenant: "", ID: "a/x"},
}

func testIsolation(t *fixture) {
	t.setup("p", "q")
	value := func(collection string, k store.Key) string {
		return fmt.Sprintf("%s %s|%s", collection, k.Tenant, k.ID)
	}
	for _, p := range []string{"p", "q"} {
		var docs []store.Document
		for _, k := range pairs {
			docs = append(docs, doc(k.Tenant, k.ID, value(p, k)))
		}
		t.put(base(p), docs...)
	}
	for _, p := range []string{"p", "q"} {
		perTenant := map[string]int{}
		for _, k := range pairs {
			perTenant[k.Tenant]++
			if got, want := t.get(p, k.Tenant, k.ID), fmt.Appendf(nil, "%q", value(p, k)); !bytes.Equal(got.Data, want) || got.Key != k {
				t.Errorf("Get(%q, %q, %q) = %s, want %s", p, k.Tenant, k.ID, show(got), want)
			}
		}
		for tenant, n := range perTenant {
			docs := t.list(p, tenant)
			if len(docs) != n {
				t.Errorf("List(%q, %q) has %d documents, want %d", p, tenant, len(docs), n)
			}
			for _, d := range docs {
				if d.Tenant != tenant {
					t.Errorf("List(%q, %q) has a document of tenant %q", p, tenant, d.Tenant)
				}
			}
		}
	}
	// What one tenant deletes, the others keep.
	gone := store.Key{Tenant: "a", ID: "x"}
	t.commit(base("p"), func(c *store.Commit) {
		c.Writes = []store.Write{{Document: store.Document{Key: gone}, Delete: true}}
	})
	t.absent("p", gone.Tenant, gone.ID)
	for _, k := range pairs {
		if k != gone {
			t.get("p", k.Tenant, k.ID)
		}
		t.get("q", k.Tenant, k.ID)
	}
	for _, k := range []store.Key{{Tenant: "nobody", ID: "x"}, {Tenant: "b", ID: "X"}, {Tenant: "a", ID: "c"}, {Tenant: "a/b", ID: "b/c"}, {Tenant: "a", ID: ""}, {Tenant: "", ID: "c"}} {
		t.absent("p", k.Tenant, k.ID)
	}
}

// testNoTenant: the tenant "" is a document space of its own, not all tenants.
func testNoTenant(t *fixture) {
	t.setup("p")
	t.put(base("p"), doc("", "1", "of nobody"), doc("a", "1", "of a"), doc("a", "2", "of a"))
	if got, want := t.values("p", ""), `1="of nobody"`; got != want {
		t.Errorf("documents without tenant = %s, want %s", got, want)
	}
	t.absent("p", "", "2")
	if got, want := t.tenants("p"), []string{"a"}; !slices.Equal(got, want) {
		t.Errorf("Tenants = %q, want %q: the tenant \"\" is above nothing", got, want)
	}
	docs, err := t.s.Load(t.Context(), build("p"), []store.Key{{ID: "1"}, {ID: "2"}})
	if err != nil || len(docs) != 1 || docs[0].Tenant != "" {
		t.Errorf("Load = %+v, %v, want the document of nobody", docs, err)
	}
}

func testDocumentNames(t *fixture) {
	t.setup(`O'Neil's "orders"; --`)
	p := `O'Neil's "orders"; --`
	var docs []store.Document
	for _, n := range odd {
		docs = append(docs, doc(n, n, n))
	}
	t.put(base(p), docs...)
	for _, n := range odd {
		if got := t.get(p, n, n); got.Tenant != n || got.ID != n || !t.equal(got.Data, doc(n, n, n).Data) {
			t.Errorf("document %q came back as %s", n, show(got))
		}
		if got := t.list(p, n); len(got) != 1 {
			t.Errorf("List of tenant %q has %d documents, want 1", n, len(got))
		}
	}
	want := slices.Sorted(slices.Values(odd))
	if got := t.tenants(p); !slices.Equal(got, want) {
		t.Errorf("Tenants = %q, want %q", got, want)
	}
}

func testLoad(t *fixture) {
	t.setup("p")
	t.put(base("p"), doc("a", "1", "a1"), doc("a", "2", "a2"), doc("b", "1", "b1"))
	for _, tt := range []struct {
		name  string
		build store.Build
		keys  []store.Key
		want  []string
	}{
		{"no keys", build("p"), nil, nil},
		{"some exist", build("p"), []store.Key{{Tenant: "b", ID: "1"}, {Tenant: "b", ID: "2"}, {Tenant: "a", ID: "2"}}, []string{"a/2", "b/1"}},
		{"none exists", build("p"), []store.Key{{Tenant: "c", ID: "1"}, {Tenant: "", ID: "1"}}, nil},
		{"another build", store.Build{Processor: "p", Number: 2}, []store.Key{{Tenant: "a", ID: "1"}}, nil},
		{"another processor", build("q"), []store.Key{{Tenant: "a", ID: "1"}}, nil},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			docs, err := t.s.Load(t.Context(), tt.build, tt.keys)
			if err != nil {
				t.Fatalf("Load = %v", err)
			}
			var got []string
			for _, d := range docs {
				got = append(got, d.Tenant+"/"+d.ID)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("Load(%v) = %q, want %q", tt.keys, got, tt.want)
			}
		})
	}
}

func testListPages(t *fixture) {
	t.setup("p")
	ids := []string{"a", "B", "b", "ab", "a/b", "a b", "Z", "z", "10", "9", "é", "e\u0301", "東", "🛒", "\uffee", "_", "%", "-"}
	var docs []store.Document
	for _, id := range ids {
		docs = append(docs, doc("t", id, id), doc("u", id+"!", "of another"))
	}
	t.put(base("p"), docs...)
	slices.Sort(ids) // Go compares strings by bytes
	for _, limit := range []int{1, 2, 5, len(ids), 1000} {
		for from := -1; from < len(ids); from++ {
			after := ""
			if from >= 0 {
				after = ids[from]
			}
			page, err := t.s.List(t.Context(), "p", "t", after, limit)
			if err != nil {
				t.Fatalf("List = %v", err)
			}
			var got []string
			for _, d := range page {
				got = append(got, d.ID)
			}
			if want := ids[from+1 : min(from+1+limit, len(ids))]; !slices.Equal(got, want) {
				t.Errorf("List(after %q, limit %d) = %q, want %q", after, limit, got, want)
			}
		}
	}
	// After need not be the id of a document.
	page, err := t.s.List(t.Context(), "p", "t", "a!", 1)
	if err != nil || len(page) != 1 || page[0].ID != "a/b" {
		t.Errorf("List(after \"a!\") = %+v, %v, want a/b", page, err)
	}
}

func testTenantsPages(t *fixture) {
	t.setup("p", "q")
	tenants := []string{"b", "a", "B", "ab", "a/b", "a b", "é", "東", "🛒", "10", "9"}
	for i, tenant := range tenants {
		t.put(base("p"), doc(tenant, "1", "x"), doc(tenant, fmt.Sprintf("n%d", i), "y"))
		t.put(base("q"), doc(tenant+"!", "1", "x"))
	}
	slices.Sort(tenants)
	for _, limit := range []int{1, 3, 1000} {
		for from := -1; from < len(tenants); from++ {
			after := ""
			if from >= 0 {
				after = tenants[from]
			}
			got, err := t.s.Tenants(t.Context(), "p", after, limit)
			if want := tenants[from+1 : min(from+1+limit, len(tenants))]; err != nil || !slices.Equal(got, want) {
				t.Errorf("Tenants(after %q, limit %d) = %q, %v, want %q", after, limit, got, err, want)
			}
		}
	}
	t.commit(base("p"), func(c *store.Commit) {
		for _, d := range t.list("p", "ab") {
			c.Writes = append(c.Writes, store.Write{Document: d, Delete: true})
		}
	})
	if got := t.tenants("p"); slices.Contains(got, "ab") {
		t.Errorf("Tenants = %q, want none without documents", got)
	}
}

func testNoCollection(t *fixture) {
	t.setup("p")
	t.update(func(tx store.Tx) error {
		p := store.Processor{Name: "reactor", Kind: "reactor", Partitions: 1, Live: 1, LastBuild: 1}
		return errors.Join(tx.PutProcessor(p), tx.PutLane(store.Lane{LaneID: base("reactor"), State: store.Running}))
	})
	t.commit(base("reactor"), func(*store.Commit) {})
	for _, collection := range []string{"", "nobody's", "P", "reactor"} {
		t.absent(collection, "a", "1")
		if got := t.tenants(collection); len(got) != 0 {
			t.Errorf("Tenants(%q) = %q, want none", collection, got)
		}
	}
}

func testReadersContext(t *fixture) {
	t.setup("p")
	t.put(base("p"), doc("a", "1", "one"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Get":      func() error { _, err := t.s.Get(ctx, "p", "a", "1"); return err },
		"List":     func() error { _, err := t.s.List(ctx, "p", "a", "", 10); return err },
		"Tenants":  func() error { _, err := t.s.Tenants(ctx, "p", "", 10); return err },
		"Revision": func() error { _, err := t.s.Revision(ctx); return err },
		"Load": func() error {
			_, err := t.s.Load(ctx, build("p"), []store.Key{{Tenant: "a", ID: "1"}})
			return err
		},
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want %v", name, err, context.Canceled)
		}
	}
}

// testDocumentCopies: neither what the caller passed nor what it got is the
// store's own.
func testDocumentCopies(t *fixture) {
	t.setup("p")
	d := doc("a", "1", "original")
	t.put(base("p"), d)
	copy(d.Data, `"changed!"`)
	for round := range 2 {
		got := t.get("p", "a", "1")
		if string(got.Data) != `"original"` {
			t.Errorf("round %d: data = %s, want what was passed", round, got.Data)
		}
		copy(got.Data, `"changed!"`)
		copy(t.list("p", "a")[0].Data, `"changed!"`)
		loaded, err := t.s.Load(t.Context(), build("p"), []store.Key{{Tenant: "a", ID: "1"}})
		if err != nil {
			t.Fatal(err)
		}
		copy(loaded[0].Data, `"changed!"`)
	}
}
