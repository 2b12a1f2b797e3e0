package cli_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// lanesOf returns the lanes of carts, by tenant.
func lanesOf(t *testing.T, db string) map[string]map[string]any {
	t.Helper()
	lanes := map[string]map[string]any{}
	for _, l := range rows(t, object(t, "lanes", "carts", "--db", db), "lanes") {
		tenant, _ := l["tenant"].(string)
		lanes[tenant] = l
	}
	return lanes
}

func items(t *testing.T, db, tenant, id string) float64 {
	t.Helper()
	r := run(t, nil, "documents", "get", "carts", id, "--tenant", tenant, "--db", db, "--json")
	if r.status != 0 {
		return 0
	}
	return object(t, "documents", "get", "carts", id, "--tenant", tenant, "--db", db)["data"].(map[string]any)["items"].(float64)
}

func waitForItems(t *testing.T, db, tenant, id string, want float64) {
	t.Helper()
	eventually(t, func() string {
		if got := items(t, db, tenant, id); got != want {
			return fmt.Sprintf("document %q of tenant %q has %v items, want %v", id, tenant, got, want)
		}
		return ""
	})
}

func imports(t *testing.T, db string, lines ...string) {
	t.Helper()
	if r := run(t, strings.NewReader(strings.Join(lines, "")), "import", "--db", db, "-q", "-"); r.status != 0 {
		t.Fatal(r.stderr)
	}
}

// TestOperationsBesideAConsumer runs the commands while another process consumes.
func TestOperationsBesideAConsumer(t *testing.T) { onEach(t, testOperationsBesideAConsumer) }

func testOperationsBesideAConsumer(t *testing.T, database makeDatabase) {
	db := database(t, event("acme", "c1", 1, "pen", false), event("zoo", "c1", 1, "pen", false))
	consumer(t, db)
	waitForItems(t, db, "acme", "c1", 1)
	waitForItems(t, db, "zoo", "c1", 1)

	s := object(t, "status", "--db", db)
	procs := rows(t, s, "processors")
	if len(procs) != 2 || procs[0]["name"] != "carts" || procs[0]["state"] != "running" || procs[0]["documents"] != 2.0 ||
		procs[0]["kind"] != "projection" || procs[1]["name"] != "totals" || procs[1]["documents"] != 1.0 {
		t.Errorf("status: got %v", s)
	}
	if m := rows(t, s, "members"); len(m) != 1 || m[0]["alive"] != true {
		t.Errorf("status: members: got %v, want one alive", m)
	}
	if !strings.Contains(ok(t, "status", "--db", db), "carts") {
		t.Error("status for people does not name carts")
	}
	l := lanesOf(t, db)
	for _, field := range []string{"processor", "build", "live", "partition", "state", "pinned", "position", "behind", "lag_seconds", "parked_keys", "owner", "alive", "epoch", "applied_at", "updated_at"} {
		if _, is := l[""][field]; !is {
			t.Errorf("lanes: %q is not in %v", field, l[""])
		}
	}

	// Detached, the tenant has a lane of its own; merged, none.
	if got := object(t, "detach", "carts", "--tenant", "acme", "--db", db); got["done"] != "detached" || got["tenant"] != "acme" {
		t.Errorf("detach: got %v", got)
	}
	l = lanesOf(t, db)
	if l["acme"] == nil || l["acme"]["pinned"] != true {
		t.Fatalf("after detach: lanes: got %v, want a pinned one of acme", l)
	}
	x := rows(t, l[""], "exclusions")
	if len(x) != 1 || x[0]["tenant"] != "acme" || x[0]["until"] != nil {
		t.Errorf("after detach: exclusions: got %v, want acme until further notice", x)
	}
	imports(t, db, event("acme", "c1", 2, "cap", false))
	waitForItems(t, db, "acme", "c1", 2)
	ok(t, "merge", "carts", "--tenant", "acme", "--db", db)
	eventually(t, func() string {
		if l := lanesOf(t, db); len(l) != 1 {
			return fmt.Sprintf("after merge: lanes: got %v, want the base lane", l)
		}
		return ""
	})

	// Paused, a tenant stands still and others do not.
	ok(t, "pause", "carts", "--tenant", "zoo", "--reason", "being moved", "--db", db)
	if l := lanesOf(t, db)["zoo"]; l == nil || l["state"] != "paused" || l["reason"] != "being moved" {
		t.Errorf("after pause: lane of zoo: got %v", l)
	}
	imports(t, db, event("zoo", "c1", 2, "cap", false), event("acme", "c1", 3, "hat", false))
	waitForItems(t, db, "acme", "c1", 3)
	if got := items(t, db, "zoo", "c1"); got != 1 {
		t.Errorf("while paused: zoo has %v items, want 1", got)
	}
	zoo := rows(t, object(t, "tenants", "zoo", "--db", db), "tenants")[0]
	if zoo["behind"] != 1.0 || len(rows(t, zoo, "lanes")) != 1 {
		t.Errorf("while paused: tenant zoo: got %v, want 1 behind, in a lane of its own", zoo)
	}
	ok(t, "resume", "carts", "--tenant", "zoo", "--db", db)
	waitForItems(t, db, "zoo", "c1", 2)

	// The whole processor.
	ok(t, "pause", "carts", "--db", db)
	if got := rows(t, object(t, "status", "--db", db), "processors")[0]["state"]; got != "paused" {
		t.Errorf("after pause of the processor: state %v, want paused", got)
	}
	imports(t, db, event("zoo", "c1", 3, "hat", false))
	ok(t, "resume", "carts", "--db", db)
	waitForItems(t, db, "zoo", "c1", 3)

	ok(t, "weight", "zoo", "2.5", "--db", db)
	w := rows(t, object(t, "weight", "--db", db), "weights")
	if len(w) != 1 || w[0]["tenant"] != "zoo" || w[0]["weight"] != 2.5 {
		t.Errorf("weight: got %v", w)
	}
	all := rows(t, object(t, "tenants", "--db", db), "tenants")
	if len(all) != 2 || all[0]["tenant"] != "acme" || all[0]["weight"] != 1.0 || all[1]["weight"] != 2.5 || all[1]["documents"] != 1.0 {
		t.Errorf("tenants: got %v", all)
	}
	page := object(t, "tenants", "--limit", "1", "--db", db)
	if len(rows(t, page, "tenants")) != 1 || page["next"] != "acme" {
		t.Errorf("tenants: first page: got %v", page)
	}
	page = object(t, "documents", "list", "carts", "--tenant", "zoo", "--limit", "1", "--db", db)
	if len(rows(t, page, "documents")) != 1 || page["next"] != "c1" {
		t.Errorf("documents list: got %v", page)
	}

	// Rebuilt, whole and of one tenant, the documents are what they were.
	for _, args := range [][]string{{}, {"--tenant", "zoo"}} {
		got := object(t, append([]string{"rebuild", "start", "carts", "--wait", "-q", "--db", db}, args...)...)
		if got["done"] != "rebuilt" {
			t.Errorf("rebuild %v: got %v", args, got)
		}
		if a, z := items(t, db, "acme", "c1"), items(t, db, "zoo", "c1"); a != 3 || z != 3 {
			t.Errorf("after rebuild %v: %v and %v items, want 3 and 3", args, a, z)
		}
	}
}

