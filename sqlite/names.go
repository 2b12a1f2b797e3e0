package sqlite

import (
	"fmt"

	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// streamName returns the names of a stream by its number.
func (c *conn) streamName(no int64) (*eventlog.StreamRef, error) {
	if r, ok := c.db.streamNames.get(no); ok {
		return r, nil
	}
	r := new(eventlog.StreamRef)
	tenant := int64(-1)
	err := c.rows("SELECT tenant_no, name FROM fairlead_streams WHERE stream_no = ?", func(s *zs.Stmt) error {
		tenant, r.Stream = s.ColumnInt64(0), s.ColumnText(1)
		return nil
	}, no)
	if err != nil {
		return nil, err
	}
	if r.Tenant, err = c.name(c.db.tenantNames, "SELECT name FROM fairlead_tenants WHERE tenant_no = ?", tenant); err != nil {
		return nil, err
	}
	c.db.streamNames.put(no, r)
	return r, nil
}

func (c *conn) typeName(no int64) (string, error) {
	return c.name(c.db.typeNames, "SELECT name FROM fairlead_types WHERE type_no = ?", no)
}

// name returns a name by its number.
func (c *conn) name(known *cache[int64, string], query string, no int64) (string, error) {
	if name, ok := known.get(no); ok {
		return name, nil
	}
	name, found := "", false
	err := c.rows(query, func(s *zs.Stmt) error {
		name, found = s.ColumnText(0), true
		return nil
	}, no)
	switch {
	case err != nil:
		return "", err
	case !found:
		return "", c.dangling(query, no)
	}
	known.put(no, name)
	return name, nil
}

// no returns the number of a name, false where it has none yet. Only what is
// found is remembered: the name may come.
func (c *conn) no(known *cache[string, int64], query, name string) (int64, bool, error) {
	if n, ok := known.get(name); ok {
		return n, true, nil
	}
	n, found, err := c.int64(query, name)
	if err == nil && found {
		known.put(name, n)
	}
	return n, found, err
}

func (c *conn) tenantNo(name string) (int64, bool, error) {
	return c.no(c.db.tenantNos, findTenant, name)
}

// dangling is the error for a number that stands for nothing.
func (c *conn) dangling(query string, no int64) error {
	return fmt.Errorf("%w: %s: nothing for %q with %d", ErrCorrupt, c.db.path, query, no)
}
