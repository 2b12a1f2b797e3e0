package sqlite

import (
	"context"

	zs "zombiezen.com/go/sqlite"
)

// Query runs one read-only statement on what is committed, and calls f for each
// row: to read the user's own tables, or the views log and read_model. A
// statement that writes fails. An error of f ends it and comes back. f must not
// call the DB.
func (db *DB) Query(ctx context.Context, query string, f func(*Row) error, args ...any) error {
	var own error
	err := db.read(ctx, "query", func(c *conn) error {
		c.inUser = true
		defer func() { c.inUser = false }()
		row := new(Row)
		err := c.rows(query, func(s *zs.Stmt) error {
			row.s = s
			own = f(row)
			return own
		}, args...)
		row.s = nil
		return err
	})
	if own != nil {
		return own
	}
	return err
}
