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
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/examples/internal/replay"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// A customer at the counter wants to see the balance at once. The history is
// for statements: it may come a little later, and gives way.
var processors = []fairlead.Processor{
	fairlead.Project(accounts, fairlead.Options{Freshness: slo.Objective{P99: 100 * time.Millisecond, Max: time.Second}}),
	fairlead.Project(histories, fairlead.Options{Freshness: slo.Objective{P99: time.Second, Max: time.Minute}}),
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal("bank: ", err)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bank", flag.ContinueOnError)
	job := replay.Job{Processors: processors, Log: os.Stderr}
	flags.StringVar(&job.Events, "events", "", "`file` of events; needed")
	flags.StringVar(&job.DB, "db", "", "database `file`; default: a temporary one")
	balances := flags.String("balances", "", "write the balance of each account to this CSV `file`")
	running := flags.String("running", "", "write the balance after each event to this CSV `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if job.Events == "" {
		return fmt.Errorf("-events is needed: %v", flags.Args())
	}
	return job.Run(ctx, func(db *sqlite.DB) error {
		if err := writeBalances(ctx, db, *balances); err != nil {
			return err
		}
		return writeRunning(ctx, db, *running)
	})
}

func writeBalances(ctx context.Context, db *sqlite.DB, path string) error {
	header := []string{"tenant", "stream", "version", "balance_halere", "credits", "credited_halere", "debited_halere", "last_on"}
	return replay.WriteCSV(path, header, func(put func(...string) error) error {
		return replay.Documents(ctx, db, accounts, func(d fairlead.Document[Account]) error {
			a := d.State
			return put(d.Tenant, d.ID, num(d.Version), num(a.Balance), num(a.Credits), num(a.Credited), num(a.Debited), a.LastOn)
		})
	})
}

func writeRunning(ctx context.Context, db *sqlite.DB, path string) error {
	var all []fairlead.Document[History]
	err := replay.Documents(ctx, db, histories, func(d fairlead.Document[History]) error {
		all = append(all, d)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b fairlead.Document[History]) int { return int(a.State.Opened - b.State.Opened) })
	header := []string{"tenant", "stream", "version", "balance_halere"}
	return replay.WriteCSV(path, header, func(put func(...string) error) error {
		for _, d := range all {
			for _, e := range d.State.Entries {
				if err := put(d.Tenant, d.ID, num(e.Version), num(e.Balance)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func num(n int64) string { return strconv.FormatInt(n, 10) }