func TestDeadLetters(t *testing.T) { onEach(t, testDeadLetters) }

func testDeadLetters(t *testing.T, database makeDatabase) {
	db := database(t,
		event("acme", "c1", 1, "pen", false), event("acme", "c1", 2, "bad", true), event("acme", "c1", 3, "cap", false),
		event("acme", "c2", 1, "pen", false), event("zoo", "c9", 1, "bad", true), event("zoo", "c9", 2, "cap", false))
	mend := consumer(t, db)
	waitForItems(t, db, "acme", "c2", 1)
	var letters []map[string]any
	eventually(t, func() string {
		letters = rows(t, object(t, "dead-letters", "list", "--processor", "carts", "--db", db), "dead_letters")
		if len(letters) != 4 {
			return fmt.Sprintf("dead letters: got %v, want 4", letters)
		}
		return ""
	})
	first := letters[0]
	if first["state"] != "poison" || first["key"] != "c1" || first["tenant"] != "acme" || first["reason"] != "handler" ||
		!strings.Contains(first["error"].(string), "told to fail") || first["event"].(map[string]any)["version"] != 2.0 || letters[1]["state"] != "waiting" {
		t.Errorf("dead letters: got %v", letters)
	}
	if got := ok(t, "dead-letters", "export", "--db", db, "-q", "--tenant", "zoo"); strings.Count(got, "\n") != 2 {
		t.Errorf("export: got %q, want 2 lines", got)
	}
	if got := items(t, db, "acme", "c1"); got != 1 {
		t.Errorf("parked: %v items, want 1", got)
	}
	if got := rows(t, object(t, "status", "--db", db), "processors")[0]["parked_keys"]; got != 2.0 {
		t.Errorf("status: parked keys: got %v, want 2", got)
	}

	// Skipped: what waited behind is applied, the letter stays recorded.
	skip := rows(t, object(t, "dead-letters", "list", "--tenant", "zoo", "--state", "poison", "--db", db), "dead_letters")
	if len(skip) != 1 {
		t.Fatalf("poison of zoo: got %v, want 1", skip)
	}
	ok(t, "dead-letters", "skip", fmt.Sprint(int64(skip[0]["id"].(float64))), "--db", db)
	waitForItems(t, db, "zoo", "c9", 1)

	// Mended and retried: the key drains in order and flows again.
	if err := os.WriteFile(mend, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := object(t, "dead-letters", "retry", "carts", "--tenant", "acme", "--key", "c1", "--db", db); got["letters"] != 2.0 {
		t.Errorf("retry: got %v, want 2 letters", got)
	}
	waitForItems(t, db, "acme", "c1", 3)
	imports(t, db, event("acme", "c1", 4, "hat", false))
	waitForItems(t, db, "acme", "c1", 4)
	left := rows(t, object(t, "dead-letters", "list", "--db", db), "dead_letters")
	if len(left) != 1 || left[0]["state"] != "skipped" {
		t.Errorf("left: got %v, want the skipped one", left)
	}
}

func TestDropAndRunOnce(t *testing.T) { onEach(t, testDropAndRunOnce) }

func testDropAndRunOnce(t *testing.T, database makeDatabase) {
	db := database(t, event("acme", "c1", 1, "pen", false))
	ok(t, "run", "--once", "--db", db)
	if got := items(t, db, "acme", "c1"); got != 1 {
		t.Errorf("after run --once: %v items, want 1", got)
	}
	if got := rows(t, object(t, "status", "--db", db), "processors")[0]["state"]; got != "unowned" {
		t.Errorf("without a consumer: state %v, want unowned", got)
	}
	ok(t, "drop", "carts", "--yes", "--db", db)
	if r := run(t, nil, "lanes", "carts", "--db", db); r.status != 1 {
		t.Errorf("after drop: got %+v, want no such processor", r)
	}
	ok(t, "run", "--once", "--db", db)
	if got := items(t, db, "acme", "c1"); got != 1 {
		t.Errorf("made anew: %v items, want 1", got)
	}
}

// TestARebuildThatIsCancelled has no consumer: nobody would end the rebuild.
func TestARebuildThatIsCancelled(t *testing.T) { onEach(t, testARebuildThatIsCancelled) }

func testARebuildThatIsCancelled(t *testing.T, database makeDatabase) {
	db := database(t, event("acme", "c1", 1, "pen", false))
	ok(t, "run", "--once", "--db", db)
	cmd := program(t, "rebuild", "start", "carts", "--wait", "--db", db)
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if rows(t, object(t, "status", "--db", db), "processors")[0]["rebuild"] == nil {
			return "no rebuild in status"
		}
		return ""
	})
	ok(t, "rebuild", "cancel", "carts", "--db", db)
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "was cancelled") {
		t.Errorf("the waiting command ended with %v: %s", err, errs.String())
	}
}

