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
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/examples/internal/replay"
	"github.com/fairlead-dev/fairlead/sqlite"
)

var job = replay.Job{
	Name:       "incidents",
	Processors: []fairlead.Processor{fairlead.Project(incidents), fairlead.Project(histories)},
	Outputs: []replay.Output{
		{Flag: "incidents", About: "each incident", Rows: last,
			Header: []string{"tenant", "stream", "version", "mod_count", "state", "active", "reassignments", "reassignments_derivable", "reopens",
				"made_sla", "priority", "category", "subcategory", "group", "assignee", "opened_at", "resolved_at", "closed_at", "closed_code"}},
		{Flag: "running", About: "the counters after each event", Rows: running,
			Header: []string{"tenant", "stream", "version", "reassignments", "reopens", "state", "active"}},
	},
}

func main() { job.Main() }

func last(ctx context.Context, db *sqlite.DB, put func(...string) error) error {
	return replay.Documents(ctx, db, incidents, func(d fairlead.Document[Incident]) error {
		i := d.State
		f := i.Fields
		return put(d.Tenant, d.ID, num(d.Version), num(f.ModCount), f.State, strconv.FormatBool(i.Active()), num(i.Reassignments), "", num(i.Reopens),
			strconv.FormatBool(f.MadeSLA), num(f.Priority), f.Category, f.Subcategory, f.Group, f.Assignee,
			instant(f.OpenedAt), instant(i.ResolvedAt), instant(i.LastAt), f.ClosedCode)
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
	slices.SortStableFunc(all, func(a, b fairlead.Document[History]) int { return cmp.Compare(a.ID, b.ID) })
	for _, d := range all {
		for _, s := range d.State.Steps {
			if err := put(d.Tenant, d.ID, num(s.Version), num(s.Reassignments), num(s.Reopens), s.State, strconv.FormatBool(s.State != closed)); err != nil {
				return err
			}
		}
	}
	return nil
}

var num = replay.Number

// instant returns t, "" where there was none.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
