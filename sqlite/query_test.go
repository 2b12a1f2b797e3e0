package sqlite

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog"
)

func TestQueryReadsAndDoesNotWrite(t *testing.T) {
	db, err := Open(filepath.Join(t.TempDir(), "q.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Append(t.Context(), eventlog.StreamAppend{Tenant: "t", Stream: "s",
		Events: []eventlog.NewEvent{{Type: "a", Data: []byte(`{"n":7}`)}, {Type: "b", Data: []byte(`{"n":8}`)}}})
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	err = db.Query(t.Context(), `SELECT type, json_extract(data, '$.n') FROM log WHERE tenant = ? ORDER BY position`, func(r *Row) error {
		sum = sum*10 + r.Int64(1)
		return nil
	}, "t")
	if err != nil || sum != 78 {
		t.Errorf("sum = %d, %v; want 78", sum, err)
	}
	stop := errors.New("stop")
	if err := db.Query(t.Context(), `SELECT 1`, func(*Row) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the function's error came back as %v", err)
	}
	for _, q := range []string{`CREATE TABLE mine (x)`, `DELETE FROM fairlead_events`, `nonsense`,
		`BEGIN`, `PRAGMA query_only = OFF`, `ATTACH ':memory:' AS m`} {
		if err := db.Query(t.Context(), q, func(*Row) error { return nil }); err == nil {
			t.Errorf("%s: no error", q)
		}
	}
	if head, err := db.Head(t.Context(), 0); head != 2 || err != nil {
		t.Errorf("head = %v, %v; want 2", head, err)
	}
}
