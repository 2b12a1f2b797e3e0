package sqlite

import (
	"context"
	"encoding/json"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store/ledger"
	zs "zombiezen.com/go/sqlite"
)

// ledgerKeys is for events that carry the name of a route in place of the route. A route
// that was removed stays, without one, while somebody may still have to learn from which
// positions on it is so.
const ledgerKeys = `
CREATE TABLE fairlead_route_version(last INTEGER NOT NULL); -- each change of a route has the next one
INSERT INTO fairlead_route_version SELECT count(*) FROM fairlead_routes;
CREATE TABLE fairlead_named(
	name    TEXT PRIMARY KEY,
	route   TEXT, -- NULL: it was removed
	version INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO fairlead_named SELECT name, route, row_number() OVER (ORDER BY name) FROM fairlead_routes;
DROP TABLE fairlead_routes;
ALTER TABLE fairlead_named RENAME TO fairlead_routes;
CREATE TABLE fairlead_bindings( -- what a key stands for behind a position of a log partition
	log       TEXT NOT NULL,
	service   TEXT NOT NULL,
	name      TEXT NOT NULL,
	partition INTEGER NOT NULL,
	begins    INTEGER NOT NULL,
	host      TEXT NOT NULL, -- '': no sandbox of the service
	PRIMARY KEY(log, service, name, partition, begins)
) WITHOUT ROWID;
CREATE INDEX fairlead_bindings_name ON fairlead_bindings(name);
`

// Routes implements [ledger.Routes].
func (l *Ledger) Routes(ctx context.Context) (out map[string]map[string]string, err error) {
	out = map[string]map[string]string{}
	err = l.db.read(ctx, "read routes", func(c *conn) error {
		return c.rows("SELECT name, route FROM fairlead_routes WHERE route IS NOT NULL", func(s *zs.Stmt) error {
			var route map[string]string
			err := json.Unmarshal([]byte(s.ColumnText(1)), &route)
			out[s.ColumnText(0)] = route
			return err
		})
	})
	return out, err
}

// routeVersion returns a version that no route has had.
func (w *writer) routeVersion() (int64, error) {
	if err := w.exec("UPDATE fairlead_route_version SET last = last + 1"); err != nil {
		return 0, err
	}
	n, _, err := w.int64("SELECT last FROM fairlead_route_version")
	return n, err
}

// PutRoute implements [ledger.Routes].
func (l *Ledger) PutRoute(ctx context.Context, name string, route map[string]string) error {
	text, err := json.Marshal(route)
	if err != nil {
		return err
	}
	return l.db.write(ctx, "write route", func(w *writer) error {
		version, err := w.routeVersion()
		if err != nil {
			return err
		}
		return w.exec(`INSERT INTO fairlead_routes VALUES(?, ?, ?) ON CONFLICT(name) DO UPDATE
			SET route = excluded.route, version = excluded.version WHERE route IS NOT excluded.route`, name, string(text), version)
	})
}

// DeleteRoute implements [ledger.Routes]. Of a route that is bound as a routing key the
// row stays: it has that change still to tell.
func (l *Ledger) DeleteRoute(ctx context.Context, name string) (there bool, err error) {
	err = l.db.write(ctx, "delete route", func(w *writer) (err error) {
		if _, there, err = w.int64("SELECT 1 FROM fairlead_routes WHERE name = ? AND route IS NOT NULL", name); err != nil || !there {
			return err
		}
		_, bound, err := w.int64("SELECT 1 FROM fairlead_bindings WHERE name = ? LIMIT 1", name)
		switch {
		case err != nil:
			return err
		case !bound:
			return w.exec("DELETE FROM fairlead_routes WHERE name = ?", name)
		}
		version, err := w.routeVersion()
		if err != nil {
			return err
		}
		return w.exec("UPDATE fairlead_routes SET route = NULL, version = ? WHERE name = ?", version, name)
	})
	return there && err == nil, err
}

