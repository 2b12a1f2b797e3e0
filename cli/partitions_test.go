package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
)

// TestPartitions splits and merges while another process consumes.
func TestPartitions(t *testing.T) { onEach(t, testPartitions) }

func testPartitions(t *testing.T, database makeDatabase) {
	var lines []string
	for i := range 20 {
		lines = append(lines, event("acme", fmt.Sprint("c", i), 1, "pen", false))
	}
	db := database(t, lines...)
	consumer(t, db)
	waitForItems(t, db, "acme", "c19", 1)
	parts := func(want string) {
		t.Helper()
		eventually(t, func() string {
			var got []string
			for _, r := range rows(t, object(t, "partitions", "list", "carts", "--db", db), "partitions") {
				p := fmt.Sprintf("%v/%v", r["partition"], r["of"])
				if r["want"] != nil {
					p += "!"
				}
				got = append(got, p)
			}
			if s := strings.Join(got, " "); s != want {
				return fmt.Sprintf("carts has the partitions %s, want %s", s, want)
			}
			return ""
		})
	}
	parts("0/1")
	if got := object(t, "partitions", "split", "carts", "--db", db); got["done"] != "splitting" || got["processor"] != "carts" {
		t.Errorf("split: got %v", got)
	}
	parts("0/2 1/2")
	if got := object(t, "partitions", "split", "carts", "1", "--db", db); got["partition"] != 1.0 {
		t.Errorf("split of one: got %v", got)
	}
	parts("0/2 1/4 3/4")
	for _, want := range []string{"carts/0 of 2", "carts/3 of 4"} {
		if out := ok(t, "lanes", "carts", "--db", db); !strings.Contains(out, want) {
			t.Errorf("lanes does not name %s:\n%s", want, out)
		}
	}
	if p := rows(t, object(t, "status", "--db", db), "processors")[0]; p["partitions"] != 3.0 || p["state"] != "running" {
		t.Errorf("status: got %v, want 3 partitions", p)
	}
	for i := range 20 {
		imports(t, db, event("acme", fmt.Sprint("c", i), 2, "ink", false))
	}
	for i := range 20 {
		waitForItems(t, db, "acme", fmt.Sprint("c", i), 2)
	}

	// A tenant outside is waited for, and an operator is told so.
	ok(t, "partitions", "merge", "carts", "3", "--db", db)
	parts("0/2 1/2")
	ok(t, "detach", "carts", "--tenant", "acme", "--db", db)
	if r := run(t, nil, "partitions", "merge", "carts", "1", "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, "pinned") {
		t.Errorf("merge with a pinned tenant: %d, %s", r.status, r.stderr)
	}
	ok(t, "merge", "carts", "--tenant", "acme", "--db", db)
	ok(t, "partitions", "merge", "carts", "1", "--db", db)
	parts("0/1")
	for i := range 20 {
		waitForItems(t, db, "acme", fmt.Sprint("c", i), 2)
	}

	// Totals cannot be split: the lane says why.
	ok(t, "partitions", "split", "totals", "--db", db)
	eventually(t, func() string {
		if out := ok(t, "partitions", "list", "totals", "--db", db); !strings.Contains(out, "PartitionBy") {
			return "partitions list does not say why totals is not split:\n" + out
		}
		return ""
	})
}

func TestPartitionsWait(t *testing.T) {
	db := database(t, event("acme", "c1", 1, "pen", false))
	ok(t, "run", "--once", "--db", db)
	ok(t, "partitions", "split", "carts", "--db", db) // nobody runs
	if out := ok(t, "partitions", "list", "carts", "--db", db); !strings.Contains(out, "0 of 1") || !strings.Contains(out, "split") {
		t.Errorf("partitions list:\n%s", out)
	}
	if got := object(t, "partitions", "cancel", "carts", "--db", db); got["partitions"] != 1.0 {
		t.Errorf("cancel: got %v", got)
	}
	if out := ok(t, "partitions", "list", "carts", "--db", db); strings.Contains(out, "split") {
		t.Errorf("partitions list after cancel:\n%s", out)
	}
	for _, tt := range []struct {
		args   string
		status int
		says   string
	}{
		{"split carts x", cli.Misuse, "no number"},
		{"split carts 7", cli.Failed, "has no partition 7"},
		{"merge carts 0", cli.Failed, "no half of another"},
		{"merge carts", cli.Misuse, "too few"},
		{"split karts", cli.Failed, `no processor "karts"`},
		{"list karts", cli.Failed, `no processor "karts"`},
	} {
		if r := run(t, nil, append(append([]string{"partitions"}, strings.Fields(tt.args)...), "--db", db)...); r.status != tt.status || !strings.Contains(r.stderr, tt.says) {
			t.Errorf("partitions %s: %d, %q, want %d and %q", tt.args, r.status, r.stderr, tt.status, tt.says)
		}
	}
}
