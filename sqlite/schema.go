package sqlite

import (
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// applicationID marks the file as Fairlead's ("FLRD"); the file command and
// SQLite's own tools show it.
const applicationID = 0x464c5244

// A migration brings the schema to the next version. It runs in a transaction
// that ends with the new version number, so it happens whole or not at all.
type migration struct {
	name string
	sql  string
}

// migrations[i] leads from version i to i+1. What has been released never
// changes: a change is a new entry.
var migrations = []migration{
	{"first tables", schemaV1},
	{"notes of members", "ALTER TABLE fairlead_members ADD COLUMN notes TEXT NOT NULL DEFAULT ''"},
	{"shards of tenants", "CREATE TABLE fairlead_shards(tenant TEXT PRIMARY KEY, shard TEXT NOT NULL) WITHOUT ROWID;" +
		"CREATE INDEX fairlead_shards_by_name ON fairlead_shards(shard)"},
	{"worker pools", "CREATE TABLE fairlead_pools(tenant TEXT PRIMARY KEY, pool TEXT NOT NULL) WITHOUT ROWID"},
	{"builds of processors", "ALTER TABLE fairlead_processors ADD COLUMN builds TEXT NOT NULL DEFAULT ''"}, // JSON
	{"partitions of lanes", schemaPartitions},
	{"traffic classes", schemaClasses},
	{"homes of lanes", "ALTER TABLE fairlead_lanes ADD COLUMN home TEXT NOT NULL DEFAULT ''"},
}

// schemaV1 notes:
//
// Names of tenants, streams and types are long and come again and again: events
// hold numbers. A number, once committed, never means another name.
//
// An append touches as few pages as it can, because each costs a page in the
// WAL. So the two indexes of the log are filled a thousand events at a time
// (fairlead_control.indexed says up to where), with one row for all the events
// of a stream or tenant among them. The few events behind that, the tail, are
// found by looking at them. See index.go.
//
// fairlead_control.removed is the highest position that was ever deleted,
// fairlead_streams.floor the highest version: what follows must not be reused.
const schemaV1 = `
CREATE TABLE fairlead_control(
	one      INTEGER PRIMARY KEY CHECK(one = 1),
	revision INTEGER NOT NULL, -- raised by every writing Update
	indexed  INTEGER NOT NULL, -- the indexes hold the events up to this position
	removed  INTEGER NOT NULL, -- the highest position that was deleted
	accepted INTEGER NOT NULL  -- set by hand: readers may pass over what was deleted up to here
);
INSERT INTO fairlead_control VALUES(1, 0, 0, 0, 0);

CREATE TABLE fairlead_tenants(tenant_no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
INSERT INTO fairlead_tenants VALUES(0, ''); -- of documents across tenants

CREATE TABLE fairlead_types(type_no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

CREATE TABLE fairlead_streams(
	stream_no INTEGER PRIMARY KEY,
	tenant_no INTEGER NOT NULL,
	name      TEXT NOT NULL,
	floor     INTEGER NOT NULL DEFAULT 0 -- the highest version that was deleted
);
CREATE UNIQUE INDEX fairlead_streams_by_name ON fairlead_streams(tenant_no, name);

-- Times are nanoseconds since 1970, or text where they do not fit.
CREATE TABLE fairlead_events(
	position    INTEGER PRIMARY KEY,
	tenant_no   INTEGER NOT NULL,
	stream_no   INTEGER NOT NULL,
	version     INTEGER NOT NULL,
	type_no     INTEGER NOT NULL,
	occurred_at INTEGER NOT NULL,
	recorded_at INTEGER NOT NULL,
	id          TEXT, -- where the appender gave one
	metadata    TEXT, -- a JSON object
	data        TEXT  -- a blob where it is not text
);
CREATE UNIQUE INDEX fairlead_events_by_id ON fairlead_events(id) WHERE id IS NOT NULL;
CREATE TABLE fairlead_stream_index(
	stream_no INTEGER NOT NULL,
	version   INTEGER NOT NULL, -- of the first
	events    INTEGER NOT NULL, -- how many, without a gap in their versions
	positions BLOB NOT NULL,
	PRIMARY KEY(stream_no, version)
) WITHOUT ROWID;
CREATE TABLE fairlead_tenant_index(
	tenant_no INTEGER NOT NULL,
	position  INTEGER NOT NULL, -- of the first
	last      INTEGER NOT NULL, -- of the last
	events    INTEGER NOT NULL, -- how many
	positions BLOB NOT NULL,
	PRIMARY KEY(tenant_no, position)
) WITHOUT ROWID;
CREATE TABLE fairlead_removed_ids(
	id        TEXT PRIMARY KEY,
	stream_no INTEGER NOT NULL,
	version   INTEGER NOT NULL,
	position  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER fairlead_events_removed AFTER DELETE ON fairlead_events BEGIN
	UPDATE fairlead_control SET removed = max(removed, OLD.position);
	UPDATE fairlead_streams SET floor = max(floor, OLD.version) WHERE stream_no = OLD.stream_no;
	INSERT OR IGNORE INTO fairlead_removed_ids
		SELECT OLD.id, OLD.stream_no, OLD.version, OLD.position WHERE OLD.id IS NOT NULL;
END;
CREATE VIEW log AS
	SELECT e.position,
	       coalesce(e.id, length(CAST(t.name AS BLOB)) || ':' || t.name || '/' || s.name || '@' || e.version) AS id,
	       t.name AS tenant, s.name AS stream, e.version, y.name AS type,
	       CASE typeof(e.occurred_at) WHEN 'integer'
	            THEN strftime('%Y-%m-%dT%H:%M:%fZ', e.occurred_at / 1e9, 'unixepoch') ELSE e.occurred_at END AS occurred_at,
	       strftime('%Y-%m-%dT%H:%M:%fZ', e.recorded_at / 1e9, 'unixepoch') AS recorded_at,
	       e.metadata, e.data
	  FROM fairlead_events e
	  JOIN fairlead_streams s USING(stream_no)
	  JOIN fairlead_tenants t ON t.tenant_no = e.tenant_no
	  JOIN fairlead_types y USING(type_no);

CREATE TABLE fairlead_processors(
	name           TEXT PRIMARY KEY,
	kind           TEXT NOT NULL,
	collection     TEXT NOT NULL,
	partitions     INTEGER NOT NULL,
	live           INTEGER NOT NULL,
	last_build     INTEGER NOT NULL,
	rebuild        INTEGER NOT NULL,
	rebuild_tenant TEXT NOT NULL,
	retired        TEXT NOT NULL, -- a JSON array
	cross_tenant   INTEGER NOT NULL,
	version        TEXT NOT NULL,
	paused         INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX fairlead_processors_by_collection ON fairlead_processors(collection);

CREATE TABLE fairlead_builds(
	build_no  INTEGER PRIMARY KEY,
	processor TEXT NOT NULL,
	number    INTEGER NOT NULL,
	UNIQUE(processor, number)
);
CREATE TABLE fairlead_documents(
	doc_no     INTEGER PRIMARY KEY, -- in order of creation: what is new is what changes most
	build_no   INTEGER NOT NULL,
	tenant_no  INTEGER NOT NULL,
	id         TEXT NOT NULL,
	version    INTEGER NOT NULL,
	position   INTEGER NOT NULL,
	updated_at INTEGER NOT NULL,
	doc        TEXT -- a blob where it is not text
);
CREATE UNIQUE INDEX fairlead_documents_by_id ON fairlead_documents(build_no, tenant_no, id);
CREATE VIEW read_model AS
	SELECT p.collection, t.name AS tenant, d.id, d.version, d.position,
	       strftime('%Y-%m-%dT%H:%M:%fZ', d.updated_at / 1e9, 'unixepoch') AS updated_at, d.doc
	  FROM fairlead_processors p
	  JOIN fairlead_builds b ON b.processor = p.name AND b.number = p.live
	  JOIN fairlead_documents d USING(build_no)
	  JOIN fairlead_tenants t USING(tenant_no);

CREATE TABLE fairlead_lanes(
	lane_no    INTEGER PRIMARY KEY,
	processor  TEXT NOT NULL,
	number     INTEGER NOT NULL,
	partition  INTEGER NOT NULL,
	tenant     TEXT NOT NULL, -- '' for the base lane
	epoch      INTEGER NOT NULL,
	position   INTEGER NOT NULL,
	done       BLOB,
	revision   INTEGER NOT NULL,
	state      TEXT NOT NULL,
	reason     TEXT NOT NULL,
	pinned     INTEGER NOT NULL,
	owner      TEXT NOT NULL,
	applied_at INTEGER,
	updated_at INTEGER,
	UNIQUE(processor, number, partition, tenant)
);
CREATE TABLE fairlead_exclusions(
	lane_no INTEGER NOT NULL,
	tenant  TEXT NOT NULL,
	until   INTEGER NOT NULL, -- 9223372036854775807: until further notice
	PRIMARY KEY(lane_no, tenant)
) WITHOUT ROWID;

CREATE TABLE fairlead_dead_letters(
	id           INTEGER PRIMARY KEY AUTOINCREMENT,
	processor    TEXT NOT NULL,
	number       INTEGER NOT NULL,
	partition    INTEGER NOT NULL,
	tenant       TEXT NOT NULL,
	key          TEXT NOT NULL,
	state        TEXT NOT NULL,
	retry        INTEGER NOT NULL,
	reason       TEXT NOT NULL,
	error        TEXT NOT NULL,
	attempts     INTEGER NOT NULL,
	at           INTEGER,
	position     INTEGER NOT NULL,
	event_id     TEXT NOT NULL,
	event_tenant TEXT NOT NULL,
	stream       TEXT NOT NULL,
	version      INTEGER NOT NULL,
	type         TEXT NOT NULL,
	occurred_at  INTEGER,
	recorded_at  INTEGER,
	metadata     TEXT,
	data         TEXT,
	withheld     INTEGER NOT NULL
);
CREATE INDEX fairlead_dead_letters_by_key ON fairlead_dead_letters(processor, number, tenant, key);

CREATE TABLE fairlead_members(
	id    TEXT PRIMARY KEY,
	until INTEGER,
	host  TEXT NOT NULL,
	since INTEGER
) WITHOUT ROWID;
CREATE TABLE fairlead_weights(tenant TEXT PRIMARY KEY, weight REAL NOT NULL) WITHOUT ROWID;
`

// Partitions can be split and merged: a lane says which modulus its partition has
// (0: the processor's), which one an operator wants instead (0: none), and where
// it stands still for a merge (0: nowhere).
const schemaPartitions = `
ALTER TABLE fairlead_lanes ADD COLUMN modulus INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fairlead_lanes ADD COLUMN wanted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fairlead_lanes ADD COLUMN stop_at INTEGER NOT NULL DEFAULT 0;
`

// The traffic class of an event; NULL is the default class, production. Nearly all
// events are production's, so the index is of the others only: it costs those
// nothing, and finds the few that a filter by class asks for. NULL, and not "",
// because what stands behind a large payload in a row is far away, but NULL takes no
// room: it is read from the row's header.
const schemaClasses = `
ALTER TABLE fairlead_events ADD COLUMN class TEXT;
CREATE INDEX fairlead_events_by_class ON fairlead_events(class, position) WHERE class IS NOT NULL;
ALTER TABLE fairlead_dead_letters ADD COLUMN class TEXT NOT NULL DEFAULT '';
DROP VIEW log;
CREATE VIEW log AS
	SELECT e.position,
	       coalesce(e.id, length(CAST(t.name AS BLOB)) || ':' || t.name || '/' || s.name || '@' || e.version) AS id,
	       t.name AS tenant, s.name AS stream, e.version, y.name AS type,
	       CASE typeof(e.occurred_at) WHEN 'integer'
	            THEN strftime('%Y-%m-%dT%H:%M:%fZ', e.occurred_at / 1e9, 'unixepoch') ELSE e.occurred_at END AS occurred_at,
	       strftime('%Y-%m-%dT%H:%M:%fZ', e.recorded_at / 1e9, 'unixepoch') AS recorded_at,
	       e.metadata, e.data, coalesce(e.class, '') AS class
	  FROM fairlead_events e
	  JOIN fairlead_streams s USING(stream_no)
	  JOIN fairlead_tenants t ON t.tenant_no = e.tenant_no
	  JOIN fairlead_types y USING(type_no);
`

// identify checks that the file is empty or Fairlead's, and not newer than this
// program. It changes nothing.
func (db *DB) identify(c *zs.Conn) (version int, err error) {
	app, err := pragmaInt(c, "application_id")
	if err != nil {
		return 0, err
	}
	version, err = pragmaInt(c, "user_version")
	if err != nil {
		return 0, err
	}
	objects := 0
	err = sqlitex.ExecuteTransient(c, "SELECT count(*) FROM sqlite_schema", &sqlitex.ExecOptions{
		ResultFunc: func(s *zs.Stmt) error { objects = s.ColumnInt(0); return nil },
	})
	switch {
	case err != nil:
		return 0, err
	case app == applicationID:
	case app == 0 && version == 0 && objects == 0:
		return 0, nil // empty, or just made
	default:
		return 0, fmt.Errorf("%w: %s belongs to another program (application id %#x, %d tables and indexes)",
			ErrNotFairlead, db.path, uint32(app), objects)
	}
	if version > len(db.migrations) {
		return 0, fmt.Errorf("%w: %s has version %d, this program knows %d: use a newer Fairlead, or a copy of the file from before",
			store.ErrNewerSchema, db.path, version, len(db.migrations))
	}
	return version, nil
}

// SchemaVersion returns the version of the schema that Open found, 0 where the file
// was new, and the one that it has now: what this program needs.
func (db *DB) SchemaVersion() (found, now int) { return db.found, len(db.migrations) }

// migrate brings the schema to the newest version. Only one process does it:
// the others wait for the lock and then find it done.
func (db *DB) migrate(ctx context.Context, c *zs.Conn) error {
	version := 0
	err := db.retryBusy(ctx, func() (err error) {
		version, err = db.identify(c)
		db.found = version
		return err
	})
	if err != nil || version == len(db.migrations) {
		return err
	}
	exec := func(q string) error {
		return db.retryBusy(ctx, func() error { return sqlitex.ExecuteTransient(c, q, nil) })
	}
	if err := exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if !c.AutocommitEnabled() {
			_ = sqlitex.ExecuteTransient(c, "ROLLBACK", nil)
		}
	}()
	// Again, now that nobody else can change it.
	if version, err = db.identify(c); err != nil {
		return err
	}
	for i, m := range db.migrations[version:] {
		if err := sqlitex.ExecuteScript(c, m.sql, nil); err != nil {
			return fmt.Errorf("sqlite: migrate %s to version %d (%s): %w", db.path, version+i+1, m.name, err)
		}
	}
	if err := exec(fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return err
	}
	if err := exec(fmt.Sprintf("PRAGMA user_version = %d", len(db.migrations))); err != nil {
		return err
	}
	return exec("COMMIT")
}

func pragmaInt(c *zs.Conn, name string) (n int, err error) {
	err = sqlitex.ExecuteTransient(c, "PRAGMA "+name, &sqlitex.ExecOptions{
		ResultFunc: func(s *zs.Stmt) error { n = s.ColumnInt(0); return nil },
	})
	return n, err
}
