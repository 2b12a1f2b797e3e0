package sqlite

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// TestMigrateClasses: what a file has from before there were classes is of the
// default one, events and dead letters, and new ones have theirs.
func TestMigrateClasses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	i := slices.IndexFunc(migrations, func(m migration) bool { return m.name == "traffic classes" })
	old, err := open(path, migrations[:i])
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	sql(t, path, "INSERT INTO fairlead_tenants VALUES(1, 'a')")
	sql(t, path, "INSERT INTO fairlead_types VALUES(1, 'T')")
	sql(t, path, "INSERT INTO fairlead_streams VALUES(1, 1, 's', 0)")
	sql(t, path, `INSERT INTO fairlead_events(position, tenant_no, stream_no, version, type_no, occurred_at, recorded_at, data)
		VALUES(1, 1, 1, 1, 1, 1, 1, '{}'), (2, 1, 1, 2, 1, 2, 2, '{}')`)
	sql(t, path, `INSERT INTO fairlead_dead_letters(processor, number, partition, tenant, key, state, retry, reason, error, attempts,
			position, event_id, event_tenant, stream, version, type, withheld)
		VALUES('p', 1, 0, 'a', 's', 'poison', 0, 'handler', 'boom', 1, 1, 'x', 'a', 's', 1, 'T', 0)`)

	db := openAt(t, path)
	a := one("a", "s", 2)
	a.Events[1].Class = "test"
	mustAppend(t, db, a)
	var got []string
	for _, e := range checkLog(t, db) {
		got = append(got, e.Class)
	}
	if want := []string{"", "", "", "test"}; !slices.Equal(got, want) {
		t.Errorf("classes %q, want %q", got, want)
	}
	for class, want := range map[string]int{"": 3, "test": 1} {
		f := eventlog.Filter{Classes: []string{class}}
		page, err := db.Read(t.Context(), eventlog.ReadRequest{Filter: f})
		if err != nil || len(page.Events) != want {
			t.Errorf("class %q: %d events, %v, want %d", class, len(page.Events), err, want)
		}
	}
	if got := sql(t, path, "SELECT group_concat(class, ',') FROM log"); got[0] != ",,,test" {
		t.Errorf("classes in the view log: %q", got)
	}
	if err := db.View(t.Context(), func(tx store.Tx) error {
		letters, err := tx.Letters(store.LetterFilter{})
		if len(letters) != 1 || letters[0].Event.Class != "" || letters[0].Event.ID != "x" {
			t.Errorf("dead letters %+v, want the one from before, of the default class", letters)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestClassIndex: the index has the events of other classes than the default one
// only, and all filters by rare classes go by it.
func TestClassIndex(t *testing.T) {
	db := openTemp(t)
	for i := range 300 {
		a := one("a", fmt.Sprint("s", i%7), 10)
		if i%100 == 50 {
			a.Events[3].Class = "test"
		}
		mustAppend(t, db, a)
	}
	entries := sql(t, db.path, "SELECT sum(ncell) FROM dbstat WHERE name = 'fairlead_events_by_class'")
	if entries[0] != "3" {
		t.Errorf("the index of classes has %s entries, want 3", entries[0])
	}
	page, err := db.Read(t.Context(), eventlog.ReadRequest{Filter: eventlog.Filter{Classes: []string{"test"}}})
	if err != nil || len(page.Events) != 3 || page.Next != page.Head {
		t.Errorf("one page has %d events, %v, next %v of %v, want all 3", len(page.Events), err, page.Next, page.Head)
	}
}

// TestClassBehindPayload: the class of an event with a large payload, which stands
// in front of it in its row, comes with the event, and with one whose payload is
// withheld.
func TestClassBehindPayload(t *testing.T) {
	db := openTemp(t)
	a := one("a", "s", 2)
	for i := range a.Events {
		a.Events[i].Data = []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	}
	a.Events[1].Class = "test"
	mustAppend(t, db, a)
	for _, limit := range []int{0, 100} {
		page, err := db.Read(t.Context(), eventlog.ReadRequest{MaxEventBytes: limit, After: event.Beginning})
		if err != nil || len(page.Events) != 2 || page.Events[0].Class != "" || page.Events[1].Class != "test" || (limit > 0) != (page.Events[1].Withheld > 0) {
			t.Errorf("MaxEventBytes %d: %d events, %v, want two, the second of class test", limit, len(page.Events), err)
		}
	}
}
