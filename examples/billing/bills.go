package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/examples/internal/assets"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// A bill is open until the tenant's next month begins.
const billsTable = `
CREATE TABLE IF NOT EXISTS bills (
	tenant TEXT    NOT NULL,
	month  TEXT    NOT NULL, -- as 2026-01, UTC
	jobs   INTEGER NOT NULL,
	stored INTEGER NOT NULL, -- bytes, after the last job
	PRIMARY KEY (tenant, month)
) WITHOUT ROWID`

// addToBills adds a batch of jobs to the bills, in the transaction that moves the
// checkpoint as well: each job is on one bill, once, whatever happens. What a tenant
// stores is counted as in the example media; its state between two months is what
// is billed, so all of a tenant's jobs must come in their order.
func addToBills(ctx context.Context, transaction any, events []event.Event) error {
	tx := transaction.(*sqlite.Tx)
	if _, err := tx.Exec(billsTable); err != nil {
		return err
	}
	var tenants []string
	jobs := map[string][]event.Event{}
	for i := range events {
		t := events[i].Tenant
		if jobs[t] == nil {
			tenants = append(tenants, t)
		}
		jobs[t] = append(jobs[t], events[i])
	}
	for _, tenant := range tenants {
		for rest := jobs[tenant]; len(rest) > 0; {
			n, month := 1, monthOf(&rest[0])
			for n < len(rest) && monthOf(&rest[n]) == month {
				n++
			}
			if err := assets.AddUsage(ctx, tx, rest[:n]); err != nil {
				return err
			}
			if err := addJobs(tx, tenant, month, n); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

func monthOf(e *event.Event) string { return e.OccurredAt.UTC().Format("2006-01") }

// addJobs adds jobs to the open bill of a tenant, or opens the next one.
func addJobs(tx *sqlite.Tx, tenant, month string, jobs int) error {
	open := ""
	err := tx.Query(`SELECT month FROM bills WHERE tenant = ? ORDER BY month DESC LIMIT 1`, func(r *sqlite.Row) error {
		open = r.Text(0)
		return nil
	}, tenant)
	if err != nil {
		return err
	}
	if month < open {
		return fmt.Errorf("tenant %q: a job of %s comes after the bill of %s was opened", tenant, month, open)
	}
	_, err = tx.Exec(`
		INSERT INTO bills (tenant, month, jobs, stored) SELECT tenant, ?, ?, live_bytes FROM usage WHERE tenant = ?
		ON CONFLICT (tenant, month) DO UPDATE SET jobs = bills.jobs + excluded.jobs, stored = excluded.stored`, month, jobs, tenant)
	return err
}

const (
	perThousandJobs = 40 // cents
	perMiB          = 3  // cents a month, of what is stored at its end
)

// cents is what a bill comes to. Each part is rounded up.
func cents(jobs, stored int64) int64 {
	return (jobs*perThousandJobs+999)/1000 + (stored*perMiB+1<<20-1)>>20
}

// bills puts all bills, by tenant and month.
func bills(ctx context.Context, db *sqlite.DB, put func(...string) error) error {
	return db.Query(ctx, `SELECT tenant, month, jobs, stored FROM bills ORDER BY tenant, month`, func(r *sqlite.Row) error {
		jobs, stored := r.Int64(2), r.Int64(3)
		return put(r.Text(0), r.Text(1), strconv.FormatInt(jobs, 10), strconv.FormatInt(stored, 10), strconv.FormatInt(cents(jobs, stored), 10))
	})
}
