package assets

import (
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// What a tenant stores is kept in tables of our own: the events say how large
// an asset is now, so the sum needs to know how large it was before.
const tables = `
CREATE TABLE IF NOT EXISTS usage (
	id          INTEGER PRIMARY KEY,
	tenant      TEXT    NOT NULL UNIQUE,
	events      INTEGER NOT NULL DEFAULT 0,
	streams     INTEGER NOT NULL DEFAULT 0,
	live_assets INTEGER NOT NULL DEFAULT 0,
	live_bytes  INTEGER NOT NULL DEFAULT 0,
	changes     INTEGER NOT NULL DEFAULT 0
)`

const sizesTable = `
CREATE TABLE IF NOT EXISTS sizes (
	tenant INTEGER NOT NULL REFERENCES usage (id),
	asset  TEXT    NOT NULL,
	size   INTEGER NOT NULL,
	PRIMARY KEY (tenant, asset)
) WITHOUT ROWID`

// usage is a row of its table.
type usage struct {
	id                                             int64
	events, streams, liveAssets, liveBytes, change int64
}

type assetKey struct {
	tenant int64
	name   string
}

// A size is a row of sizes, before and after a batch.
type size struct {
	was, is int64 // -1: there is none
}

// AddUsage adds a batch of events to the tables, in the transaction that moves
// the checkpoint as well: each event counts once, whatever happens. Each row is
// read and written once for a batch.
func AddUsage(_ context.Context, transaction any, events []event.Event) error {
	tx := transaction.(*sqlite.Tx)
	for _, q := range []string{tables, sizesTable} {
		if _, err := tx.Exec(q); err != nil {
			return err
		}
	}
	tenants, sizes := map[string]*usage{}, map[assetKey]*size{}
	for i := range events {
		e := &events[i]
		u := tenants[e.Tenant]
		if u == nil {
			var err error
			if u, err = loadUsage(tx, e.Tenant); err != nil {
				return err
			}
			tenants[e.Tenant] = u
		}
		k := assetKey{u.id, e.Stream}
		s := sizes[k]
		if s == nil {
			var err error
			if s, err = loadSize(tx, k, e.Version); err != nil {
				return err
			}
			sizes[k] = s
		}
		if err := u.add(e, s); err != nil {
			return fmt.Errorf("event %s: %w", e.ID, err)
		}
	}
	for _, u := range tenants {
		if _, err := tx.Exec(`UPDATE usage SET events = ?, streams = ?, live_assets = ?, live_bytes = ?, changes = ? WHERE id = ?`,
			u.events, u.streams, u.liveAssets, u.liveBytes, u.change, u.id); err != nil {
			return err
		}
	}
	for k, s := range sizes {
		if err := storeSize(tx, k, s); err != nil {
			return err
		}
	}
	return nil
}

// add applies one event to its tenant and its asset.
func (u *usage) add(e *event.Event, s *size) error {
	var now int64 = -1
	var data Stored
	if err := (projection.JSON{}).Decode(e.Data, &data); err != nil {
		return err
	}
	switch e.Type {
	case "AssetUploaded", "AssetReplaced":
		now = data.Size
	case "AssetDeleted":
	default:
		return nil
	}
	u.events++
	if e.Version == 1 {
		u.streams++
	}
	u.change = max(u.change, data.Change)
	if s.is >= 0 {
		u.liveAssets--
		u.liveBytes -= s.is
	}
	if now >= 0 {
		u.liveAssets++
		u.liveBytes += now
	}
	s.is = now
	return nil
}

func loadUsage(tx *sqlite.Tx, tenant string) (*usage, error) {
	if _, err := tx.Exec(`INSERT INTO usage (tenant) VALUES (?) ON CONFLICT DO NOTHING`, tenant); err != nil {
		return nil, err
	}
	u := new(usage)
	err := tx.Query(`SELECT id, events, streams, live_assets, live_bytes, changes FROM usage WHERE tenant = ?`, func(r *sqlite.Row) error {
		*u = usage{r.Int64(0), r.Int64(1), r.Int64(2), r.Int64(3), r.Int64(4), r.Int64(5)}
		return nil
	}, tenant)
	return u, err
}

// loadSize returns the size of an asset before an event of a version; the first
// has none.
func loadSize(tx *sqlite.Tx, k assetKey, version int64) (*size, error) {
	s := &size{-1, -1}
	if version == 1 {
		return s, nil
	}
	err := tx.Query(`SELECT size FROM sizes WHERE tenant = ? AND asset = ?`, func(r *sqlite.Row) error {
		s.was, s.is = r.Int64(0), r.Int64(0)
		return nil
	}, k.tenant, k.name)
	return s, err
}

func storeSize(tx *sqlite.Tx, k assetKey, s *size) (err error) {
	switch {
	case s.is == s.was:
	case s.is < 0:
		_, err = tx.Exec(`DELETE FROM sizes WHERE tenant = ? AND asset = ?`, k.tenant, k.name)
	case s.was < 0:
		_, err = tx.Exec(`INSERT INTO sizes (tenant, asset, size) VALUES (?, ?, ?)`, k.tenant, k.name, s.is)
	default:
		_, err = tx.Exec(`UPDATE sizes SET size = ? WHERE tenant = ? AND asset = ?`, s.is, k.tenant, k.name)
	}
	return err
}

// Tenants puts a row for each tenant, that with the most events first. It reads the
// table; any program that knows SQLite could.
func Tenants(ctx context.Context, db *sqlite.DB, put func(...string) error) error {
	const query = `SELECT tenant, events, streams, live_assets, live_bytes, changes FROM usage ORDER BY events DESC, tenant`
	return db.Query(ctx, query, func(r *sqlite.Row) error {
		row := make([]string, r.Len())
		for i := range row {
			row[i] = r.Text(i)
		}
		return put(row...)
	})
}
