package postgres

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/jackc/pgx/v5"
)

// Versions implements [ledger.Ledger].
func (l *Ledger) Versions(ctx context.Context) (map[string]int64, error) {
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	rows, err := l.db.pool.Query(ctx, l.db.q("SELECT name, version FROM {schema}.routes"))
	if err != nil {
		return nil, l.db.fault(ctx, "read routes", err)
	}
	out := map[string]int64{}
	var name string
	var version int64
	_, err = pgx.ForEachRow(rows, []any{&name, &version}, func() error {
		out[name] = version
		return nil
	})
	return out, l.db.fault(ctx, "read routes", err)
}

// Keys implements [ledger.Ledger]. It is one statement, and so one snapshot.
func (l *Ledger) Keys(ctx context.Context, log, service string, names []string) (out []ledger.Key, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	rows, err := l.db.pool.Query(ctx, l.db.q(`SELECT r.name, r.version, r.route, b.partition, b.begins, b.host
		FROM {schema}.routes r LEFT JOIN {schema}.bindings b ON b.log = $1 AND b.service = $2 AND b.name = r.name
		WHERE $3::text[] IS NULL OR r.name = ANY ($3) ORDER BY r.name, b.partition, b.begins`), log, service, names)
	if err != nil {
		return nil, l.db.fault(ctx, "read routing keys", err)
	}
	var name string
	var version int64
	var route, host *string
	var partition, begins *int64
	_, err = pgx.ForEachRow(rows, []any{&name, &version, &route, &partition, &begins, &host}, func() error {
		if len(out) == 0 || out[len(out)-1].Name != name {
			to, err := hostIn(route, service)
			if err != nil {
				return err
			}
			out = append(out, ledger.Key{Name: name, Host: to, Version: version, Bindings: map[int][]ledger.Binding{}})
		}
		if partition != nil {
			b := ledger.Binding{From: event.Position(*begins)}
			if *host != "" {
				b.Host = []byte(*host)
			}
			of := out[len(out)-1].Bindings
			of[int(*partition)] = append(of[int(*partition)], b)
		}
		return nil
	})
	return out, l.db.fault(ctx, "read routing keys", err)
}

// hostIn returns the host that a route has for a service.
func hostIn(route *string, service string) (string, error) {
	if route == nil {
		return "", nil
	}
	var of map[string]string
	err := json.Unmarshal([]byte(*route), &of)
	return of[service], err
}

// Bind implements [ledger.Ledger].
func (l *Ledger) Bind(ctx context.Context, log, service string, k *ledger.Key, partition int, from event.Position) error {
	return l.within(ctx, "bind a routing key", func(ctx context.Context, tx pgx.Tx) error {
		var now int64 // the lock keeps it, and those who bind the key apart
		err := tx.QueryRow(ctx, l.db.q("SELECT version FROM {schema}.routes WHERE name = $1 FOR UPDATE"), k.Name).Scan(&now)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && now != k.Version {
			return nil
		}
		if err != nil {
			return err
		}
		last, host := int64(0), "" // a statement of its own: it sees what the lock waited for
		err = tx.QueryRow(ctx, l.db.q(`SELECT begins, host FROM {schema}.bindings
			WHERE log = $1 AND service = $2 AND name = $3 AND partition = $4 ORDER BY begins DESC LIMIT 1`), log, service, k.Name, partition).Scan(&last, &host)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		if err != nil || host == k.Host {
			return err
		}
		_, err = tx.Exec(ctx, l.db.q(`INSERT INTO {schema}.bindings VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (log, service, name, partition, begins) DO UPDATE SET host = excluded.host`), log, service, k.Name, partition, max(last, int64(from)), k.Host)
		return err
	})
}

// ForgetKeys implements [ledger.Ledger].
func (l *Ledger) ForgetKeys(ctx context.Context, log, service string, upTo map[int]event.Position) error {
	var partitions, ends []int64
	for p, end := range upTo {
		partitions, ends = append(partitions, int64(p)), append(ends, int64(end))
	}
	return l.within(ctx, "forget routing keys", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, l.db.q(`DELETE FROM {schema}.bindings b USING unnest($3::bigint[], $4::bigint[]) AS e(partition, upto)
			WHERE b.log = $1 AND b.service = $2 AND b.partition = e.partition AND b.begins <= e.upto AND (b.host = '' OR EXISTS (
				SELECT FROM {schema}.bindings n WHERE n.log = b.log AND n.service = b.service AND n.name = b.name
					AND n.partition = b.partition AND n.begins > b.begins AND n.begins <= e.upto))`), log, service, partitions, ends)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, l.db.q("DELETE FROM {schema}.routes r WHERE r.route IS NULL AND NOT EXISTS (SELECT FROM {schema}.bindings b WHERE b.name = r.name)"))
		return err
	})
}
