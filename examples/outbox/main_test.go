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
		if len(lines) != 4*round || lines[0] != `OrderPlaced 1 {"amount":10}` {
			t.Fatalf("round %d: the first tenant's events are\n%s", round, out.String())
		}
		placed := 0
		for _, l := range lines {
			if strings.HasPrefix(l, "OrderPlaced 1") {
				placed++
			} else if placed--; !strings.HasPrefix(l, "OrderPaid 2") || placed < 0 {
				t.Errorf("out of order: %s", l)
			}
		}
	}
}
