// Media keeps the assets of many customers, and what each customer stores. Run
// it with
//
//	go run ./examples/media -events FILE -assets OUT.csv -tenants OUT.csv
//
// FILE has events as JSON Lines, plain, .gz or .zst, with the types and payloads
// of package assets. The assets are those that exist at the end, by tenant and stream; the
// tenants are all, the one with the most events first. The name of an asset is
// unique inside its tenant only. -db FILE keeps the database.
package main

import (
	"context"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/examples/internal/assets"
	"github.com/fairlead-dev/fairlead/examples/internal/replay"
	"github.com/fairlead-dev/fairlead/sqlite"
)

var job = replay.Job{
	Name:       "media",
	Processors: []fairlead.Processor{fairlead.Project(assets.Assets), fairlead.ProjectBatch("usage", assets.AddUsage)},
	Outputs: []replay.Output{
		{Flag: "assets", About: "each asset", Rows: assetRows, Header: []string{"tenant", "stream", "version", "size"}},
		{Flag: "tenants", About: "what each tenant stores", Rows: assets.Tenants,
			Header: []string{"tenant", "events", "streams", "live_assets", "live_bytes", "changes"}},
	},
}

func main() { job.Main() }

func assetRows(ctx context.Context, db *sqlite.DB, put func(...string) error) error {
	return replay.Documents(ctx, db, assets.Assets, func(d fairlead.Document[assets.Asset]) error {
		return put(d.Tenant, d.ID, replay.Number(d.Version), replay.Number(d.State.Size))
	})
}