// TestReviewOfARebuild compares the new documents before they are served, serves
// them, and goes back.
func TestReviewOfARebuild(t *testing.T) { onEach(t, testReviewOfARebuild) }

func testReviewOfARebuild(t *testing.T, database makeDatabase) {
	db := database(t, event("acme", "c1", 1, "pen", false), event("zoo", "c1", 1, "pen", false))
	consumer(t, db)
	waitForItems(t, db, "zoo", "c1", 1)
	carts := func() map[string]any { return rows(t, object(t, "status", "--db", db), "processors")[0] }
	report := func(args ...string) map[string]any {
		return object(t, append([]string{"rebuild", "report", "carts", "--db", db}, args...)...)
	}

	object(t, "rebuild", "start", "carts", "--review", "--limit", "1000", "--wait", "-q", "--db", db)
	imports(t, db, event("acme", "c1", 2, "cap", false))
	waitForItems(t, db, "acme", "c1", 2)
	eventually(t, func() string { // the new documents follow
		if r := report(); r["equal"] != 2.0 || r["different"] != 0.0 || r["in_motion"] != 0.0 {
			return fmt.Sprint("report: ", r)
		}
		return ""
	})
	if r, ok := carts()["rebuild"].(map[string]any); !ok || r["review"] != true || r["limit"] != 1000.0 || !strings.Contains(fmt.Sprint(r["waits_for"]), "an operator") {
		t.Errorf("status: rebuild %v, want one that waits for an operator", carts()["rebuild"])
	}
	if r := report("--tenant", "zoo"); r["equal"] != 1.0 {
		t.Errorf("report of a tenant: %v", r)
	}
	if text := ok(t, "rebuild", "report", "carts", "--db", db); !strings.Contains(text, "IN MOTION") {
		t.Errorf("report: %s", text)
	}
	ok(t, "rebuild", "limit", "carts", "0", "--db", db)
	ok(t, "rebuild", "switch", "carts", "--db", db)
	kept := func(build float64) func() string {
		return func() string {
			if k, ok := carts()["kept"].(map[string]any); !ok || k["build"] != build {
				return fmt.Sprint("status: kept ", carts()["kept"])
			}
			return ""
		}
	}
	eventually(t, kept(1))
	imports(t, db, event("acme", "c1", 3, "hat", false))
	waitForItems(t, db, "acme", "c1", 3)
	ok(t, "rebuild", "back", "carts", "--db", db)
	eventually(t, kept(2))
	if n := items(t, db, "acme", "c1"); n != 3 {
		t.Errorf("after the way back: %v items, want 3", n)
	}
	ok(t, "rebuild", "forget", "carts", "--db", db)
	if k := carts()["kept"]; k != nil {
		t.Errorf("status: kept %v, want nothing", k)
	}
}
