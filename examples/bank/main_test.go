package main

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fairlead-dev/fairlead/examples/internal/answers"
	"github.com/fairlead-dev/fairlead/projection/projectiontest"
)

// results runs the program on a file of events.
func results(t *testing.T, events string) (balances, running answers.Table) {
	t.Helper()
	dir := t.TempDir()
	b, r := filepath.Join(dir, "balances.csv"), filepath.Join(dir, "running.csv")
	if err := job.Run(t.Context(), []string{"-events", events, "-balances", b, "-running", r}); err != nil {
		t.Fatal(err)
	}
	return answers.Read(t, b), answers.Read(t, r)
}

// some are tenants for a comparison that takes seconds under the race detector
// too.
var some = []string{"district-15", "district-41", "district-55", "district-62"}

// TestKnownBalances compares with the balances that the bank itself stated.
// These were rounded otherwise than the printed amounts: the data set says by
// how much, for each row. With the race detector and -short it compares
// some tenants.
func TestKnownBalances(t *testing.T) {
	dir := answers.Dir(t, "bank-accounts")
	if dir == "" {
		return
	}
	events := filepath.Join(dir, "events.jsonl.gz")
	want := answers.Read(t, filepath.Join(dir, "expected_accounts.csv.gz"))
	wantRunning := answers.Read(t, filepath.Join(dir, "expected_running.csv.gz"))
	if exact := unround(t, &want, "max_abs_rounding_halere"); exact != 286 {
		t.Errorf("%d accounts need no rounding, want 286", exact)
	}
	unround(t, &wantRunning, "rounding_halere")
	if answers.Race || testing.Short() {
		events, want, wantRunning = answers.Of(t, events, some), want.Of(t, some), wantRunning.Of(t, some)
	}
	balances, running := results(t, events)
	answers.Equal(t, "balances", balances, want.Select(t, balances.Header...))
	answers.Equal(t, "running balances", running, wantRunning.Select(t, running.Header...))
}

// unround makes of the bank's balances the sums of the printed amounts, and
// returns how many rows say 0 in column exactly.
func unround(t *testing.T, tb *answers.Table, exactly string) (exact int) {
	t.Helper()
	balance, rounding, zero := tb.Column(t, "balance_halere"), tb.Column(t, "rounding_halere"), tb.Column(t, exactly)
	for _, row := range tb.Rows {
		b, err1 := strconv.ParseInt(row[balance], 10, 64)
		r, err2 := strconv.ParseInt(row[rounding], 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("row %q: %v, %v", row, err1, err2)
		}
		if row[zero] == "0" {
			exact++
		}
		row[balance] = strconv.FormatInt(b-r, 10)
	}
	return exact
}

const madeUp = `{"tenant":"north","stream":"account-2","version":1,"type":"CashDeposited","occurred_at":"2026-01-02T00:00:00Z","data":{"transaction":1,"amount_halere":10000}}
{"tenant":"south","stream":"account-2","version":1,"type":"TransferReceived","occurred_at":"2026-01-02T00:00:00Z","data":{"transaction":2,"amount_halere":5,"partner_bank":"AB","partner_account":"7"}}
{"tenant":"north","stream":"account-1","version":1,"type":"CashDeposited","occurred_at":"2026-01-03T00:00:00Z","data":{"transaction":3,"amount_halere":300}}
{"tenant":"north","stream":"account-2","version":2,"type":"CashWithdrawn","occurred_at":"2026-01-03T00:00:00Z","data":{"transaction":4,"amount_halere":12000}}
{"tenant":"north","stream":"account-2","version":3,"type":"PenaltyCharged","occurred_at":"2026-01-04T00:00:00Z","data":{"transaction":5,"amount_halere":1,"purpose":"penalty_interest"}}
{"tenant":"north","stream":"account-2","version":4,"type":"InterestCredited","occurred_at":"2026-01-05T00:00:00Z","data":{"transaction":6,"amount_halere":0}}
`

func TestMadeUpBalances(t *testing.T) {
	balances, running := results(t, answers.File(t, "events.jsonl", madeUp))
	answers.Equal(t, "balances", balances, answers.Table{Header: balances.Header, Rows: [][]string{
		{"north", "account-1", "1", "300", "1", "300", "0", "2026-01-03"},
		{"north", "account-2", "4", "-2001", "2", "10000", "12001", "2026-01-05"},
		{"south", "account-2", "1", "5", "1", "5", "0", "2026-01-02"},
	}})
	answers.Equal(t, "running balances", running, answers.Table{Header: running.Header, Rows: [][]string{
		{"north", "account-2", "1", "10000"},
		{"north", "account-2", "2", "-2000"},
		{"north", "account-2", "3", "-2001"},
		{"north", "account-2", "4", "-2001"},
		{"south", "account-2", "1", "5"},
		{"north", "account-1", "1", "300"},
	}})
}

// TestWrongEvents shows that the program gives no half answers.
func TestWrongEvents(t *testing.T) {
	for name, text := range map[string]string{
		"a negative amount": `{"tenant":"north","stream":"a","version":1,"type":"CashDeposited","occurred_at":"2026-01-02T00:00:00Z","data":{"transaction":1,"amount_halere":-1}}`,
		"malformed":         `{"tenant":`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := job.Run(t.Context(), []string{"-events", answers.File(t, "events.jsonl", text+"\n")}); err == nil {
				t.Error("Run = nil, want an error")
			} else {
				t.Log(err)
			}
		})
	}
}

func TestHistories(t *testing.T) {
	projectiontest.For(t, histories).
		Given("north", "a", "CashDeposited", Transaction{Number: 1, Amount: 100}).
		Given("north", "a", "TransferSent", Transaction{Number: 2, Amount: 30, Bank: "AB", Account: "7"}).
		Given("north", "a", "FeeCharged", Transaction{Number: 3, Amount: -30}).ExpectError("handler").
		Expect("north", "a", History{Opened: 1, Entries: []Entry{
			{Version: 1, On: "2000-01-01", Type: "CashDeposited", Transaction: 1, Amount: 100, Balance: 100},
			{Version: 2, On: "2000-01-01", Type: "TransferSent", Transaction: 2, Amount: -30, Balance: 70, Partner: "7/AB"},
		}})
}
