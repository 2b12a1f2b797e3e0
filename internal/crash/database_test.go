package crash

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/jackc/pgx/v5"
)

// databases are what the workers are killed on. Each test gets a name by which
// its workers open it, and a function that crashes the server, where there is one
// of the test's own.
var databases = []struct {
	name string
	make func(t *testing.T, dir string) (name string, crash func() error)
}{
	{"sqlite", func(_ *testing.T, dir string) (string, func() error) { return filepath.Join(dir, "crash.db"), nil }},
	{"postgres", func(t *testing.T, _ string) (string, func() error) { return pgtest.Database(t), nil }},
	{"postgres, which crashes too", func(t *testing.T, _ string) (string, func() error) {
		s := pgtest.NewServer(t)
		return s.URL, s.Restart
	}},
}

func open(ctx context.Context, name string) (cli.Database, error) {
	if strings.HasPrefix(name, "postgres://") {
		db, err := postgres.Open(ctx, name)
		if err != nil {
			return nil, err
		}
		return db, nil
	}
	return sqlite.Open(name)
}

// execTx runs a statement in the transaction that a batch projector gets. Its
// parameters are $1, $2, ..., which both databases know.
func execTx(ctx context.Context, tx any, query string, args ...any) error {
	var err error
	switch tx := tx.(type) {
	case *sqlite.Tx:
		_, err = tx.Exec(query, args...)
	case pgx.Tx:
		_, err = tx.Exec(ctx, query, args...)
	default:
		err = fmt.Errorf("a transaction of type %T", tx)
	}
	return err
}

// A ledgerRow is what the batch projector has written of a stream.
type ledgerRow struct {
	tenant, stream string
	n, last        int64
}

func ledgerRows(ctx context.Context, db cli.Database, name string) (out []ledgerRow, err error) {
	const query = "SELECT tenant, stream, n, last FROM ledger"
	if s, ok := db.(*sqlite.DB); ok {
		err = s.Query(ctx, query, func(r *sqlite.Row) error {
			out = append(out, ledgerRow{r.Text(0), r.Text(1), r.Int64(2), r.Int64(3)})
			return nil
		})
		return out, err
	}
	c, err := pgx.Connect(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	rows, err := c.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ledgerRow, err error) {
		err = row.Scan(&r.tenant, &r.stream, &r.n, &r.last)
		return r, err
	})
}
