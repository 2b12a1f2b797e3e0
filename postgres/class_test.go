package postgres

import (
	"database/sql"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
)

// TestClassesOfAnOldLog: what a database has from before there were classes is of
// the default one, and so is what a program of before still appends.
func TestClassesOfAnOldLog(t *testing.T) {
	url := pgtest.Database(t)
	n := slices.IndexFunc(migrations, func(m migration) bool { return m.name == "classes" })
	before, err := open(t.Context(), url, migrations[:n])
	if err != nil {
		t.Fatal(err)
	}
	// What programs of before call: the first, and the last one.
	const first = `SELECT o_position FROM fairlead.append(ARRAY['t'], ARRAY[$1::text], ARRAY[1], ARRAY[NULL::bigint], ARRAY[1], ARRAY[false],
		ARRAY['T'], ARRAY[NULL::timestamptz], ARRAY[NULL::text], ARRAY[NULL::bigint], ARRAY[NULL::text], ARRAY['{}'], ARRAY[NULL::bytea])`
	const last = `SELECT o_position FROM fairlead.append(ARRAY['t'], ARRAY[$1::text], ARRAY[7::bigint], ARRAY[8::bigint], ARRAY[1], ARRAY[NULL::bigint], ARRAY[1], ARRAY[false],
		ARRAY['T'], ARRAY[NULL::timestamptz], ARRAY[NULL::text], ARRAY[NULL::bigint], ARRAY[NULL::text], ARRAY['{}'], ARRAY[NULL::bytea])`
	const find = `SELECT cardinality(positions) FROM fairlead.find(NULL, NULL, NULL, ARRAY['T'], 0, 1000, 1000, 1000)`
	letter := func(key string) {
		exec(t, before.pool, `INSERT INTO fairlead.dead_letters (processor, number, partition, tenant, key, state, retry, reason, error, attempts,
				position, event_id, event_tenant, stream, version, type, withheld)
			VALUES ('p', 1, 0, 't', $1::text::bytea, 'poison', false, 'handler', '', 1, 1, 'x', 't', 's', 1, 'T', 0)`, key)
	}
	exec(t, before.pool, first, "s")
	exec(t, before.pool, last, "s")
	letter("before")
	db := openAt(t, url)
	exec(t, before.pool, first, "s")
	exec(t, before.pool, last, "s")
	letter("while it was brought up to date")
	if got := value[int](t, before.pool, find); got != 4 {
		t.Errorf("a program of before finds %d events, want 4", got)
	}
	if got := value[int](t, before.pool, "SELECT count(*) FROM fairlead.events WHERE tenant_hash = 7 AND stream_hash = 8"); got != 2 {
		t.Errorf("%d events have the hashes that a program of before gave them, want 2", got)
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	a := one("s")
	a.Tenant = "t"
	a.Events = append(a.Events, eventlog.NewEvent{Type: "T", Class: "test"})
	mustAppend(t, db, a)
	var got []string
	for _, e := range readAllEvents(t, db, eventlog.Filter{}) {
		got = append(got, e.Class)
	}
	if want := []string{"", "", "", "", "", "test"}; !slices.Equal(got, want) {
		t.Errorf("classes %q, want %q", got, want)
	}
	for class, want := range map[string]int{"": 5, "test": 1} {
		if got := readAllEvents(t, db, eventlog.Filter{Classes: []string{class}}); len(got) != want {
			t.Errorf("class %q: %d events, want %d", class, len(got), want)
		}
	}
	if err := db.View(t.Context(), func(tx store.Tx) error {
		letters, err := tx.Letters(store.LetterFilter{})
		if len(letters) != 2 || letters[0].Event.Class != "" || letters[1].Event.Class != "" {
			t.Errorf("dead letters %+v, want two of the default class", letters)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	exec(t, db.pool, "UPDATE fairlead.dead_letters SET class = 'test'")
	if got := value[string](t, db.pool, "SELECT DISTINCT class FROM fairlead.letters"); got != "test" {
		t.Errorf("class in the view letters: %q, want test", got)
	}
}

// TestClassInTransactions: both ways to append inside the caller's transaction
// store each event's class, whatever it is called.
func TestClassInTransactions(t *testing.T) {
	db := openTemp(t)
	classes := []string{"", "test", `a"b\c{,}`, "NULL", "", "'; --"}
	appends := func(stream string) (as []eventlog.StreamAppend) {
		for i, c := range classes {
			as = append(as, eventlog.StreamAppend{Tenant: "a", Stream: fmt.Sprint(stream, i%2), Events: []eventlog.NewEvent{{Type: "T", Class: c}}})
		}
		return as
	}
	tx, err := connect(t, db).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.AppendTx(t.Context(), tx, appends("pgx")...); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool, err := sql.Open("pgx", db.pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	stx, err := pool.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.AppendSQL(t.Context(), stx, appends("sql")...); err != nil {
		t.Fatal(err)
	}
	if err := stx.Commit(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range readAllEvents(t, db, eventlog.Filter{}) {
		got = append(got, e.Class)
	}
	if want := append(classes, classes...); !slices.Equal(got, want) {
		t.Errorf("classes %q, want %q", got, want)
	}
}

// TestFindsAFewClasses: the few events of other classes in a log of production's are
// found by their index, which has no others: how many those are does not matter.
func TestFindsAFewClasses(t *testing.T) {
	db := openTemp(t)
	c := connect(t, db)
	blocks := func(find string) int {
		rows := explain(t, c, "(ANALYZE, BUFFERS, COSTS off, TIMING off) "+db.q(find))
		n := 0
		// Of the outermost node; planning has none of the function's own.
		if m := regexp.MustCompile(`Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?`).FindStringSubmatch(rows); m != nil {
			for _, s := range m[1:] {
				i, _ := strconv.Atoi(s)
				n += i
			}
		}
		if n == 0 {
			t.Fatalf("no buffers in %s", rows)
		}
		return n
	}
	test := func(stream string) {
		mustAppend(t, db, eventlog.StreamAppend{Tenant: "t1", Stream: stream, Events: []eventlog.NewEvent{{Type: "T", Class: "test"}}})
	}
	test("first")
	fillLog(t, db, 40_000)
	test("middle")
	fillLog(t, db, 40_000)
	test("last")
	if _, err := db.Head(t.Context(), 0); err != nil { // a page ends where the head is not known yet
		t.Fatal(err)
	}
	page, err := db.Read(t.Context(), eventlog.ReadRequest{Filter: eventlog.Filter{Classes: []string{"test"}}})
	if err != nil || len(page.Events) != 3 || page.Next < page.Head {
		t.Errorf("the first page has %d events, %v, and ends at %v of %v, want all 3 events", len(page.Events), err, page.Next, page.Head)
	}
	if size := value[int](t, db.pool, db.q("SELECT pg_relation_size('{schema}.events_class')")); size > 16<<10 {
		t.Errorf("the index of classes has %d bytes, want two pages at most: it has events of the default class", size)
	}
	for name, find := range map[string]string{
		"a class":             "SELECT cardinality(positions) FROM {schema}.find(NULL, NULL, NULL, NULL, ARRAY['test'], 0, 80003, 1000, 16384)",
		"of a tenant":         "SELECT cardinality(positions) FROM {schema}.find(ARRAY['t1'], NULL, NULL, NULL, ARRAY['test'], 0, 80003, 1000, 16384)",
		"of a type":           "SELECT cardinality(positions) FROM {schema}.find(NULL, NULL, NULL, ARRAY['T'], ARRAY['test', 'load'], 0, 80003, 1000, 16384)",
		"none that there are": "SELECT cardinality(positions) FROM {schema}.find(NULL, NULL, NULL, NULL, ARRAY['none'], 0, 80003, 1000, 16384)",
	} {
		blocks(find) // which looks at the catalogue, and makes the plans
		if got := blocks(find); got > 300 {
			t.Errorf("%s: %d blocks were looked at, want a few: the table has %d", name, got,
				value[int](t, db.pool, db.q("SELECT pg_relation_size('{schema}.events') / 8192")))
		}
	}
}
