package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

// Both arms of catchup-postgres come to what the plain fold comes to, and a
// document that is another one is found.
func TestCartsAreCompared(t *testing.T) {
	ctx := t.Context()
	b := &bench{report: &report{out: &bytes.Buffer{}, log: &bytes.Buffer{}}, postgres: pgtest.URL(t)}
	s, err := b.postgresServer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	events, want := cartEvents(3000, 200)
	if folded := foldCarts(events); len(folded) != len(want) || folded[store.Key{Tenant: "shop-07", ID: "cart-000007"}] != want[store.Key{Tenant: "shop-07", ID: "cart-000007"}] {
		t.Fatalf("the events come to %d carts, want %d", len(folded), len(want))
	}
	url, err := s.fillCarts(ctx, events)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.drop(ctx, url); err != nil {
			t.Error(err)
		}
	}()
	if _, err := pgLoop(ctx, url, 700, true); err != nil {
		t.Fatal(err)
	}
	db, err := postgres.Open(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var tenants []string
	if _, err := catchUpOn(ctx, db, catchupMemory, tenants, fairlead.Project(carts)); err != nil {
		t.Fatal(err)
	}
	compare := map[string]func() error{
		"loop":   func() error { return comparePGLoop(ctx, url, want) },
		"engine": func() error { return compareCarts(ctx, db, want) },
	}
	for name, f := range compare {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	k := store.Key{Tenant: "shop-03", ID: "cart-000003"}
	other := want[k]
	other.Items++
	want[k] = other
	for name, f := range compare {
		if err := f(); err == nil || !strings.Contains(err.Error(), "wrong result") {
			t.Errorf("%s: another document: got %v, want a wrong result", name, err)
		}
	}
	delete(want, k)
	want[store.Key{Tenant: "shop-03", ID: "cart-none"}] = other
	for name, f := range compare {
		if err := f(); err == nil || !strings.Contains(err.Error(), "wrong result") {
			t.Errorf("%s: a document that is not there: got %v, want a wrong result", name, err)
		}
	}
}
