package retail

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// An Expected is the table of the documents of one projection: for each key the
// columns of the data set, joined by commas.
type Expected struct {
	Projection string
	Columns    []string // without tenant and id
	Rows       map[store.Key]string
}

// Load returns the expected documents of a projection.
func Load(projection string) (Expected, error) {
	r, err := open("expected_" + projection + ".csv.zst")
	if err != nil {
		return Expected{}, fmt.Errorf("expected documents of projection %q: %w", projection, err)
	}
	defer func() { _ = r.Close() }()
	c := csv.NewReader(r)
	c.ReuseRecord = true
	head, err := c.Read()
	if err != nil {
		return Expected{}, fmt.Errorf("expected documents of projection %q: %w", projection, err)
	}
	// The table of tenants has no column for the id, because it is the tenant.
	id := 1
	if projection == "tenants" {
		id = 0
	}
	x := Expected{Projection: projection, Columns: slices.Clone(head[id+1:]), Rows: map[store.Key]string{}}
	for {
		rec, err := c.Read()
		if errors.Is(err, io.EOF) {
			return x, nil
		}
		if err != nil {
			return Expected{}, fmt.Errorf("expected documents of projection %q: %w", projection, err)
		}
		k := store.Key{Tenant: strings.Clone(rec[0]), ID: strings.Clone(rec[id])}
		if _, twice := x.Rows[k]; twice {
			return Expected{}, fmt.Errorf("expected documents of projection %q: %q of tenant %q comes twice", projection, k.ID, k.Tenant)
		}
		x.Rows[k] = strings.Join(rec[id+1:], ",")
	}
}

// A Comparison is what became of one projection.
type Comparison struct {
	Projection string
	Documents  int        // compared, of tenants that are not ignored
	Ignored    int        // tenants that were
	Mismatches int        // documents that are missing, too many, or different
	Examples   []Mismatch // the first of them
}

// A Mismatch is a document that is not as it should be.
type Mismatch struct {
	Tenant, ID string
	Got, Want  string // "": there is no such document; else its columns, joined by commas
}

func (m Mismatch) String() string {
	switch {
	case m.Got == "":
		return fmt.Sprintf("%q of tenant %q is missing, want %s", m.ID, m.Tenant, m.Want)
	case m.Want == "":
		return fmt.Sprintf("%q of tenant %q should not be there, got %s", m.ID, m.Tenant, m.Got)
	}
	return fmt.Sprintf("%q of tenant %q: got %s, want %s", m.ID, m.Tenant, m.Got, m.Want)
}

// maxExamples is how many mismatches a Comparison shows.
const maxExamples = 5

// Compare compares every document of a projection with the expected ones, both
// ways. Tenants for which ignore returns true are left out; nil ignores none.
func Compare(ctx context.Context, r store.Reader, d projection.Definition, ignore func(tenant string) bool) (Comparison, error) {
	c := Comparison{Projection: d.Name()}
	want, err := Load(d.Name())
	if err != nil {
		return c, err
	}
	err = eachDocument(ctx, r, d.Name(), func(tenant string) bool {
		if ignore != nil && ignore(tenant) {
			c.Ignored++
			return false
		}
		return true
	}, func(doc store.Document) error {
		c.Documents++
		got, err := row(d, doc.Data)
		if err != nil {
			got = "unreadable: " + err.Error()
		}
		expected, ok := want.Rows[doc.Key]
		delete(want.Rows, doc.Key)
		if !ok || got != expected {
			c.add(Mismatch{doc.Tenant, doc.ID, got, expected})
		}
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("compare projection %q: %w", d.Name(), err)
	}
	missing := make([]Mismatch, 0, len(want.Rows))
	for k, columns := range want.Rows {
		missing = append(missing, Mismatch{k.Tenant, k.ID, "", columns})
	}
	slices.SortFunc(missing, func(a, b Mismatch) int {
		return strings.Compare(a.Tenant+"\x00"+a.ID, b.Tenant+"\x00"+b.ID)
	})
	for _, m := range missing {
		c.add(m)
	}
	return c, nil
}

func (c *Comparison) add(m Mismatch) {
	if c.Mismatches++; len(c.Examples) < maxExamples {
		c.Examples = append(c.Examples, m)
	}
}

// row returns the columns of a stored document.
func row(d projection.Definition, data []byte) (string, error) {
	state, err := d.Decode(data)
	if err != nil {
		return "", err
	}
	s, ok := state.(interface{ row() []string })
	if !ok {
		return "", fmt.Errorf("projection %q is none of the demo's", d.Name())
	}
	return strings.Join(s.row(), ","), nil
}

// eachDocument calls f for every document of a collection, tenant by tenant.
func eachDocument(ctx context.Context, r store.Reader, collection string, want func(tenant string) bool, f func(store.Document) error) error {
	const page = 1000
	for after := ""; ; {
		tenants, err := r.Tenants(ctx, collection, after, page)
		if err != nil {
			return err
		}
		for _, t := range tenants {
			if !want(t) {
				continue
			}
			for id := ""; ; {
				docs, err := r.List(ctx, collection, t, id, page)
				if err != nil {
					return fmt.Errorf("list %q of tenant %q: %w", collection, t, err)
				}
				for _, d := range docs {
					if err := f(d); err != nil {
						return err
					}
				}
				if len(docs) < page {
					break
				}
				id = docs[len(docs)-1].ID
			}
		}
		if len(tenants) < page {
			return nil
		}
		after = tenants[len(tenants)-1]
	}
}
