package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/brokertest"
)

func TestOutbox(t *testing.T) {
	broker := brokertest.NATS(t)
	db := filepath.Join(t.TempDir(), "shop.db")
	for round := 1; round <= 2; round++ { // the second goes on behind the first
		var out bytes.Buffer
		if err := run(t.Context(), &out, broker.URL, db, 6); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 4*round {
			t.Fatalf("round %d: the first tenant's events are\n%s", round, out.String())
		}
		placed := map[string]int{} // of each order, which has an amount of its own in a round: its events are in order, orders are not
		for _, l := range lines {
			if amount, ok := strings.CutPrefix(l, "OrderPlaced 1 "); ok {
				placed[amount]++
			} else if amount, ok := strings.CutPrefix(l, "OrderPaid 2 "); !ok || placed[amount] == 0 {
				t.Errorf("out of order: %s", l)
			} else {
				placed[amount]--
			}
		}
	}
}
