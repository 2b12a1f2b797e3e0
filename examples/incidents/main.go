// Incidents keeps the tickets of an IT service provider, from events that carry
// only what changed. Run it with
//
//	go run ./examples/incidents -events FILE -incidents OUT.csv -running OUT.csv
//
// FILE has events as JSON Lines, plain, .gz or .zst, with the types and payloads
// below. The incidents are one row for each, by tenant and stream; the running
// counters are one row for each event, by stream and version. The column
// reassignments_derivable is about the records of the original system, not
// about the events, and stays empty. -db FILE keeps the database.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/examples/internal/replay"
	"github.com/fairlead-dev/fairlead/sqlite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal("incidents: ", err)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("incidents", flag.ContinueOnError)
	job := replay.Job{Log: os.Stderr, Processors: []fairlead.Processor{fairlead.Project(incidents), fairlead.Project(histories)}}
	flags.StringVar(&job.Events, "events", "", "`file` of events; needed")
	flags.StringVar(&job.DB, "db", "", "database `file`; default: a temporary one")
	last := flags.String("incidents", "", "write each incident to this CSV `file`")
	running := flags.String("running", "", "write the counters after each event to this CSV `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if job.Events == "" {
		return errors.New("-events is needed")
	}
	return job.Run(ctx, func(db *sqlite.DB) error {
		if err := writeIncidents(ctx, db, *last); err != nil {
			return err
		}
		return writeRunning(ctx, db, *running)
	})
}

func writeIncidents(ctx context.Context, db *sqlite.DB, path string) error {
	header := []string{"tenant", "stream", "version", "mod_count", "state", "active", "reassignments", "reassignments_derivable", "reopens",
		"made_sla", "priority", "category", "subcategory", "group", "assignee", "opened_at", "resolved_at", "closed_at", "closed_code"}
	return replay.WriteCSV(path, header, func(put func(...string) error) error {
		return replay.Documents(ctx, db, incidents, func(d fairlead.Document[Incident]) error {
			i := d.State
			f := i.Fields
			return put(d.Tenant, d.ID, num(d.Version), num(f.ModCount), f.State, strconv.FormatBool(i.Active()), num(i.Reassignments), "", num(i.Reopens),
				strconv.FormatBool(f.MadeSLA), num(f.Priority), f.Category, f.Subcategory, f.Group, f.Assignee,
				instant(f.OpenedAt), instant(i.ResolvedAt), instant(i.LastAt), f.ClosedCode)
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
	slices.SortStableFunc(all, func(a, b fairlead.Document[History]) int { return cmp.Compare(a.ID, b.ID) })
	header := []string{"tenant", "stream", "version", "reassignments", "reopens", "state", "active"}
	return replay.WriteCSV(path, header, func(put func(...string) error) error {
		for _, d := range all {
			for _, s := range d.State.Steps {
				if err := put(d.Tenant, d.ID, num(s.Version), num(s.Reassignments), num(s.Reopens), s.State, strconv.FormatBool(s.State != closed)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func num(n int64) string { return strconv.FormatInt(n, 10) }

// instant returns t, "" where there was none.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
