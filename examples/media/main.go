// Media keeps the assets of many customers, and what each customer stores. Run
// it with
//
//	go run ./examples/media -events FILE -assets OUT.csv -tenants OUT.csv
//
// FILE has events as JSON Lines, plain, .gz or .zst, with the types and payloads
// below. The assets are those that exist at the end, by tenant and stream; the
// tenants are all, the one with the most events first. The name of an asset is
// unique inside its tenant only. -db FILE keeps the database.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"strconv"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/examples/internal/replay"
	"github.com/fairlead-dev/fairlead/sqlite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal("media: ", err)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("media", flag.ContinueOnError)
	job := replay.Job{Log: os.Stderr, Processors: []fairlead.Processor{fairlead.Project(assets), fairlead.ProjectBatch("usage", addUsage)}}
	flags.StringVar(&job.Events, "events", "", "`file` of events; needed")
	flags.StringVar(&job.DB, "db", "", "database `file`; default: a temporary one")
	assetsOut := flags.String("assets", "", "write each asset to this CSV `file`")
	tenantsOut := flags.String("tenants", "", "write what each tenant stores to this CSV `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if job.Events == "" {
		return errors.New("-events is needed")
	}
	return job.Run(ctx, func(db *sqlite.DB) error {
		if err := writeAssets(ctx, db, *assetsOut); err != nil {
			return err
		}
		return writeTenants(ctx, db, *tenantsOut)
	})
}

func writeAssets(ctx context.Context, db *sqlite.DB, path string) error {
	return replay.WriteCSV(path, []string{"tenant", "stream", "version", "size"}, func(put func(...string) error) error {
		return replay.Documents(ctx, db, assets, func(d fairlead.Document[Asset]) error {
			return put(d.Tenant, d.ID, num(d.Version), num(d.State.Size))
		})
	})
}

func num(n int64) string { return strconv.FormatInt(n, 10) }
