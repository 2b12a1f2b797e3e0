package postgres

import (
	"context"
	"encoding/json"

	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/jackc/pgx/v5"
)

var _ ledger.Routes = (*Ledger)(nil)

// Routes implements [ledger.Routes].
func (l *Ledger) Routes(ctx context.Context) (map[string]map[string]string, error) {
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	rows, err := l.db.pool.Query(ctx, l.db.q("SELECT name, route FROM {schema}.routes"))
	if err != nil {
		return nil, l.db.fault(ctx, "read routes", err)
	}
	out := map[string]map[string]string{}
	var name, text string
	_, err = pgx.ForEachRow(rows, []any{&name, &text}, func() error {
		var route map[string]string
		err := json.Unmarshal([]byte(text), &route)
		out[name] = route
		return err
	})
	return out, l.db.fault(ctx, "read routes", err)
}

// PutRoute implements [ledger.Routes].
func (l *Ledger) PutRoute(ctx context.Context, name string, route map[string]string) error {
	text, err := json.Marshal(route)
	if err != nil {
		return err
	}
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	_, err = l.db.pool.Exec(ctx, l.db.q("INSERT INTO {schema}.routes VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET route = excluded.route"), name, string(text))
	return l.db.fault(ctx, "write route", err)
}

// DeleteRoute implements [ledger.Routes].
func (l *Ledger) DeleteRoute(ctx context.Context, name string) (bool, error) {
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	tag, err := l.db.pool.Exec(ctx, l.db.q("DELETE FROM {schema}.routes WHERE name = $1"), name)
	return err == nil && tag.RowsAffected() > 0, l.db.fault(ctx, "delete route", err)
}
