package sqlite

import (
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A ledger of the version before routing keys keeps its routes, which are bound from then on.
func TestKeysOfAnOldLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	old, err := open(path, ledgerMigrations[:1])
	if err != nil {
		t.Fatal(err)
	}
	err = old.write(t.Context(), "test", func(w *writer) error {
		return w.exec(`INSERT INTO fairlead_routes VALUES('k', '{"svc":"a"}'), ('l', '{"svc":"b"}')`)
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = old.Close()
	l, err := OpenLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	all, err := l.Routes(t.Context())
	if err != nil || len(all) != 2 || all["k"]["svc"] != "a" || all["l"]["svc"] != "b" {
		t.Errorf("routes %v, %v", all, err)
	}
	versions := map[int64]bool{}
	check := func(wantHost string) *ledger.Key {
		t.Helper()
		keys, err := l.Keys(t.Context(), "log", "svc", []string{"k"})
		if err != nil || len(keys) != 1 || keys[0].Host != wantHost || !keys[0].Pending(0) || versions[keys[0].Version] {
			t.Fatalf("key %+v, %v", keys, err)
		}
		versions[keys[0].Version] = true
		return &keys[0]
	}
	if err := l.Bind(t.Context(), "log", "svc", check("a"), 0, 5); err != nil {
		t.Fatal(err)
	}
	if err := l.PutRoute(t.Context(), "k", map[string]string{"svc": "b"}); err != nil {
		t.Fatal(err)
	}
	k := check("b")
	if got := string(k.At(0, event.Position(6))); got != "a" {
		t.Errorf("position 6 is %q's", got)
	}
}
