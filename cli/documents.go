package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

// documentJSON is a document in JSON.
type documentJSON struct {
	Tenant   string          `json:"tenant"`
	ID       string          `json:"id"`
	Version  int64           `json:"version"`
	Position int64           `json:"position"`
	Updated  *time.Time      `json:"updated_at"`
	Data     json.RawMessage `json:"data,omitempty"`
	Bytes    []byte          `json:"data_base64,omitempty"` // where it is not JSON
}

func documentOf(d *store.Document) documentJSON {
	j := documentJSON{Tenant: d.Tenant, ID: d.ID, Version: d.Version, Position: int64(d.Position), Updated: stamp(d.Updated)}
	if json.Valid(d.Data) {
		j.Data = d.Data
	} else {
		j.Bytes = d.Data
	}
	return j
}

func (p *program) documentsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "documents",
		Short: "Get, list and export documents",
		Long: `Get, list and export the documents that are being served. A collection has the
name of its projection. A document is reached only with its tenant; a
projection across tenants has none.`,
	}, p.getDocument(), p.listDocuments(), p.exportDocuments())
}

// ofTenant returns the collection's row, having checked that the tenant fits it.
func (p *program) ofTenant(ctx context.Context, db Database, collection, tenant string) error {
	proc, err := p.collection(ctx, db, collection)
	if err != nil {
		return err
	}
	switch {
	case proc.CrossTenant && tenant != "":
		return Usagef("collection %q is across tenants: leave --tenant out", collection)
	case !proc.CrossTenant && tenant == "":
		return Usagef("the documents of collection %q belong to tenants: give --tenant TENANT", collection)
	case tenant == "":
		return nil
	}
	return p.seen(ctx, db, tenant)
}

func (p *program) getDocument() *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use:     "get COLLECTION ID",
		Short:   "Show one document",
		Example: `  $NAME documents get orders order-17 --tenant acme`,
		Args:    between(2, 2),
	}
	p.named(c)
	c.Flags().StringVar(&tenant, "tenant", "", "the document's `TENANT`")
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, args []string) error {
		if err := p.ofTenant(ctx, db, args[0], tenant); err != nil {
			return err
		}
		d, err := db.Get(ctx, args[0], tenant, args[1])
		if errors.Is(err, fairlead.ErrNotFound) {
			return fmt.Errorf("tenant %q has no document %q in collection %q", tenant, args[1], args[0])
		}
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(documentOf(&d))
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, d.Data, "", "  "); err != nil {
			pretty.Reset()
			fmt.Fprintf(&pretty, "%q", d.Data)
		}
		_, err = fmt.Fprintf(p.Stdout, "%s\n", pretty.Bytes())
		return err
	})
}

func (p *program) listDocuments() *cobra.Command {
	var tenant, after string
	var limit int
	c := &cobra.Command{
		Use:     "list COLLECTION",
		Short:   "List the documents of a tenant, by id",
		Example: `  $NAME documents list orders --tenant acme --limit 10`,
		Args:    between(1, 1),
	}
	p.named(c)
	c.Flags().StringVar(&tenant, "tenant", "", "the documents' `TENANT`")
	c.Flags().StringVar(&after, "after", "", "only ids above this `ID`: the last one of the page before")
	c.Flags().IntVar(&limit, "limit", 100, "at most `N`")
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, args []string) error {
		if limit < 1 {
			return Usagef("--limit %d: at least 1 is needed", limit)
		}
		if err := p.ofTenant(ctx, db, args[0], tenant); err != nil {
			return err
		}
		docs, err := db.List(ctx, args[0], tenant, after, limit)
		if err != nil {
			return err
		}
		if p.JSON {
			page := struct {
				Documents []documentJSON `json:"documents"`
				Next      string         `json:"next,omitempty"` // what --after gets for the next page
			}{Documents: make([]documentJSON, len(docs))}
			for i := range docs {
				page.Documents[i] = documentOf(&docs[i])
			}
			if len(docs) == limit {
				page.Next = docs[len(docs)-1].ID
			}
			return p.writeJSON(page)
		}
		t := newTable(p.Stdout, "ID", "VERSION", "POSITION", "UPDATED", "DATA")
		for i := range docs {
			d := &docs[i]
			t.row(d.ID, d.Version, d.Position, d.Updated, short(string(d.Data), 100))
		}
		return t.flush()
	})
}

func (p *program) exportDocuments() *cobra.Command {
	var tenant, format, out string
	var quiet bool
	c := &cobra.Command{
		Use:   "export COLLECTION",
		Short: "Write a collection as JSON Lines or CSV",
		Long: `Write a collection, or one tenant of it, as JSON Lines or CSV, in order of tenant
and id. The columns of the CSV are tenant, id, and the fields of the documents
in the order in which they first come; a field that is called tenant or id
itself is "data.tenant" or "data.id". What is an object or an array is JSON.`,
		Example: `  $NAME documents export orders --format csv --out orders.csv
  $NAME documents export orders --tenant acme | jq .data.total`,
		Args: between(1, 1),
	}
	p.named(c)
	c.Flags().StringVar(&tenant, "tenant", "", "only this `TENANT`")
	c.Flags().StringVar(&format, "format", "jsonl", "`FORMAT`: jsonl or csv")
	c.Flags().StringVarP(&out, "out", "o", "", "write to `FILE`; the endings .gz and .zst compress")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no summary on stderr")
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, args []string) error {
		if format != "jsonl" && format != "csv" {
			return Usagef("--format %q is none of jsonl, csv", format)
		}
		proc, err := p.collection(ctx, db, args[0])
		if err != nil {
			return err
		}
		if tenant != "" || proc.CrossTenant {
			if err := p.ofTenant(ctx, db, args[0], tenant); err != nil {
				return err
			}
		}
		o, err := create(out, p.Stdout)
		if err != nil {
			return err
		}
		start, n := time.Now(), int64(0)
		each := documents{db, args[0], tenant, proc.CrossTenant}
		if format == "csv" {
			n, err = each.writeCSV(ctx, o)
		} else {
			n, err = each.writeLines(ctx, o)
		}
		if err = o.finish(err); err != nil {
			return err
		}
		return p.exported(n, "documents", time.Since(start), quiet)
	})
}
