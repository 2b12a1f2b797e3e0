package postgres

import (
	"testing"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

func TestTry(t *testing.T) {
	db := openAt(t, pgtest.Database(t), Options{TenantPartitions: 4})
	t.Log(db.TenantPartitions())
	a := one("s")
	a.Events[0].ID = "x"
	mustAppend(t, db, a, one("t"))
	db2 := openTemp(t)
	mustAppend(t, db2, a, one("t"))
	n, err := db2.PartitionByTenant(t.Context(), 4)
	t.Log(n, err)
	mustAppend(t, db2, a, one("t"))
	c := connect(t, db2)
	rows, _ := c.Query(t.Context(), "select tgrelid::regclass::text||' '||tgname from pg_trigger where not tgisinternal order by 1")
	for rows.Next() {
		var s string
		_ = rows.Scan(&s)
		t.Log(s)
	}
}
