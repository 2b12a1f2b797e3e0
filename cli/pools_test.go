package cli_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestPools gives a tenant to a pool and takes it back, beside consumers.
func TestPools(t *testing.T) { onEach(t, testPools) }

func testPools(t *testing.T, database makeDatabase) {
	db := database(t, event("acme", "c1", 1, "pen", false), event("zoo", "c1", 1, "pen", false))
	consumer(t, db, "--name", "shared")
	waitForItems(t, db, "acme", "c1", 1)

	if r := run(t, nil, "pool", "set", "acmee", "gold", "--db", db); r.status == 0 || !strings.Contains(r.stderr, "--unseen") {
		t.Errorf("pool set of an unknown tenant: %+v", r)
	}
	says := ok(t, "pool", "set", "acme", "gold", "--db", db)
	for _, want := range []string{`"gold"`, "stay shared: totals", "--pool gold"} {
		if !strings.Contains(says, want) {
			t.Errorf("pool set says %q, want %q in it", says, want)
		}
	}
	// Nobody of the pool runs: the tenant waits, and status says so.
	eventually(t, func() string {
		carts := rows(t, object(t, "status", "--db", db), "processors")[0]
		if why := fmt.Sprint(carts["unserved"]); carts["unowned_lanes"] != 1.0 || !strings.Contains(why, `"acme"`) || !strings.Contains(why, `pool "gold"`) {
			return fmt.Sprintf("status: got %v, want one lane unserved by pool gold", carts)
		}
		return ""
	})
	if people := ok(t, "status", "--db", db); !strings.Contains(people, "no process of pool") {
		t.Errorf("status for people does not say who is missing:\n%s", people)
	}
	imports(t, db, event("acme", "c1", 2, "cap", false), event("zoo", "c1", 2, "cap", false))
	waitForItems(t, db, "zoo", "c1", 2)
	if got := items(t, db, "acme", "c1"); got != 1 {
		t.Errorf("without a process of its pool acme has %v items, want 1", got)
	}
	ok(t, "run", "--once", "--db", db) // waits for no pool

	consumer(t, db, "--name", "special", "--pool", "gold")
	waitForItems(t, db, "acme", "c1", 2)
	if l := lanesOf(t, db)["acme"]; l["pool"] != "gold" || !strings.HasPrefix(fmt.Sprint(l["owner"]), "special/") || l["unserved"] != nil {
		t.Errorf("lane of acme: got %v, want it with special", l)
	}
	if l := lanesOf(t, db)[""]; !strings.HasPrefix(fmt.Sprint(l["owner"]), "shared/") {
		t.Errorf("base lane: got %v, want it with shared", l)
	}
	pools := rows(t, object(t, "pool", "list", "--db", db), "pools")
	if len(pools) != 1 || pools[0]["pool"] != "gold" || fmt.Sprint(pools[0]["tenants"]) != "[acme]" || !strings.Contains(fmt.Sprint(pools[0]["members"]), "special/") {
		t.Errorf("pool list: got %v", pools)
	}
	if !strings.Contains(ok(t, "pool", "list", "--db", db), "special/") {
		t.Error("pool list for people does not name its process")
	}
	if acme := rows(t, object(t, "tenants", "acme", "--db", db), "tenants")[0]; acme["pool"] != "gold" {
		t.Errorf("tenants: got %v", acme)
	}
	if r := run(t, nil, "merge", "carts", "--tenant", "acme", "--db", db); r.status == 0 || !strings.Contains(r.stderr, "clear its pool") {
		t.Errorf("merge of a tenant in a pool: %+v", r)
	}

	ok(t, "pool", "clear", "acme", "--db", db)
	eventually(t, func() string {
		if l := lanesOf(t, db); len(l) != 1 {
			return fmt.Sprintf("after pool clear: lanes: got %v, want the base lane", l)
		}
		return ""
	})
	imports(t, db, event("acme", "c1", 3, "hat", false))
	waitForItems(t, db, "acme", "c1", 3)
	if r := run(t, nil, "pool", "clear", "acme", "--db", db); r.status == 0 || !strings.Contains(r.stderr, "no pool") {
		t.Errorf("pool clear of a tenant in none: %+v", r)
	}
}
