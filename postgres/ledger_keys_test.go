package postgres

import (
	"testing"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// A ledger of the version before routing keys keeps its routes, which are bound from then on.
func TestKeysOfAnOldLedger(t *testing.T) {
	url := pgtest.Database(t)
	old, err := prepare(t.Context(), url, Options{Schema: LedgerSchema})
	if err != nil {
		t.Fatal(err)
	}
	old.migrations = ledgerMigrations[:1]
	if err := old.migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	const insert = `INSERT INTO {schema}.routes VALUES ('k', '{"svc":"a"}'), ('l', '{"svc":"b"}')`
	if _, err := old.pool.Exec(t.Context(), old.q(insert)); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLedger(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	// A process of the version before still names routes.
	if _, err := old.pool.Exec(t.Context(), old.q(`INSERT INTO {schema}.routes VALUES ('m', '{"svc":"c"}')`)); err != nil {
		t.Error(err)
	}
	_ = old.Close()
	all, err := l.Routes(t.Context())
	if err != nil || len(all) != 3 || all["k"]["svc"] != "a" {
		t.Errorf("routes %v, %v", all, err)
	}
	keys, err := l.Keys(t.Context(), "log", "svc", nil)
	if err != nil || len(keys) != 3 {
		t.Fatalf("keys %+v, %v", keys, err)
	}
	versions := map[int64]bool{}
	for i, host := range []string{"a", "b", "c"} {
		if k := keys[i]; k.Host != host || !k.Pending(0) || versions[k.Version] {
			t.Errorf("key %+v", k)
		}
		versions[keys[i].Version] = true
	}
}
