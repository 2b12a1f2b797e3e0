package main

import (
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// TestRun has Emmett append twice, and the read model follow: what it says of each
// cart is what Emmett said when it appended.
func TestRun(t *testing.T) {
	dir, url := pgtest.NPM(t, "bench/peers/emmett"), pgtest.Database(t)
	file := filepath.Join(t.TempDir(), "carts.db")
	want := map[string]int{}
	for range 2 {
		cmd := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "append.mjs"), url, `{"events":1000,"streams":50}`)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("append.mjs: %v\n%s", err, out)
		}
		var account struct{ Versions map[string]int }
		if err := json.Unmarshal(out, &account); err != nil {
			t.Fatal(err)
		}
		// each event adds one product
		maps.Copy(want, account.Versions)
		if err := run(t.Context(), url, file); err != nil {
			t.Fatal(err)
		}
		db, err := sqlite.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		products := 0
		for stream, n := range want {
			tenant, _, _ := strings.Cut(strings.TrimPrefix(stream, "cart-"), ":")
			doc, err := fairlead.Get(t.Context(), db, carts(), tenant, stream)
			if err != nil || doc.State.Products != n || doc.Version != int64(n) {
				t.Errorf("cart %s is %+v, %v, want %d products", stream, doc, err, n)
			}
			products += n
		}
		if len(want) < 40 || products < 1000 {
			t.Errorf("%d products in %d carts, want 1,000 in about 50", products, len(want))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
