package retail_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// large is the tenant that most tests leave out: nine tenths of the events.
const large = "united-kingdom"

func isLarge(tenant string) bool { return tenant == large }

// documents is a read model in memory.
type documents map[string]map[store.Key]store.Document

func (d documents) Get(_ context.Context, collection, tenant, id string) (store.Document, error) {
	doc, ok := d[collection][store.Key{Tenant: tenant, ID: id}]
	if !ok {
		return doc, store.ErrNotFound
	}
	return doc, nil
}

func (d documents) List(_ context.Context, collection, tenant, after string, limit int) ([]store.Document, error) {
	var docs []store.Document
	for k, doc := range d[collection] {
		if k.Tenant == tenant && k.ID > after {
			docs = append(docs, doc)
		}
	}
	slices.SortFunc(docs, func(a, b store.Document) int { return cmp.Compare(a.ID, b.ID) })
	return docs[:min(limit, len(docs))], nil
}

func (d documents) Tenants(_ context.Context, collection, after string, limit int) ([]string, error) {
	tenants := map[string]bool{}
	for k := range d[collection] {
		if k.Tenant > after {
			tenants[k.Tenant] = true
		}
	}
	sorted := slices.Sorted(maps.Keys(tenants))
	return sorted[:min(limit, len(sorted))], nil
}

