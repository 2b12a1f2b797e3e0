package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// versioned is a database whose schema has versions.
type versioned interface {
	// SchemaVersion returns the version that was found when the database was
	// opened, 0 where there was none, and the one that it has now.
	SchemaVersion() (found, now int)
}

func (p *program) migrateCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date",
		Long: `Make the schema of the database, or bring it forward to what this program needs,
and say from which version to which. Each step is done whole or not at all, once however
many processes begin it. Consumers of the version before go on as long as their
statements fit the schema, then they end, and have applied nothing that does not fit;
none begins anew. A schema that is newer than this program is left as it is, and is an
error. run and import do the same by themselves, where their role may.`,
		Example: `  $NAME migrate --db postgres://owner@localhost/app
  $NAME migrate --check || echo behind`,
		Args: between(0, 0),
	}
	p.named(c)
	c.Flags().BoolVar(&check, "check", false, "change nothing; exit status 1 if there is something to do")
	mode := func() Mode {
		if check {
			return Read // which refuses a schema of another version
		}
		return Create
	}
	return p.onDatabaseAs(c, mode, func(_ context.Context, db Database, _ []string) error {
		v, ok := db.(versioned)
		if !ok {
			return errors.New("this database has no versions of its schema: there is nothing to migrate")
		}
		from, to := v.SchemaVersion()
		if p.JSON {
			return p.writeJSON(struct {
				Database string `json:"database"`
				From     int    `json:"from"`
				To       int    `json:"to"`
			}{withoutPassword(p.db), from, to})
		}
		var err error
		if from == to {
			_, err = fmt.Fprintf(p.Stdout, "schema version %d: up to date\n", to)
		} else {
			_, err = fmt.Fprintf(p.Stdout, "schema version %d, from %d\n", to, from)
		}
		return err
	})
}
