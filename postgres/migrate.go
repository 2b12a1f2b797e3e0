package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// A migration is a file NNNN_name.sql. Versions begin at 1 and are dense. What
// was released is never changed: a later file repairs it.
//
// Each must fit both layouts of the events table, one table and partitions by tenant:
// columns, functions and indexes that are not unique do by themselves. One that is unique
// needs the tenant. The function append finds ids by the very words of idsOfEvents. A trigger of
// a statement is one for each partition (pg_partition_tree). TestLayoutsAreAlike compares.
type migration struct {
	version int
	name    string
	sql     string
}

// firstWithCollections is the first schema that has relations with names of
// the user's choice.
const firstWithCollections = 7

var newRelation = regexp.MustCompile(`(?i)\b(?:TABLE|VIEW|SEQUENCE|INDEX|CONSTRAINT|RENAME TO)\s+(?:IF NOT EXISTS\s+)?(?:\{schema\}\.)?([a-z_][a-z0-9_]*)`)

// relations are the names of relations in the migration, and of others perhaps: no
// collection may have those that it makes.
func (m *migration) relations() (names []string) {
	for _, found := range newRelation.FindAllStringSubmatch(m.sql, -1) {
		names = append(names, strings.ToLower(found[1]))
	}
	return names
}

//go:embed migrations/*.sql
var migrationFiles embed.FS

var migrations = mustLoadMigrations(migrationFiles)

func mustLoadMigrations(files fs.FS) []migration {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	slices.Sort(names)
	var out []migration
	for i, name := range names {
		base := strings.TrimSuffix(path.Base(name), ".sql")
		number, title, _ := strings.Cut(base, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			panic(fmt.Sprintf("postgres: migration %s is number %d", name, i+1))
		}
		sql, err := fs.ReadFile(files, name)
		if err != nil {
			panic(err)
		}
		out = append(out, migration{version, title, string(sql)})
	}
	return out
}

