package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

func write(tenant, id, data string) store.Write {
	return store.Write{Document: store.Document{Key: store.Key{Tenant: tenant, ID: id}, Version: 1, Position: 1, Data: []byte(data)}}
}

// relationsOf are the view and the table of a collection, as SQL names them.
func relationsOf(t testing.TB, db *DB, collection string) (view, of string) {
	t.Helper()
	err := db.pool.QueryRow(t.Context(), db.q(`SELECT view, "table" FROM {schema}.collections WHERE collection = $1`), collection).Scan(&view, &of)
	if err != nil {
		t.Fatalf("relations of collection %q: %v", collection, err)
	}
	return pgx.Identifier{db.opts.Schema, view}.Sanitize(), pgx.Identifier{db.opts.Schema, of}.Sanitize()
}

// TestHostileCollections: whatever a collection is called, it has a view and a table
// of its own, and no one else's.
func TestHostileCollections(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	long := strings.Repeat("é", 100) // 200 bytes
	names := []string{
		"carts", "Carts", "CARTS", `"carts"`, "carts_documents", "carts_2", "O'Neil's; DROP TABLE fairlead.lanes; --", "select", "東京支店 🛒",
		long, long + "x", long + "y", strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("x", 53), strings.Repeat("x", 54),
		"events", "documents", "lanes", "lanes_pkey", "read_model", "collections", "{schema}", "{table}", "[schema]", "%s %I $1", `back\slash`, "a.b", " ", "_carts",
	}
	for _, name := range names {
		_, commit := laneOf(t, db, name)
		err := commit(func(c *store.Commit) {
			c.Writes = []store.Write{write("a", "1", fmt.Sprintf("{\"of\":%q}", name)), write("a", "2", "1")}
		})
		if err != nil {
			t.Fatalf("collection %q: %v", name, err)
		}
		err = commit(func(c *store.Commit) {
			c.Writes = []store.Write{{Document: store.Document{Key: store.Key{Tenant: "a", ID: "2"}}, Delete: true}}
		})
		if err != nil {
			t.Fatalf("delete in collection %q: %v", name, err)
		}
	}
	seen := map[string]string{}
	for _, name := range names {
		view, of := relationsOf(t, db, name)
		for _, relation := range []string{view, of} {
			if other, ok := seen[relation]; ok {
				t.Errorf("collections %q and %q have the relation %s", name, other, relation)
			}
			seen[relation] = name
			if got := value[string](t, db.pool, "SELECT string_agg(document->>'of', ',') FROM "+relation+" WHERE tenant = 'a'"); got != name {
				t.Errorf("%s of collection %q has the document of %q", relation, name, got)
			}
		}
		if d, err := db.Get(t.Context(), name, "a", "1"); err != nil || !strings.Contains(string(d.Data), "of") {
			t.Errorf("Get from %q = %s, %v", name, d.Data, err)
		}
		if tenants, err := db.Tenants(t.Context(), name, "", 10); err != nil || len(tenants) != 1 {
			t.Errorf("Tenants of %q = %q, %v, want one", name, tenants, err)
		}
	}
	for collection, want := range map[string]string{
		"carts": `"fairlead"."carts"`, "Carts": `"fairlead"."Carts"`, "東京支店 🛒": `"fairlead"."東京支店 🛒"`, "events": `"fairlead"."events_2"`,
		long: `"fairlead"."` + strings.Repeat("é", 26) + `"`,
	} {
		if got, _ := relationsOf(t, db, collection); got != want {
			t.Errorf("the view of collection %q is %s, want %s", collection, got, want)
		}
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM fairlead.read_model WHERE tenant = 'a'"); got != len(names) {
		t.Errorf("read_model has %d documents, want %d", got, len(names))
	}
	// All go with their processors.
	for _, name := range names {
		if err := db.Update(t.Context(), func(tx store.Tx) error { return tx.DeleteProcessor(name) }); err != nil {
			t.Fatal(err)
		}
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'fairlead.documents'::regclass"); got != 0 {
		t.Errorf("%d tables are left", got)
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM pg_views WHERE schemaname = 'fairlead'"); got != 3 {
		t.Errorf("%d views are left, want read_model, letters and collections", got)
	}
}

