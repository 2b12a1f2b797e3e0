package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// openDatabase opens the PostgreSQL database of a URL, or else the SQLite file
// of that name.
func openDatabase(ctx context.Context, name string, mode Mode) (Database, error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		return openPostgres(ctx, name, mode)
	}
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) && mode != Create {
		return nil, fmt.Errorf("database %s does not exist: check --db and %s, or make it with import", name, EnvDB)
	}
	return sqlite.Open(name, sqlite.Options{ReadOnly: mode == Read})
}

// openPostgres takes two parameters of its own out of the URL: schema, and
// pooler, for a connection pooler in transaction mode. All others are the
// driver's.
func openPostgres(ctx context.Context, name string, mode Mode) (Database, error) {
	name, o, err := postgresOptions(name)
	if err != nil {
		return nil, err
	}
	o.NoMigrate = mode != Create
	db, err := postgres.Open(ctx, name, o)
	if s, ok := errors.AsType[*postgres.SchemaError](err); ok {
		err = notMigrated{s}
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

// postgresOptions takes the parameters that are Fairlead's out of a URL.
func postgresOptions(name string) (rest string, o postgres.Options, err error) {
	u, err := url.Parse(name)
	if err != nil {
		return "", o, Usagef("--db is no URL that can be read: see whether its password is percent-encoded")
	}
	// The others are left as they are: to PostgreSQL a plus sign is no space.
	var others []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value)
		switch {
		case key == "schema" && err == nil:
			o.Schema = value
		case key == "pooler":
			if o.Pooler, err = strconv.ParseBool(value); err != nil {
				return "", o, Usagef("--db: parameter pooler=%s of the URL is neither true nor false", value)
			}
		default:
			others = append(others, pair)
		}
	}
	u.RawQuery = strings.Join(others, "&")
	return u.String(), o, nil
}

// notMigrated says of a schema that needs a migration which commands make it.
type notMigrated struct{ *postgres.SchemaError }

func (e notMigrated) Error() string {
	if e.Version == 0 {
		return fmt.Sprintf("nothing of Fairlead is in schema %q of %s, which has version 0: if that is the right database, make the schema: "+
			"the commands migrate, import and run do that; else correct --db or %s, or give the schema's name as schema=NAME in the URL",
			e.Schema, e.Database, EnvDB)
	}
	return fmt.Sprintf("schema %q of %s has version %d, this program needs %d: bring it up to date with a role that owns the schema's tables: "+
		"the commands migrate, import and run do that; or use the program of that version", e.Schema, e.Database, e.Version, e.Need)
}

func (e notMigrated) Unwrap() error { return e.SchemaError }

// withoutPassword is a database's name as it may be shown.
func withoutPassword(name string) string {
	u, err := url.Parse(name)
	if err != nil || u.Scheme == "" {
		return name
	}
	q := u.Query()
	if q.Has("password") {
		q.Set("password", "xxxxx")
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}
