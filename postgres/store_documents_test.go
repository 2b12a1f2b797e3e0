package postgres

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// TestDocumentThatCannotBeStored: the error names the document, of many.
func TestDocumentThatCannotBeStored(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	for _, tt := range []struct {
		name string
		doc  store.Document
	}{
		{"no JSON", store.Document{Key: store.Key{Tenant: "O'Neil", ID: "x"}, Data: []byte(`{"a":`)}},
		{"nothing", store.Document{Key: store.Key{Tenant: "a", ID: "x"}}},
		{"NUL itself", store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: []byte("\"\x00\"")}},
		{"no UTF-8", store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: []byte("\"\xff\"")}},
		{"NUL in its id", store.Document{Key: store.Key{Tenant: "a", ID: "x\x00y"}, Data: []byte("1")}},
		{"tenant that is no UTF-8", store.Document{Key: store.Key{Tenant: "\xff", ID: "x"}, Data: []byte("1")}},
		{"nested too deeply", store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: []byte(strings.Repeat("[", 9000) + strings.Repeat("]", 9000))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := commit(func(c *store.Commit) { c.Writes = append(someWrites(20, 0), store.Write{Document: tt.doc}) })
			fault, ok := errors.AsType[*DocumentError](err)
			switch {
			case tt.name == "nested too deeply" && err == nil: // this server has the stack for it
			case !ok || fault.Tenant != tt.doc.Tenant || fault.ID != tt.doc.ID:
				t.Errorf("Commit = %v, want a DocumentError of %q of tenant %q", err, tt.doc.ID, tt.doc.Tenant)
			}
		})
	}
	if err := commit(func(c *store.Commit) { c.Writes = someWrites(20, 0) }); err != nil {
		t.Errorf("the commit without such a document = %v", err)
	}
}

// TestDocumentThatIsTooLarge: the server would end the connection on it, and the
// commit would be of unknown outcome for ever.
func TestDocumentThatIsTooLarge(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	doc := store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: make([]byte, 1<<30)} // never touched, so it takes no memory
	err := commit(func(c *store.Commit) { c.Writes = append(someWrites(3, 0), store.Write{Document: doc}) })
	fault, ok := errors.AsType[*DocumentError](err)
	if !ok || fault.ID != "x" || errors.Is(err, ErrOutcomeUnknown) || !strings.Contains(err.Error(), "1073741824 bytes") {
		t.Errorf("Commit = %.500v, want a DocumentError of x with its size", err)
	}
	if err := commit(func(c *store.Commit) { c.Writes = someWrites(3, 0) }); err != nil {
		t.Errorf("the commit without it = %v", err)
	}
}

// TestReadModelView: what SQL sees is the live build, as jsonb, whatever is in it.
func TestReadModelView(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "orders")
	docs := map[string]string{
		"1": `{"status":"shipped","total":12.50}`,
		"2": `{"status":"open","note":"a\u0000b\u0000\u0000"}`,
		"3": `{"status":"open","note":"a\\u0000"}`,
		"4": `{"status":"open","note":"\\\u0000"}`,
		"5": `{"status":"half","note":"\ud800"}`,
		"6": `{"status":"huge","n":1e999999}`,
		"7": `{"status":"pair","note":"\ud83d\ude00","n":1e1000}`,
	}
	err := commit(func(c *store.Commit) {
		for id, doc := range docs {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: store.Key{Tenant: "a", ID: id}, Version: 7, Position: 9, Data: []byte(doc)}})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, db)
	exec(t, c, "CREATE VIEW mine AS SELECT tenant, id, doc->>'status' AS status, doc->>'note' AS note, doc FROM fairlead.read_model WHERE collection = 'orders'")
	if got := value[string](t, c, "SELECT string_agg(id, ' ' ORDER BY id) FROM mine WHERE doc @> '{\"status\": \"open\"}'"); got != "2 3 4" {
		t.Errorf("open orders are %s, want 2 3 4", got)
	}
	if got := value[string](t, c, "SELECT string_agg(id, ' ' ORDER BY id) FROM mine WHERE doc IS NULL"); got != "6" {
		t.Errorf("documents that jsonb cannot hold are %s, want 6", got)
	}
	for id, want := range map[string]string{"7": "😀", "2": "a\ufffdb\ufffd\ufffd", "3": `a\u0000`, "4": "\\\ufffd", "5": "\ufffd"} {
		if got := value[string](t, c, "SELECT note FROM mine WHERE id = $1", id); got != want {
			t.Errorf("note of %s = %q, want %q", id, got, want)
		}
		d, err := db.Get(t.Context(), "orders", "a", id)
		if err != nil {
			t.Fatal(err)
		}
		// To the byte where jsonb cannot hold it, else by its value.
		same := string(d.Data) == docs[id]
		if !same && strings.Contains("1 3 7", id) {
			same = value[bool](t, c, "SELECT $1::text::jsonb = $2::text::jsonb", string(d.Data), docs[id])
		}
		if !same {
			t.Errorf("Get(%s) = %s, want what was written", id, d.Data)
		}
	}
	plan := explain(t, c, "SELECT * FROM mine WHERE tenant = 'a' AND id = '1'")
	if !strings.Contains(plan, "documents_pkey") {
		t.Errorf("a look into the view of one's own does not use the key:\n%s", plan)
	}
	// An index of the user's own.
	exec(t, c, "CREATE INDEX ON fairlead.orders_documents (tenant, (document->>'status'))")
	exec(t, c, "SET enable_seqscan = off")
	for _, from := range []string{"fairlead.orders", "fairlead.orders_documents"} {
		plan := explain(t, c, "SELECT id FROM "+from+" WHERE tenant = 'a' AND document->>'status' = 'open'")
		if !strings.Contains(plan, "orders_documents_tenant_expr_idx") {
			t.Errorf("a user's index is not used for %s:\n%s", from, plan)
		}
	}
	if plan := explain(t, c, "SELECT id FROM mine WHERE tenant = 'a' AND status = 'open'"); !strings.Contains(plan, "orders_documents_tenant_expr_idx") {
		t.Errorf("a user's index is not used for a view of read_model:\n%s", plan)
	}
}

