package postgres_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// State and events are committed together. Who lost a race runs the whole
// transaction again.
func ExampleDB_AppendTx() {
	transfer := func(ctx context.Context, pool *pgxpool.Pool, db *postgres.DB, account string, cents int64) error {
		for {
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "UPDATE account SET cents = cents + $2 WHERE id = $1", account, cents); err != nil {
					return err
				}
				_, err := db.AppendTx(ctx, tx, eventlog.StreamAppend{
					Tenant: "acme", Stream: "account-" + account,
					Events: []eventlog.NewEvent{{Type: "Deposited", Data: fmt.Appendf(nil, `{"cents":%d}`, cents)}},
				})
				return err
			})
			if !errors.Is(err, postgres.ErrRetry) {
				return err
			}
		}
	}
	_ = transfer // needs a server, so it is compiled here and not run
}

// An operator asks who holds readers back.
func ExampleDB_Holders() {
	report := func(ctx context.Context, db *postgres.DB) error {
		holders, err := db.Holders(ctx)
		for _, h := range holders {
			fmt.Println("readers wait for", h)
		}
		return err
	}
	_ = report // needs a server, so it is compiled here and not run
}
