package cli

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/go-json-experiment/json/jsontext"
)

// documents are those of a collection, or of one tenant of it.
type documents struct {
	r          store.Reader
	collection string
	tenant     string // "": of all
	across     bool   // they belong to no tenant
}

// each calls f for every document, in order of tenant and id. While a consumer
// runs, each page is a later state.
func (d documents) each(ctx context.Context, f func(*store.Document) error) error {
	const page = 1000
	if d.tenant != "" || d.across {
		return d.eachOf(ctx, d.tenant, f)
	}
	for after := ""; ; {
		tenants, err := d.r.Tenants(ctx, d.collection, after, page)
		if err != nil {
			return err
		}
		for _, t := range tenants {
			if err := d.eachOf(ctx, t, f); err != nil {
				return err
			}
		}
		if len(tenants) < page {
			return nil
		}
		after = tenants[len(tenants)-1]
	}
}

func (d documents) eachOf(ctx context.Context, tenant string, f func(*store.Document) error) error {
	const page = 500
	for after := ""; ; {
		docs, err := d.r.List(ctx, d.collection, tenant, after, page)
		if err != nil {
			return fmt.Errorf("list %s of tenant %q: %w", d.collection, tenant, err)
		}
		for i := range docs {
			if err := f(&docs[i]); err != nil {
				return err
			}
		}
		if len(docs) < page {
			return nil
		}
		after = docs[len(docs)-1].ID
	}
}

func (d documents) writeLines(ctx context.Context, w io.Writer) (n int64, err error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err = d.each(ctx, func(doc *store.Document) error {
		n++
		return enc.Encode(documentOf(doc))
	})
	return n, err
}

// writeCSV reads the collection twice: for its fields, and for the rows.
func (d documents) writeCSV(ctx context.Context, w io.Writer) (n int64, err error) {
	index := map[string]int{}
	columns := []string{"tenant", "id"}
	err = d.each(ctx, func(doc *store.Document) error {
		return fields(doc, func(name, _ string) error {
			if _, ok := index[name]; !ok {
				index[name] = len(columns)
				columns = append(columns, columnName(name))
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	c := csv.NewWriter(w)
	if err := c.Write(columns); err != nil {
		return 0, err
	}
	row := make([]string, len(columns))
	err = d.each(ctx, func(doc *store.Document) error {
		clear(row)
		row[0], row[1] = doc.Tenant, doc.ID
		err := fields(doc, func(name, value string) error {
			i, ok := index[name]
			if !ok {
				return fmt.Errorf("document %q of tenant %q has got a new field %q meanwhile: export again", doc.ID, doc.Tenant, name)
			}
			row[i] = value
			return nil
		})
		if err != nil {
			return err
		}
		n++
		return c.Write(row)
	})
	c.Flush()
	if err == nil {
		err = c.Error()
	}
	return n, err
}

func columnName(field string) string {
	if field == "tenant" || field == "id" {
		return "data." + field
	}
	return field
}

// fields calls f for the top-level fields of a document, in their order. Text
// comes as it is, null as nothing, everything else as JSON. A document that is
// no object has one field, "value".
func fields(doc *store.Document, f func(name, value string) error) error {
	fail := func(err error) error {
		return fmt.Errorf("document %q of tenant %q is no JSON, so it has no columns: export it as jsonl: %w", doc.ID, doc.Tenant, err)
	}
	data := jsontext.Value(doc.Data)
	if data.Kind() != '{' {
		if !data.IsValid() {
			return fail(fmt.Errorf("%d bytes", len(data)))
		}
		return f("value", text(data))
	}
	dec := jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowDuplicateNames(true))
	if _, err := dec.ReadToken(); err != nil {
		return fail(err)
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return fail(err)
		}
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return fail(err)
		}
		if err := f(key, text(value)); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return fail(err)
	}
	return nil
}

// text is a JSON value as a cell.
func text(v jsontext.Value) string {
	switch v.Kind() {
	case 'n':
		return ""
	case '"':
		b, err := jsontext.AppendUnquote(nil, v)
		if err == nil {
			return string(b)
		}
	}
	return string(v)
}