func tableIn(t testing.TB, db *DB, processor string) table {
	t.Helper()
	found, err := db.find(t.Context(), db.pool, tableOfProcessor, processor)
	if err != nil || found.name == "" {
		t.Fatalf("processor %q has the table %+v, %v", processor, found, err)
	}
	return found
}

func explain(t testing.TB, c *pgx.Conn, query string, args ...any) string {
	t.Helper()
	rows, err := c.Query(t.Context(), "EXPLAIN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// TestLoadLooksUpEachKey: however many keys, and whatever the planner knows.
func TestLoadLooksUpEachKey(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	c := connect(t, db)
	keys := someWrites(5000, 0)
	tenants, ids := make([]string, len(keys)), make([]string, len(keys))
	for i, w := range keys {
		tenants[i], ids[i] = w.Tenant, w.ID
	}
	for round := range 3 {
		for _, generic := range []string{"auto", "force_generic_plan"} {
			exec(t, c, "SELECT set_config('plan_cache_mode', $1, false)", generic)
			in := tableIn(t, db, "p")
			plan := explain(t, c, in.q(db, loadDocuments), in.no, "p", int64(1), tenants, ids)
			if strings.Contains(plan, "Seq Scan on p_documents") || !strings.Contains(plan, "documents_pkey") {
				t.Errorf("round %d, %s: plan of Load:\n%s", round, generic, plan)
			}
		}
		if err := commit(func(c *store.Commit) { c.Writes = someWrites(20000, 20000*round) }); err != nil {
			t.Fatal(err)
		}
		exec(t, c, "ANALYZE fairlead.documents")
	}
}

// TestLargeDocuments: 50 MB come back as they went.
func TestLargeDocuments(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	data, err := json.Marshal(strings.Repeat("0123456789abcdef", 50<<20/16))
	if err != nil {
		t.Fatal(err)
	}
	keys := []store.Key{{Tenant: "a", ID: "1"}, {Tenant: "a", ID: "2"}, {Tenant: "a", ID: "3"}}
	err = commit(func(c *store.Commit) {
		for i, k := range keys {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: k, Data: data[:len(data):len(data)]}})
			if i == 2 {
				c.Writes[i].Data = []byte(`"small"`)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	docs, err := db.Load(t.Context(), store.Build{Processor: "p", Number: 1}, keys)
	if err != nil || len(docs) != len(keys) {
		t.Fatalf("Load has %d documents, %v", len(docs), err)
	}
	for _, d := range docs {
		if d.ID != "3" && !bytes.Equal(d.Data, data) {
			t.Errorf("document %s came back as %d bytes, want %d, as they were", d.ID, len(d.Data), len(data))
		}
	}
}

// TestLettersOfAnyName: what is parked for its names may have names of any
// length, and a key's queue is found among many others.
func TestLettersOfAnyName(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	id, commit := laneOf(t, db, "p")
	noise := make([]byte, 100<<10) // that nothing can compress
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	tenant, key := string(noise[:50<<10]), string(noise[50<<10:])
	err := commit(func(c *store.Commit) {
		for i := range 3000 {
			c.Letters = append(c.Letters, store.DeadLetter{Build: id.Build, Tenant: fmt.Sprint("t", i%10), Key: fmt.Sprint(i), State: store.Poison})
		}
		c.Letters = append(c.Letters, store.DeadLetter{Build: id.Build, Tenant: tenant, Key: key, State: store.Waiting, Event: event.Event{Tenant: tenant, Stream: key}})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(t.Context(), func(tx store.Tx) error {
		found, err := tx.Letters(store.LetterFilter{Build: id.Build, Tenant: tenant, Key: &key})
		if err != nil || len(found) != 1 || found[0].Tenant != tenant || found[0].Event.Stream != key {
			t.Errorf("Letters of the key has %d, %v, want the one", len(found), err)
		}
		parked, err := tx.Parked(id.Build, tenant)
		if err != nil || len(parked) != 1 || parked[0].Key != key {
			t.Errorf("Parked of the tenant has %d, %v, want the one", len(parked), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, db)
	exec(t, c, "ANALYZE fairlead.dead_letters")
	plan := explain(t, c, `SELECT id FROM fairlead.dead_letters WHERE id > $1 AND processor = $2 AND number = $3
		AND tenant = $4 AND md5(tenant) = md5($4) AND key = $5 AND md5(key) = md5($5) ORDER BY id LIMIT 1`, 0, "p", 1, []byte("t1"), []byte("1"))
	if !strings.Contains(plan, "dead_letters_by_key") {
		t.Errorf("a key's queue is not looked up by its key:\n%s", plan)
	}
}