// events calls f for every event of the data set.
func events(t *testing.T, f func(e *event.Event)) {
	t.Helper()
	r, err := retail.Events()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	lines := bufio.NewScanner(r)
	n := 0
	for lines.Scan() {
		n++
		var rec struct {
			Tenant     string         `json:"tenant"`
			Stream     string         `json:"stream"`
			Version    int64          `json:"version"`
			Type       string         `json:"type"`
			OccurredAt time.Time      `json:"occurred_at"`
			Data       jsontext.Value `json:"data"`
		}
		if n%8 == 0 || !strings.HasPrefix(lines.Text(), `{"tenant":"`+large) { // decoding all of them is slow under the race detector
			if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			f(&event.Event{Position: event.Position(n), Tenant: rec.Tenant, Stream: rec.Stream, Version: rec.Version,
				Type: rec.Type, OccurredAt: rec.OccurredAt, Data: rec.Data})
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if n != retail.EventCount {
		t.Errorf("events: got %d, want %d", n, retail.EventCount)
	}
}

// project folds the events of all but the large tenant by hand.
func project(t *testing.T) documents {
	t.Helper()
	states := map[string]map[store.Key]any{}
	tenants := map[string]bool{}
	events(t, func(e *event.Event) {
		tenants[e.Tenant] = true
		if e.Tenant == large {
			return
		}
		for _, d := range retail.Definitions() {
			var touched projection.Touched
			if err := d.Touch(e, &touched); err != nil {
				t.Fatal(err)
			}
			if touched.Document == "" {
				continue
			}
			c := states[d.Name()]
			if c == nil {
				c = map[store.Key]any{}
				states[d.Name()] = c
			}
			k := store.Key{Tenant: e.Tenant, ID: touched.Document}
			if c[k] == nil {
				c[k] = d.Init(k.Tenant, k.ID)
			}
			if _, err := d.Apply(c[k], e, &touched); err != nil {
				t.Fatal(err)
			}
		}
	})
	if len(tenants) != retail.TenantCount {
		t.Errorf("tenants: got %d, want %d", len(tenants), retail.TenantCount)
	}
	docs := documents{}
	for _, d := range retail.Definitions() {
		docs[d.Name()] = map[store.Key]store.Document{}
		for k, s := range states[d.Name()] {
			data, err := d.Encode(s)
			if err != nil {
				t.Fatal(err)
			}
			docs[d.Name()][k] = store.Document{Key: k, Data: data}
		}
	}
	return docs
}

func TestProjectionsComeToTheExpectedDocuments(t *testing.T) {
	docs := project(t)
	counts := map[string]int{}
	for _, d := range retail.Definitions() {
		want, err := retail.Load(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		for k := range want.Rows {
			if k.Tenant != large {
				counts[d.Name()]++
			}
		}
		c := compare(t, docs, d)
		// What was not folded is missing, and nothing else is wrong.
		if got, want := c.Mismatches, len(want.Rows)-counts[d.Name()]; got != want {
			t.Errorf("%s: mismatches: got %d, want %d: %v", d.Name(), got, want, c.Examples)
		}
		for _, m := range c.Examples {
			if m.Tenant != large {
				t.Errorf("%s: %v", d.Name(), m)
			}
		}
		if c.Documents != counts[d.Name()] {
			t.Errorf("%s: documents: got %d, want %d", d.Name(), c.Documents, counts[d.Name()])
		}
	}
	t.Run("a document that differs", func(t *testing.T) {
		k := store.Key{Tenant: "france", ID: "22423"}
		doc := docs["products"][k]
		changed := strings.Replace(string(doc.Data), `"lines":`, `"lines":1`, 1)
		docs["products"][k] = store.Document{Key: k, Data: []byte(changed)}
		defer func() { docs["products"][k] = doc }()
		expectMore(t, docs, retail.Products, 1, counts["products"], `"22423" of tenant "france": got 1`)
	})
	t.Run("a document that cannot be read", func(t *testing.T) {
		k := store.Key{Tenant: "france", ID: "22423"}
		doc := docs["products"][k]
		docs["products"][k] = store.Document{Key: k, Data: []byte("{")}
		defer func() { docs["products"][k] = doc }()
		expectMore(t, docs, retail.Products, 1, counts["products"], "unreadable")
	})
	t.Run("a document too many", func(t *testing.T) {
		k := store.Key{Tenant: "france", ID: "NEW"}
		docs["products"][k] = store.Document{Key: k, Data: []byte(`{"lines":1,"units":2,"amount_milli":3}`)}
		defer delete(docs["products"], k)
		expectMore(t, docs, retail.Products, 1, counts["products"]+1, `"NEW" of tenant "france" should not be there, got 1,2,3`)
	})
	t.Run("a document missing", func(t *testing.T) {
		k := store.Key{Tenant: "australia", ID: "15036"}
		doc := docs["products"][k]
		delete(docs["products"], k)
		defer func() { docs["products"][k] = doc }()
		expectMore(t, docs, retail.Products, 1, counts["products"]-1, `"15036" of tenant "australia" is missing, want 1,600,432000`)
	})
	t.Run("a tenant that is ignored", func(t *testing.T) {
		k := store.Key{Tenant: "live-1", ID: "live-1"}
		docs["tenants"][k] = store.Document{Key: k, Data: []byte(`{}`)}
		defer delete(docs["tenants"], k)
		c, err := retail.Compare(t.Context(), docs, retail.Tenants, func(tenant string) bool { return tenant == "live-1" })
		if err != nil || c.Ignored != 1 || c.Mismatches != 1 { // one: the large tenant
			t.Errorf("Compare = %+v, %v, want 1 ignored and 1 mismatch", c, err)
		}
	})
}

func compare(t *testing.T, docs documents, d projection.Definition) retail.Comparison {
	t.Helper()
	c, err := retail.Compare(t.Context(), docs, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// expectMore compares and expects so many mismatches more than the large tenant
// is missing; the first of them, if it is none of those, says what.
func expectMore(t *testing.T, docs documents, d projection.Definition, more, documents int, says string) {
	t.Helper()
	want, err := retail.Load(d.Name())
	if err != nil {
		t.Fatal(err)
	}
	for k := range want.Rows {
		if isLarge(k.Tenant) {
			more++
		}
	}
	c := compare(t, docs, d)
	if c.Mismatches != more || c.Documents != documents {
		t.Errorf("got %d mismatches of %d documents, want %d of %d", c.Mismatches, c.Documents, more, documents)
	}
	if len(c.Examples) == 0 || !strings.Contains(c.Examples[0].String(), says) {
		t.Errorf("examples: got %v, want one that says %q", c.Examples, says)
	}
}

func TestSetKeepsItsOrderInJSON(t *testing.T) {
	for _, tt := range []struct {
		add  []string
		want string
	}{
		{nil, `[]`},
		{[]string{"b", "a", "b", "", "ä\"<"}, `["b","a","ä\"<"]`},
	} {
		var s retail.Set
		for _, v := range tt.add {
			s.Add(v)
		}
		data, err := json.Marshal(&s)
		if err != nil || string(data) != tt.want {
			t.Errorf("%q: Marshal = %s, %v, want %s", tt.add, data, err, tt.want)
		}
		var back retail.Set
		if err := json.Unmarshal(data, &back); err != nil || back.Len() != s.Len() {
			t.Errorf("%s: Unmarshal: %d strings, %v, want %d", data, back.Len(), err, s.Len())
		}
	}
	for _, bad := range []string{`{}`, `[1]`, `["a"`, `"a"`, `[["a"]]`} {
		var s retail.Set
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("Unmarshal(%s) = %v, want an error", bad, fmt.Sprint(s))
		}
	}
}

func TestAttributionNamesItsSource(t *testing.T) {
	for _, want := range []string{"Chen, D. (2015)", "10.24432/C5BW33", "CC BY 4.0", "Changes made"} {
		if !strings.Contains(retail.Attribution(), want) {
			t.Errorf("the attribution does not say %q", want)
		}
	}
}
