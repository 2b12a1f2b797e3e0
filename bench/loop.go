package main

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// What the hand-written loops share with package sqlite: the driver, the schema
// and these statements. They are copied, because a loop uses no part of what it
// is compared with.
const (
	loopRange = `SELECT e.position, e.tenant_no, e.type_no, e.stream_no, e.version, e.occurred_at, e.recorded_at, e.id, e.metadata,
		octet_length(e.data), CASE WHEN octet_length(e.data) <= ?1 THEN e.data END
		FROM fairlead_events e WHERE e.position > ?2 AND e.position <= ?3 ORDER BY e.position`
	loopLoad = "SELECT version, position, updated_at, doc FROM fairlead_documents WHERE build_no = ? AND tenant_no = ? AND id = ?"
	loopPut  = `INSERT OR REPLACE INTO fairlead_documents(build_no, tenant_no, id, version, position, updated_at, doc)
		VALUES(?, ?, ?, ?, ?, ?, ?)`
	loopFence = `UPDATE fairlead_lanes SET position = ?1, done = ?2, applied_at = coalesce(?3, applied_at), updated_at = ?4, revision = revision + ?5
		WHERE processor = ?6 AND number = ?7 AND partition = ?8 AND tenant = ?9 AND epoch = ?10 AND position = ?11 AND revision = ?12`
)

// A raw is a bare connection with the settings of package sqlite.
type raw struct{ *zs.Conn }

func openRaw(path string) (*raw, error) {
	c, err := zs.OpenConn(path, zs.OpenReadWrite)
	if err != nil {
		return nil, err
	}
	for _, q := range []string{
		"PRAGMA synchronous = NORMAL", "PRAGMA temp_store = MEMORY", "PRAGMA journal_mode = WAL",
		"PRAGMA wal_autocheckpoint = 4000", "PRAGMA journal_size_limit = 65536000", "PRAGMA cache_size = -32768",
	} {
		if err := sqlitex.ExecuteTransient(c, q, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", q, err), c.Close())
		}
	}
	return &raw{c}, nil
}

// exec runs a statement that is kept prepared.
func (c *raw) exec(query string, args ...any) error {
	return c.rows(query, func(*zs.Stmt) error { return nil }, args...)
}

// rows runs a query that is kept prepared.
func (c *raw) rows(query string, f func(s *zs.Stmt) error, args ...any) error {
	s, err := c.Prepare(query)
	if err != nil {
		return err
	}
	for i, a := range args {
		switch a := a.(type) {
		case int64:
			s.BindInt64(i+1, a)
		case string:
			s.BindText(i+1, a)
		default:
			return fmt.Errorf("argument %d has type %T", i+1, a)
		}
	}
	for {
		more, err := s.Step()
		if err != nil || !more {
			return errors.Join(err, s.Reset())
		}
		if err := f(s); err != nil {
			return errors.Join(err, s.Reset())
		}
	}
}

// int64 returns the first column of the one row of a query.
func (c *raw) int64(query string, args ...any) (n int64, err error) {
	found := false
	err = c.rows(query, func(s *zs.Stmt) error { n, found = s.ColumnInt64(0), true; return nil }, args...)
	if err == nil && !found {
		err = fmt.Errorf("%s: no row", query)
	}
	return n, err
}

// eachDocument calls f for every document that a processor's live build has.
func eachDocument(path, processor string, f func(k store.Key, d foldedDoc) error) error {
	c, err := openRaw(path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.rows(`SELECT t.name, d.id, d.version, d.position, d.doc
		  FROM fairlead_processors p
		  JOIN fairlead_builds b ON b.processor = p.name AND b.number = p.live
		  JOIN fairlead_documents d USING(build_no)
		  JOIN fairlead_tenants t USING(tenant_no) WHERE p.name = ?`, func(s *zs.Stmt) error {
		return f(store.Key{Tenant: s.ColumnText(0), ID: s.ColumnText(1)},
			foldedDoc{s.ColumnInt64(2), event.Position(s.ColumnInt64(3)), s.ColumnText(4)})
	}, processor)
}

// tenantNames returns the tenants of a database.
func tenantNames(path string) (names []string, err error) {
	c, err := openRaw(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	err = c.rows("SELECT name FROM fairlead_tenants WHERE name <> ''", func(s *zs.Stmt) error {
		names = append(names, s.ColumnText(0))
		return nil
	})
	return names, err
}

// unsafeString is b as a string, for the driver, which copies it.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
