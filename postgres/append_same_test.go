package postgres

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
)

// TestAppendIsAsBefore: whatever is appended, the newest function append says and does what that of
// 0009 does.
func TestAppendIsAsBefore(t *testing.T) {
	db, was := openTemp(t), openTemp(t)
	source, err := os.ReadFile("migrations/0009_classes.sql")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(source), "CREATE FUNCTION {schema}.append(")
	text, _, _ = strings.Cut(text, "END $$;")
	exec(t, was.pool, was.q("CREATE OR REPLACE FUNCTION {schema}.append("+text+"END $$;"))
	random := rand.New(rand.NewPCG(5, 6))
	said := map[string]int{}
	version := map[string]int64{}
	streamNo, fixed := 0, 0
	for round := range 1500 {
		if round%20 == 0 {
			streamNo += 2 // new streams, beside some that are there
		}
		if round%100 == 99 {
			d := fmt.Sprintf("DELETE FROM {schema}.events WHERE position <= %d", round/2)
			exec(t, db.pool, db.q(d))
			exec(t, was.pool, was.q(d))
		}
		var as []eventlog.StreamAppend
		for range 1 + random.IntN(5) {
			stream := fmt.Sprint("s", max(0, streamNo-random.IntN(8)))
			if len(as) > 0 && random.IntN(6) == 0 {
				stream = as[0].Stream
			}
			a := eventlog.StreamAppend{Tenant: fmt.Sprint("t", random.IntN(2)), Stream: stream}
			now := version[a.Tenant+"/"+stream]
			if random.IntN(3) == 0 {
				a.Expected = eventlog.ExactVersion(max(0, now+int64(random.IntN(8)/7)))
			}
			kind := random.IntN(12)
			for i := range 1 + random.IntN(3) {
				e := eventlog.NewEvent{Type: fmt.Sprint("e", round), Data: []byte(`{}`)}
				switch kind {
				case 0, 1: // an id that may be known
					e.ID = fmt.Sprint("id", random.IntN(400))
				case 2: // its own
					e.ID = event.DerivedID(a.Tenant, stream, max(1, now+int64(i)+int64(random.IntN(3))-1))
				case 3, 4:
					fixed++
					e.ID = fmt.Sprint("new", fixed)
				}
				if random.IntN(5) == 0 {
					e.Class = "load"
				}
				a.Events = append(a.Events, e)
			}
			as = append(as, a)
		}
		got, err := db.Append(t.Context(), as...)
		want, wantErr := was.Append(t.Context(), as...)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: %v %v, was %v %v, of %+v", round, got, err, want, wantErr, as)
		}
		said[fmt.Sprintf("%T", err)]++
		rows, _ := db.pool.Query(t.Context(), db.q("SELECT tenant || '/' || stream, version FROM {schema}.streams"))
		var key string
		var v int64
		if _, err := pgx.ForEachRow(rows, []any{&key, &v}, func() error { version[key] = v; return nil }); err != nil {
			t.Fatal(err)
		}
		if round%50 != 0 && round < 1490 {
			continue
		}
		for _, q := range []string{
			"SELECT concat_ws('|', position, tenant, stream, version, type, class, coalesce(id, '-'), data, tenant_hash, stream_hash) FROM {schema}.events ORDER BY position",
			"SELECT concat_ws('|', tenant, stream, version, floor) FROM {schema}.streams ORDER BY tenant, stream",
		} {
			rows, _ := db.pool.Query(t.Context(), db.q(q))
			a, err := pgx.CollectRows(rows, pgx.RowTo[string])
			rows, _ = was.pool.Query(t.Context(), was.q(q))
			b, err2 := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil || err2 != nil || !slices.Equal(a, b) {
				t.Fatalf("round %d: %v %v, %d rows and %d differ: %s", round, err, err2, len(a), len(b), q)
			}
		}
	}
	t.Log(said)
}
