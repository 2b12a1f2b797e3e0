// Bank keeps the balance of each account and the history of its transactions,
// from the events of a bank with a branch in each district. Run it with
//
//	go run ./examples/bank -events FILE -balances OUT.csv -running OUT.csv
//
// FILE has events as JSON Lines, plain, .gz or .zst, with the types and payloads
// below. The balances are one row for each account; the running balances are one
// row for each event, in order by account, accounts in order of their opening.
// A balance is the exact sum of the amounts. -db FILE keeps the database.
package main

import (
	"context"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/examples/internal/replay"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/sqlite"
)

var job = replay.Job{
	Name: "bank",
	// A customer at the counter wants to see the balance at once. The history is
	// for statements: it may come a little later, and gives way.
	Processors: []fairlead.Processor{
		fairlead.Project(accounts, fairlead.Options{Freshness: slo.Objective{P99: 100 * time.Millisecond, Max: time.Second}}),
		fairlead.Project(histories, fairlead.Options{Freshness: slo.Objective{P99: time.Second, Max: time.Minute}}),
	},
	Outputs: []replay.Output{
		{Flag: "balances", About: "the balance of each account", Rows: balances,
			Header: []string{"tenant", "stream", "version", "balance_halere", "credits", "credited_halere", "debited_halere", "last_on"}},
		{Flag: "running", About: "the balance after each event", Rows: running,
			Header: []string{"tenant", "stream", "version", "balance_halere"}},
	},
}

func main() { job.Main() }

func balances(ctx context.Context, db *sqlite.DB, put func(...string) error) error {
	return replay.Documents(ctx, db, accounts, func(d fairlead.Document[Account]) error {
		a := d.State
		return put(d.Tenant, d.ID, num(d.Version), num(a.Balance), num(a.Credits), num(a.Credited), num(a.Debited), a.LastOn)
	})
}

func running(ctx context.Context, db *sqlite.DB, put func(...string) error) error {
	var all []fairlead.Document[History]
	err := replay.Documents(ctx, db, histories, func(d fairlead.Document[History]) error {
		all = append(all, d)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b fairlead.Document[History]) int { return int(a.State.Opened - b.State.Opened) })
	for _, d := range all {
		for _, e := range d.State.Entries {
			if err := put(d.Tenant, d.ID, num(e.Version), num(e.Balance)); err != nil {
				return err
			}
		}
	}
	return nil
}

var num = replay.Number
