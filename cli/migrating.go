package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// versioned is a database whose schema has versions.
type versioned interface {
	// SchemaVersion returns the version that was found when the database was
	// opened, 0 where there was none, and the one that it has now.
	SchemaVersion() (found, now int)
}

// partitioned is a database whose events can be partitioned by tenant.
type partitioned interface {
	TenantPartitions() int
	PartitionByTenant(ctx context.Context, partitions int) (events int64, err error)
}

func (p *program) migrateCommand() *cobra.Command {
	var check bool
	var partitions int
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date",
		Long: `Make the schema of the database, or bring it forward to what this program needs,
and say from which version to which. Each step is done whole or not at all, once however
many processes begin it. Consumers of the version before go on as long as their
statements fit the schema, then they end, and have applied nothing that does not fit;
none begins anew. A schema that is newer than this program is left as it is, and is an
error. run and import do the same by themselves, where their role may.

With --tenant-partitions the events on PostgreSQL are partitioned by hash of the tenant,
once and for all: in a log that has some they are copied, in one transaction. Appends and
readers wait as long as that takes, or up to their own timeout, and go on afterwards. If it
fails the log is as it was. A log that is partitioned already keeps the number that it has.`,
		Example: `  $NAME migrate --db postgres://owner@localhost/app
  $NAME migrate --tenant-partitions 16
  $NAME migrate --check || echo behind`,
		Args: between(0, 0),
	}
	p.named(c)
	c.Flags().BoolVar(&check, "check", false, "change nothing; exit status 1 if there is something to do")
	c.Flags().IntVar(&partitions, "tenant-partitions", 0, "partition the events by hash of the tenant into so many `tables`, 2 to 256")
	mode := func() Mode {
		if check {
			return Read // which refuses a schema of another version
		}
		return Create
	}
	return p.onDatabaseAs(c, mode, func(ctx context.Context, db Database, _ []string) error {
		v, ok := db.(versioned)
		if !ok {
			return errors.New("this database has no versions of its schema: there is nothing to migrate")
		}
		from, to := v.SchemaVersion()
		var copied int64
		var took time.Duration
		t, can := db.(partitioned)
		if c.Flags().Changed("tenant-partitions") {
			if !can {
				return errors.New("this database cannot partition its events: --tenant-partitions is for PostgreSQL")
			}
			if check && t.TenantPartitions() != partitions {
				return fmt.Errorf("the events are in %d partitions by tenant (0: in one table), not %d", t.TenantPartitions(), partitions)
			}
			if !check {
				start := time.Now()
				var err error
				if copied, err = t.PartitionByTenant(ctx, partitions); err != nil {
					return err
				}
				took = time.Since(start)
			}
		}
		parts := 0
		if can {
			parts = t.TenantPartitions()
		}
		if p.JSON {
			return p.writeJSON(struct {
				Database   string `json:"database"`
				From       int    `json:"from"`
				To         int    `json:"to"`
				Partitions int    `json:"tenant_partitions,omitempty"`
				Copied     int64  `json:"copied,omitempty"`
			}{withoutPassword(p.db), from, to, parts, copied})
		}
		said := fmt.Sprintf("schema version %d: up to date\n", to)
		if from != to {
			said = fmt.Sprintf("schema version %d, from %d\n", to, from)
		}
		if parts > 0 {
			said += fmt.Sprintf("events in %d partitions by tenant\n", parts)
		}
		if copied > 0 {
			said += fmt.Sprintf("%d events copied in %v\n", copied, took.Round(time.Millisecond))
		}
		_, err := io.WriteString(p.Stdout, said)
		return err
	})
}