// TestCollectionViewShowsTheLiveBuild: and the table all builds.
func TestCollectionViewShowsTheLiveBuild(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "carts")
	if err := commit(func(c *store.Commit) { c.Writes = []store.Write{write("a", "1", `{"status":"old"}`)} }); err != nil {
		t.Fatal(err)
	}
	second := store.LaneID{Build: store.Build{Processor: "carts", Number: 2}}
	if err := db.Update(t.Context(), func(tx store.Tx) error { return tx.PutLane(store.Lane{LaneID: second}) }); err != nil {
		t.Fatal(err)
	}
	err := db.Commit(t.Context(), &store.Commit{Lane: second, Position: 1, Writes: []store.Write{write("a", "1", `{"status":"new"}`), write("a", "2", `{"status":"new"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	const status = "SELECT string_agg(document->>'status', ',' ORDER BY id) FROM fairlead.carts WHERE tenant = 'a'"
	if got := value[string](t, db.pool, status); got != "old" {
		t.Errorf("the view shows %q, want the live build", got)
	}
	err = db.Update(t.Context(), func(tx store.Tx) error {
		p, err := tx.Processor("carts")
		p.Live = 2
		return errors.Join(err, tx.PutProcessor(p))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := value[string](t, db.pool, status); got != "new,new" {
		t.Errorf("the view shows %q, want the build that is live now", got)
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM fairlead.carts_documents"); got != 3 {
		t.Errorf("the table has %d documents, want those of both builds", got)
	}
}

// TestUsersViewKeepsTheCollection: nothing of a user's is dropped with it.
func TestUsersViewKeepsTheCollection(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "carts")
	if err := commit(func(c *store.Commit) { c.Writes = []store.Write{write("a", "1", `{}`)} }); err != nil {
		t.Fatal(err)
	}
	exec(t, db.pool, "CREATE VIEW mine AS SELECT id FROM fairlead.carts")
	drop := func() error {
		return db.Update(t.Context(), func(tx store.Tx) error { return tx.DeleteProcessor("carts") })
	}
	if err := drop(); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("DeleteProcessor under a view = %v, want an error that names the view", err)
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM mine"); got != 1 {
		t.Errorf("the view shows %d documents, want 1", got)
	}
	exec(t, db.pool, "DROP VIEW mine")
	if err := drop(); err != nil {
		t.Errorf("DeleteProcessor = %v", err)
	}
}

// TestTablesThatMoved: another process has dropped a processor and made one anew,
// one with the same table and another one's documents among them. What this process
// remembers is wrong then, and it must neither lose, mix nor miss documents.
func TestTablesThatMoved(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	other := openAt(t, db.pool.Config().ConnString())
	lane := func(processor string) store.LaneID {
		return store.LaneID{Build: store.Build{Processor: processor, Number: 1}}
	}
	// register makes a processor with a collection, in the other process.
	register := func(processor, collection string) {
		t.Helper()
		err := other.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.PutProcessor(store.Processor{Name: processor, Collection: collection, Live: 1, LastBuild: 1, Partitions: 1}),
				tx.PutLane(store.Lane{LaneID: lane(processor), Epoch: 1, State: store.Running}))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	drop := func(processor string) {
		t.Helper()
		err := other.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.DeleteLane(lane(processor)), tx.DeleteProcessor(processor))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(on *DB, processor string, w ...store.Write) error {
		l, err := readLane(t, other, lane(processor))
		if err != nil {
			return err
		}
		return on.Commit(t.Context(), &store.Commit{Lane: l.LaneID, Fence: fenceOf(l), Position: l.Position + 1, Writes: w})
	}
	get := func(collection string) string {
		d, err := db.Get(t.Context(), collection, "a", "1")
		if errors.Is(err, store.ErrNotFound) {
			return "none"
		}
		if err != nil {
			t.Errorf("Get from %q = %v", collection, err)
		}
		list, err := db.List(t.Context(), collection, "a", "", 10)
		if err != nil || len(list) != 1 || string(list[0].Data) != string(d.Data) {
			t.Errorf("List of %q = %+v, %v, want what Get has, %s", collection, list, err, d.Data)
		}
		return string(d.Data)
	}
	load := func(processor string) string {
		docs, err := db.Load(t.Context(), lane(processor).Build, []store.Key{{Tenant: "a", ID: "1"}})
		if err != nil {
			t.Errorf("Load of %q = %v", processor, err)
		}
		if len(docs) == 0 {
			return "none"
		}
		return string(docs[0].Data)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	register("p", "carts")
	must(put(db, "p", write("a", "1", `"p's"`)))
	if got := get("carts") + load("p"); got != `"p's""p's"` {
		t.Fatalf("documents = %s", got)
	}
	// p goes, and q has its table's name; then p comes again, with another one.
	drop("p")
	if got := get("carts") + load("p"); got != "nonenone" {
		t.Errorf("documents of a processor that is gone = %s", got)
	}
	fenced := db.Commit(t.Context(), &store.Commit{Lane: lane("p"), Fence: store.Fence{Epoch: 1, Position: 1}, Position: 2, Writes: []store.Write{write("a", "1", `"late"`)}})
	if f, ok := errors.AsType[*store.FenceError](fenced); !ok || !f.Lost() {
		t.Errorf("Commit on a lane that is gone = %v, want a FenceError that says it is lost", fenced)
	}
	register("p", "carts")
	must(put(db, "p", write("a", "1", `"p's second"`)))
	if got := get("carts") + load("p"); got != `"p's second""p's second"` {
		t.Errorf("documents = %s", got)
	}
	drop("p")
	register("q", "carts")
	must(put(other, "q", write("a", "1", `"q's"`)))
	register("p", "others")
	// What db remembers of p and of carts is the table of q now, by its name.
	if got := load("p"); got != "none" {
		t.Errorf("Load of p has %s, want nothing: that is q's", got)
	}
	if got := get("carts"); got != `"q's"` {
		t.Errorf("Get from carts = %s, want q's", got)
	}
	db.tables.of.Store("p", table{no: 2, name: `"fairlead"."carts_documents"`}) // as it was before it looked
	must(put(db, "p", write("a", "1", `"p's third"`)))
	if got := get("carts") + get("others") + load("p"); got != `"q's""p's third""p's third"` {
		t.Errorf("documents = %s, want each in its own collection", got)
	}
	db.tables.of.Store("p", table{no: 2, name: `"fairlead"."carts_documents"`})
	must(put(db, "p", store.Write{Document: store.Document{Key: store.Key{Tenant: "a", ID: "1"}}, Delete: true}))
	if got := get("carts"); got != `"q's"` {
		t.Errorf("after a delete of p's: %s, want q's untouched", got)
	}
}

// TestCollectionsWithoutRights: a role that may not create tables.
func TestCollectionsWithoutRights(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "there already")
	if err := commit(func(c *store.Commit) { c.Writes = []store.Write{write("a", "1", "1")} }); err != nil {
		t.Fatal(err)
	}
	role, as := newRole(t, db, "")
	quoted := pgx.Identifier{role}.Sanitize()
	exec(t, db.pool, "GRANT USAGE ON SCHEMA fairlead TO "+quoted)
	exec(t, db.pool, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fairlead TO "+quoted)
	worker := openAt(t, as, Options{NoMigrate: true})
	register := func() error {
		return worker.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.PutProcessor(store.Processor{Name: "p", Collection: "new", Live: 1}), tx.PutLane(store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}}}))
		})
	}
	err := register()
	if !errors.Is(err, ErrRights) {
		t.Fatalf("PutProcessor without the right = %v, want ErrRights", err)
	}
	// The error says what to run.
	_, statement, ok := strings.Cut(err.Error(), "run once: ")
	if statement, _, _ = strings.Cut(statement, "\n"); !ok || !strings.HasPrefix(statement, "GRANT EXECUTE") {
		t.Fatalf("the error does not say what to run: %v", err)
	}
	exec(t, db.pool, statement)
	if err := register(); err != nil {
		t.Fatalf("PutProcessor with the right = %v", err)
	}
	c := &store.Commit{Lane: store.LaneID{Build: store.Build{Processor: "p", Number: 1}}, Position: 1, Writes: []store.Write{write("a", "1", "1"), write("a", "2", "2")}}
	if err := worker.Commit(t.Context(), c); err != nil {
		t.Fatalf("Commit = %v", err)
	}
	c = &store.Commit{Lane: c.Lane, Fence: store.Fence{Position: 1}, Position: 2, Writes: []store.Write{{Document: store.Document{Key: store.Key{Tenant: "a", ID: "1"}}, Delete: true}}}
	if err := worker.Commit(t.Context(), c); err != nil {
		t.Fatalf("Commit that deletes = %v", err)
	}
	if docs, err := worker.List(t.Context(), "new", "a", "", 10); err != nil || len(docs) != 1 {
		t.Errorf("List = %d documents, %v, want 1", len(docs), err)
	}
	if owner := value[string](t, db.pool, "SELECT tableowner FROM pg_tables WHERE tablename = 'new_documents'"); owner == role {
		t.Error("the table is the worker's, want it the owner's of the schema")
	}
	if err := worker.Update(t.Context(), func(tx store.Tx) error { return tx.DeleteProcessor("p") }); err != nil {
		t.Errorf("DeleteProcessor = %v", err)
	}
	if _, err := worker.pool.Exec(t.Context(), "CREATE TABLE fairlead.x ()"); err == nil {
		t.Error("the worker may create tables: the test shows nothing")
	}
}

// TestProcessorsAtOnce: several processes register processors while others commit,
// and somebody reads read_model in a long transaction.
func TestProcessorsAtOnce(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "busy")
	reader := connect(t, db)
	exec(t, reader, "BEGIN")
	value[int](t, reader, "SELECT count(*) FROM fairlead.read_model")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			d := openAt(t, db.pool.Config().ConnString())
			for j := range 5 {
				name := fmt.Sprintf("p%d.%d", i, j)
				id := store.LaneID{Build: store.Build{Processor: name, Number: 1}}
				err := d.Update(t.Context(), func(tx store.Tx) error {
					return errors.Join(tx.PutProcessor(store.Processor{Name: name, Collection: "same", Live: 1}), tx.PutLane(store.Lane{LaneID: id}))
				})
				if err == nil {
					err = d.Commit(t.Context(), &store.Commit{Lane: id, Position: 1, Writes: []store.Write{write("a", name, "1")}})
				}
				if err != nil {
					t.Errorf("processor %s: %v", name, err)
				}
			}
		})
	}
	for range 50 {
		if err := commit(func(c *store.Commit) { c.Writes = someWrites(10, 0) }); err != nil {
			t.Errorf("commit meanwhile: %v", err)
		}
	}
	wg.Wait()
	exec(t, reader, "COMMIT")
	if got := value[int](t, reader, "SELECT count(*) FROM fairlead.read_model"); got != 30 {
		t.Errorf("read_model has %d documents, want 30", got)
	}
}

// TestMigrationMakesWay: a later version needs a name that a collection has.
func TestMigrationMakesWay(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	_, commit := laneOf(t, db, "later")
	if err := commit(func(c *store.Commit) { c.Writes = []store.Write{write("a", "1", "1")} }); err != nil {
		t.Fatal(err)
	}
	exec(t, db.pool, "CREATE INDEX mine ON fairlead.later_documents ((document->>'x'))")
	exec(t, db.pool, "CREATE VIEW public.mine AS SELECT * FROM fairlead.later")
	more := append(migrations[:len(migrations):len(migrations)], migration{len(migrations) + 1, "later",
		"CREATE TABLE {schema}.later (name text);\nCREATE TABLE IF NOT EXISTS {schema}.later_documents (x integer);"})
	later, err := open(t.Context(), db.pool.Config().ConnString(), more)
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	view, _ := relationsOf(t, later, "later")
	if view != `"fairlead"."later_2"` {
		t.Errorf("the view is %s now", view)
	}
	for _, from := range []string{view, "public.mine"} {
		if got := value[int](t, db.pool, "SELECT count(*) FROM "+from); got != 1 {
			t.Errorf("%s shows %d documents, want 1", from, got)
		}
	}
	// A process of the old version that is still there finds the table, too.
	if err := commit(func(c *store.Commit) { c.Writes = []store.Write{write("a", "2", "1")} }); err != nil {
		t.Errorf("commit into a table that was renamed = %v", err)
	}
	if docs, err := db.List(t.Context(), "later", "a", "", 10); err != nil || len(docs) != 2 {
		t.Errorf("List = %d documents, %v, want 2", len(docs), err)
	}
}

// before are the migrations up to a version.
func before(t testing.TB, version int) []migration {
	t.Helper()
	files := fstest.MapFS{}
	for _, m := range migrations[:version] {
		files[fmt.Sprintf("migrations/%04d_%s.sql", m.version, m.name)] = &fstest.MapFile{Data: []byte(m.sql)}
	}
	return mustLoadMigrations(fs.FS(files))
}

// TestMigrateDocuments: the documents of a database of version 2 are in the
// tables of their collections afterwards, and who was held to one tenant still is.
func TestMigrateDocuments(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	ctx := t.Context()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	const schema = `Schema 3's "old" %s`
	db := &DB{opts: Options{Schema: schema}, names: names(schema)}
	exec(t, c, db.q("CREATE SCHEMA {schema}"))
	exec(t, c, db.q("CREATE TABLE {schema}.migrations (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"))
	for _, m := range before(t, 2) {
		if _, err := c.PgConn().Exec(ctx, db.q(m.sql)).ReadAll(); err != nil {
			t.Fatal(err)
		}
		exec(t, c, db.q("INSERT INTO {schema}.migrations VALUES ($1, $2)"), m.version, m.name)
	}
	docs := map[string]string{
		"1": `{"b":1,"a":[1.50,1e2]}`, "2": `{"note":"a\u0000b"}`, "3": `"\ud800"`, "4": `[1e999999]`, "5": `-0`, "6": `"\\u0000"`, "7": `"\ud83d\ude00"`,
		"8": strings.Repeat("[", 3000) + strings.Repeat("]", 3000), "9": strings.Repeat("1", 140000), "10": `[-0.0,1]`,
	}
	for _, p := range []string{"carts", `O'Neil's "carts"`, "events"} {
		exec(t, c, db.q("INSERT INTO {schema}.processors VALUES ($1, 'projection', $1, 1, 2, 2, 0, '', '{1}', false, '', false)"), p)
		for build := 1; build <= 2; build++ {
			exec(t, c, db.q("INSERT INTO {schema}.builds (processor, number) VALUES ($1, $2)"), p, build)
			exec(t, c, db.q("INSERT INTO {schema}.lanes VALUES ($1, $2, 0, '', 1, 7, NULL, NULL, 0, 'running', '', false, '')"), p, build)
			for id, doc := range docs {
				for _, tenant := range []string{"a", "b"} {
					exec(t, c, db.q(`INSERT INTO {schema}.documents SELECT build_no, $3, $4, 5, 6, '2024-02-29 12:00:00Z', $5
						FROM {schema}.builds WHERE processor = $1 AND number = $2`), p, build, tenant, id, doc)
				}
			}
		}
	}
	// What SecureReaders did in version 2.
	secure := invokerViews(t, c)
	if secure {
		exec(t, c, db.q("ALTER VIEW {schema}.read_model SET (security_invoker = true)"))
		exec(t, c, db.q("ALTER TABLE {schema}.documents ENABLE ROW LEVEL SECURITY"))
		exec(t, c, db.q("CREATE POLICY one_tenant ON {schema}.documents FOR SELECT USING (tenant = (SELECT nullif(current_setting('fairlead.tenant', true), '')))"))
	}
	exec(t, c, db.q("CREATE VIEW public.mine AS SELECT id, doc->>'note' AS note FROM {schema}.read_model WHERE collection = 'carts' AND tenant = 'a'"))
	role, as := newRole(t, openAt(t, url, Options{Schema: "unrelated"}), "")
	to := " TO " + pgx.Identifier{role}.Sanitize()
	exec(t, c, db.q("GRANT USAGE ON SCHEMA {schema}")+to)
	exec(t, c, db.q("GRANT SELECT ON {schema}.read_model, {schema}.documents, {schema}.builds")+to)
	exec(t, c, db.q("GRANT SELECT (name, collection, live) ON {schema}.processors")+to)

	db = openAt(t, url, Options{Schema: schema})
	for _, p := range []string{"carts", `O'Neil's "carts"`, "events"} {
		for _, build := range []int64{1, 2} {
			loaded, err := db.Load(ctx, store.Build{Processor: p, Number: build}, []store.Key{{Tenant: "a", ID: "1"}, {Tenant: "b", ID: "2"}})
			if err != nil || len(loaded) != 2 || loaded[0].Version != 5 || loaded[0].Position != 6 || loaded[0].Updated.Year() != 2024 {
				t.Errorf("%q build %d = %+v, %v", p, build, loaded, err)
			}
		}
		for id, doc := range docs {
			want := map[string]string{"1": `{"a": [1.50, 100], "b": 1}`}[id]
			if want == "" {
				want = doc
			}
			if d, err := db.Get(ctx, p, "a", id); err != nil || string(d.Data) != want {
				t.Errorf("Get(%q, %s) = %.60s, %v, want %.60s", p, id, d.Data, err, want)
			}
		}
	}
	if got := value[string](t, c, "SELECT note FROM public.mine WHERE id = '2'"); got != "a\ufffdb" {
		t.Errorf("a user's view of read_model shows %q", got)
	}
	pool := poolOf(t, as, 1, pgx.QueryExecModeCacheStatement)
	for from, want := range map[string]string{"{schema}.read_model": "a 30", "{schema}.carts": "a 10", "{schema}.carts_documents": "a 20", "{schema}.documents": "a 60"} {
		if !secure {
			break // there are no such readers before PostgreSQL 15
		}
		var got string
		err := InTenant(ctx, pool, "a", func(tx pgx.Tx) error { return tx.QueryRow(ctx, db.q(seen+from)).Scan(&got) })
		if err != nil || got != want {
			t.Errorf("tenant a sees %q in %s, %v, want %q", got, from, err, want)
		}
		if got := value[string](t, pool, db.q(seen+from)); got != "nothing" {
			t.Errorf("a reader that forgets its tenant sees %q in %s, want nothing", got, from)
		}
	}
	_, commit := laneOf(t, db, "later")
	if err := commit(func(c *store.Commit) { c.Writes = someWrites(3, 0) }); err != nil {
		t.Error(err)
	}
}