// Versions implements [ledger.Ledger].
func (l *Ledger) Versions(ctx context.Context) (out map[string]int64, err error) {
	out = map[string]int64{}
	err = l.db.read(ctx, "read routes", func(c *conn) error {
		return c.rows("SELECT name, version FROM fairlead_routes", func(s *zs.Stmt) error {
			out[s.ColumnText(0)] = s.ColumnInt64(1)
			return nil
		})
	})
	return out, err
}

// Keys implements [ledger.Ledger]. It is one statement, and so one snapshot.
func (l *Ledger) Keys(ctx context.Context, log, service string, names []string) (out []ledger.Key, err error) {
	only, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	err = l.db.read(ctx, "read routing keys", func(c *conn) error {
		out = nil
		return c.rows(`SELECT r.name, r.version, r.route, b.partition, b.begins, b.host
			FROM fairlead_routes r LEFT JOIN fairlead_bindings b ON b.log = ?1 AND b.service = ?2 AND b.name = r.name
			WHERE ?3 = 'null' OR r.name IN (SELECT value FROM json_each(?3)) ORDER BY 1, 4, 5`, func(s *zs.Stmt) error {
			name := s.ColumnText(0)
			if len(out) == 0 || out[len(out)-1].Name != name {
				k := ledger.Key{Name: name, Version: s.ColumnInt64(1), Bindings: map[int][]ledger.Binding{}}
				if !s.ColumnIsNull(2) {
					var route map[string]string
					if err := json.Unmarshal([]byte(s.ColumnText(2)), &route); err != nil {
						return err
					}
					k.Host = route[service]
				}
				out = append(out, k)
			}
			if !s.ColumnIsNull(3) {
				b := ledger.Binding{From: event.Position(s.ColumnInt64(4))}
				if host := s.ColumnText(5); host != "" {
					b.Host = []byte(host)
				}
				of, p := out[len(out)-1].Bindings, s.ColumnInt(3)
				of[p] = append(of[p], b)
			}
			return nil
		}, log, service, string(only))
	})
	return out, err
}

// Bind implements [ledger.Ledger].
func (l *Ledger) Bind(ctx context.Context, log, service string, k *ledger.Key, partition int, from event.Position) error {
	return l.db.write(ctx, "bind a routing key", func(w *writer) error {
		_, same, err := w.int64("SELECT 1 FROM fairlead_routes WHERE name = ? AND version = ?", k.Name, k.Version)
		if err != nil || !same {
			return err
		}
		last, host := int64(0), ""
		err = w.rows("SELECT begins, host FROM fairlead_bindings WHERE log = ? AND service = ? AND name = ? AND partition = ? ORDER BY begins DESC LIMIT 1", func(s *zs.Stmt) error {
			last, host = s.ColumnInt64(0), s.ColumnText(1)
			return nil
		}, log, service, k.Name, partition)
		if err != nil || host == k.Host {
			return err
		}
		return w.exec(`INSERT INTO fairlead_bindings VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(log, service, name, partition, begins) DO UPDATE SET host = excluded.host`,
			log, service, k.Name, partition, max(last, int64(from)), k.Host)
	})
}

// ForgetKeys implements [ledger.Ledger].
func (l *Ledger) ForgetKeys(ctx context.Context, log, service string, upTo map[int]event.Position) error {
	return l.db.write(ctx, "forget routing keys", func(w *writer) error {
		for p, end := range upTo {
			err := w.exec(`DELETE FROM fairlead_bindings AS b WHERE log = ?1 AND service = ?2 AND partition = ?3 AND begins <= ?4 AND (host = '' OR EXISTS (
				SELECT 1 FROM fairlead_bindings n WHERE n.log = b.log AND n.service = b.service AND n.name = b.name
					AND n.partition = b.partition AND n.begins > b.begins AND n.begins <= ?4))`, log, service, p, int64(end))
			if err != nil {
				return err
			}
		}
		return w.exec("DELETE FROM fairlead_routes WHERE route IS NULL AND NOT EXISTS (SELECT 1 FROM fairlead_bindings b WHERE b.name = fairlead_routes.name)")
	})
}
