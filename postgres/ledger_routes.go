package postgres

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/jackc/pgx/v5"
)

var _ ledger.Routes = (*Ledger)(nil)

// Routes implements [ledger.Routes].
func (l *Ledger) Routes(ctx context.Context) (map[string]map[string]string, error) {
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	rows, err := l.db.pool.Query(ctx, l.db.q("SELECT name, route FROM {schema}.routes WHERE route IS NOT NULL"))
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
	_, err = l.db.pool.Exec(ctx, l.db.q(`INSERT INTO {schema}.routes AS r (name, route) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE
		SET route = excluded.route, version = excluded.version WHERE r.route IS DISTINCT FROM excluded.route`), name, string(text))
	return l.db.fault(ctx, "write route", err)
}

// DeleteRoute implements [ledger.Routes]. Of a route that is bound as a routing key the
// row stays: it has that change still to tell.
func (l *Ledger) DeleteRoute(ctx context.Context, name string) (there bool, err error) {
	err = l.within(ctx, "delete route", func(ctx context.Context, tx pgx.Tx) error {
		there = false
		err := tx.QueryRow(ctx, l.db.q("SELECT route IS NOT NULL FROM {schema}.routes WHERE name = $1 FOR UPDATE"), name).Scan(&there)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil || !there {
			return err
		}
		// A statement of its own: it sees what the lock waited for.
		tag, err := tx.Exec(ctx, l.db.q("DELETE FROM {schema}.routes r WHERE r.name = $1 AND NOT EXISTS (SELECT FROM {schema}.bindings b WHERE b.name = r.name)"), name)
		if err != nil || tag.RowsAffected() > 0 {
			return err
		}
		_, err = tx.Exec(ctx, l.db.q("UPDATE {schema}.routes SET route = NULL, version = nextval('{schema}.route_versions') WHERE name = $1"), name)
		return err
	})
	return there && err == nil, err
}