// schemaVersion returns the version of the schema, 0 where it is not there. It
// needs no right to change anything.
func (db *DB) schemaVersion(ctx context.Context, q querier) (int, error) {
	// Not to_regclass: it may answer from a cache that is older than the lock.
	var there bool
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'migrations')`, db.opts.Schema).Scan(&there)
	if err != nil || !there {
		return 0, err
	}
	var version int
	err = q.QueryRow(ctx, db.q("SELECT coalesce(max(version), 0) FROM {schema}.migrations")).Scan(&version)
	return version, err
}

// SchemaVersion returns the version of the schema that Open found, 0 where there
// was none, and the one that it has now: what this program needs.
func (db *DB) SchemaVersion() (found, now int) { return db.found, len(db.migrations) }

// migrate brings the schema up to date, or says why it cannot.
func (db *DB) migrate(ctx context.Context) error {
	version, err := db.schemaVersion(ctx, db.pool)
	if err != nil {
		return err
	}
	db.found = version
	switch need := len(db.migrations); {
	case version > need:
		return fmt.Errorf("postgres: open schema %q of %s: it has version %d, this program knows %d: replace the program by one that is as new: %w",
			db.opts.Schema, db.where, version, need, store.ErrNewerSchema)
	case version == need:
		return nil
	case db.opts.NoMigrate:
		return &SchemaError{Schema: db.opts.Schema, Database: db.where, Version: version, Need: need}
	}
	for {
		done, err := db.migrateOne(ctx)
		if e := serverError(err); e != nil && e.Code == "42501" {
			return fmt.Errorf("%w (%s at %s: %w)", ErrRights, db.grantMigrate(ctx), db.where, err)
		}
		if err != nil || done {
			return err
		}
	}
}

// grantMigrate says what lets the role migrate. Only the owner of what is there may
// change it: that is nothing that can be granted but by a role.
func (db *DB) grantMigrate(ctx context.Context) string {
	var role, database string
	var owner *string
	var own, create bool
	err := db.pool.QueryRow(ctx, `SELECT current_user::text, current_database()::text, pg_get_userbyid(n.nspowner)::text,
			coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
			coalesce(NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND NOT pg_has_role(c.relowner, 'USAGE')), false)
		FROM (SELECT $1::name AS name) w LEFT JOIN pg_namespace n ON n.nspname = w.name`, db.opts.Schema).Scan(&role, &database, &owner, &create, &own)
	to := " TO " + pgx.Identifier{role}.Sanitize()
	switch {
	case err != nil:
		return "migrate"
	case owner == nil:
		return "run once: GRANT CREATE ON DATABASE " + pgx.Identifier{database}.Sanitize() + to
	case own && !create:
		return db.q("run once: GRANT USAGE, CREATE ON SCHEMA {schema}") + to
	default:
		return fmt.Sprintf("migrate as role %q, which owns the schema, or run once: GRANT %s%s", *owner, pgx.Identifier{*owner}.Sanitize(), to)
	}
}

// lockMigrations lets one process at a time change the schema, until tx ends, and
// returns the version that it has then.
func (db *DB) lockMigrations(ctx context.Context, tx pgx.Tx) (version int, err error) {
	// A lock of the transaction, not of the session: a pooler may be between.
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "fairlead migrate "+db.opts.Schema); err != nil {
		return 0, err
	}
	return db.schemaVersion(ctx, tx)
}

// migrateOne applies the next migration, in one transaction, and reports whether
// there was none. Of several processes one migrates, the others wait for it. A new
// schema that is to be partitioned is made as a whole: one that is there is not
// partitioned by opening it.
func (db *DB) migrateOne(ctx context.Context) (done bool, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		version, err := db.lockMigrations(ctx, tx)
		if err != nil {
			return err
		}
		if version >= len(db.migrations) {
			done = true
			return nil
		}
		if version > 0 {
			return db.apply(ctx, tx, version)
		}
		if err := db.makeSchema(ctx, tx); err != nil {
			return err
		}
		if db.opts.TenantPartitions == 0 {
			return db.apply(ctx, tx, 0)
		}
		for version := range db.migrations {
			if err := db.apply(ctx, tx, version); err != nil {
				return err
			}
		}
		_, err = db.partition(ctx, tx, len(db.migrations), db.opts.TenantPartitions)
		return err
	})
	return done, err
}

// apply applies the migration behind a version.
func (db *DB) apply(ctx context.Context, tx pgx.Tx, version int) error {
	m, partitions := db.migrations[version], 0
	if version > 0 {
		var err error
		if partitions, err = db.layout(ctx, tx); err != nil {
			return err
		}
	}
	if version >= firstWithCollections {
		if _, err := tx.Exec(ctx, db.q("SELECT {schema}.make_way($1)"), m.relations()); err != nil {
			return fmt.Errorf("migration %d (%s): %w", m.version, m.name, err)
		}
	}
	// A file holds many statements: that is the simple protocol's work.
	if _, err := tx.Conn().PgConn().Exec(ctx, db.q(textFor(m.sql, partitions > 0))).ReadAll(); err != nil {
		return fmt.Errorf("migration %d (%s): %w", m.version, m.name, err)
	}
	_, err := tx.Exec(ctx, db.q("INSERT INTO {schema}.migrations(version, name) VALUES ($1, $2)"), m.version, m.name)
	return err
}

func (db *DB) makeSchema(ctx context.Context, tx pgx.Tx) error {
	// CREATE SCHEMA IF NOT EXISTS asks for the right to create one even where it
	// is there, made by somebody who has it.
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", db.opts.Schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := tx.Exec(ctx, db.q("CREATE SCHEMA {schema}")); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, db.q(`CREATE TABLE IF NOT EXISTS {schema}.migrations (
		version    integer PRIMARY KEY,
		name       text NOT NULL,
		applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
	)`))
	return err
}

// q puts the names of the schema into a statement; see migrations/0001_log.sql.
func (db *DB) q(sql string) string {
	if s, ok := db.texts.Load(sql); ok {
		return s.(string)
	}
	s := db.names.Replace(sql)
	db.texts.Store(sql, s)
	return s
}

// names returns what q replaces.
func names(schema string) *strings.Replacer {
	quoted := pgx.Identifier{schema}.Sanitize()
	return strings.NewReplacer("{schema}", quoted, "{schema_text}", "'"+strings.ReplaceAll(schema, "'", "''")+"'")
}

// checkSchema returns what is wrong with the name of a schema.
func checkSchema(name string) error {
	switch {
	case len(name) > 63:
		return errors.New("postgres: option Schema is longer than the 63 bytes that PostgreSQL keeps")
	case strings.ContainsAny(name, "\x00"):
		return errors.New("postgres: option Schema has a NUL")
	case strings.Contains(name, "$$"):
		return errors.New("postgres: option Schema has $$, which would end the bodies of the schema's functions")
	case name == "$user":
		return errors.New("postgres: option Schema is $user, which in a search path is the name of the role")
	case strings.HasPrefix(name, "pg_"):
		return errors.New("postgres: option Schema begins with pg_, which is PostgreSQL's own")
	}
	return nil
}
