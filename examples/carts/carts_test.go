package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/projection/projectiontest"
)

func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out strings.Builder
	if err := run(ctx, filepath.Join(t.TempDir(), "carts.db"), &out); err != nil {
		t.Fatal(err)
	}
	const want = `mail: cart-1 of acme is confirmed
acme: cart-1 {Status:confirmed Products:3}, all {Pending:1 Confirmed:1 Products:8}
mail: cart-1 of bolt is confirmed
bolt: cart-1 {Status:confirmed Products:3}, all {Pending:1 Confirmed:1 Products:8}
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestCarts(t *testing.T) {
	projectiontest.For(t, carts).
		Given("acme", "cart-1", "Opened", Opened{}).
		Given("acme", "cart-1", "ProductAdded", ProductAdded{"tea", 2}).
		Expect("acme", "cart-1", Cart{Status: "pending", Products: 2}).
		ExpectNone("bolt", "cart-1").
		Given("acme", "cart-1", "Confirmed", Confirmed{}).
		Expect("acme", "cart-1", Cart{Status: "confirmed", Products: 2})
}

func TestSummaries(t *testing.T) {
	projectiontest.For(t, summaries).
		Given("acme", "cart-1", "Opened", Opened{}).
		Given("acme", "cart-2", "Opened", Opened{}).
		Given("acme", "cart-2", "ProductAdded", ProductAdded{"tea", 2}).
		Given("acme", "cart-2", "Confirmed", Confirmed{}).
		Expect("acme", "all", Summary{Pending: 1, Confirmed: 1, Products: 2})
}
