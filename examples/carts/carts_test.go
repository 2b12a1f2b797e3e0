package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/projection/projectiontest"
)

// TestProgram runs the program as a user would, in an empty folder.
func TestProgram(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "output.txt"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "carts")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), program)
	run.Dir = dir
	if got, err := run.Output(); err != nil || string(got) != string(want) {
		t.Errorf("it ended with %v and printed:\n%swant:\n%s", err, got, want)
	}
}

func TestCarts(t *testing.T) {
	projectiontest.For(t, summary("carts")).
		Given("acme", "cart-1", "Opened", Opened{}).
		Given("acme", "cart-1", "Added", Added{2}).
		Expect("acme", "cart-1", Summary{Pending: 1, Products: 2}).
		ExpectNone("bolt", "cart-1").
		Given("acme", "cart-1", "Confirmed", Confirmed{}).
		Expect("acme", "cart-1", Summary{Confirmed: 1, Products: 2})
}

func TestShops(t *testing.T) {
	projectiontest.For(t, summary("shops").By(fairlead.ByTenant)).
		Given("acme", "cart-1", "Opened", Opened{}).
		Given("acme", "cart-2", "Opened", Opened{}).
		Given("acme", "cart-2", "Added", Added{2}).
		Given("acme", "cart-2", "Confirmed", Confirmed{}).
		Given("bolt", "cart-1", "Opened", Opened{}).
		Expect("acme", "acme", Summary{Pending: 1, Confirmed: 1, Products: 2}).
		Expect("bolt", "bolt", Summary{Pending: 1})
}
