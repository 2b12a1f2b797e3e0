package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// The events table has two layouts: one table, or one that is partitioned by hash of the
// tenant. Which one it is, is found in the catalog, by migrations and by who opens it; all
// statements fit both. What the second lacks, because a unique index of a partitioned table
// must have the tenant in it, is there otherwise:
//
//   - An id is unique in the log by the table event_ids, which triggers of each row keep.
//     The function append looks for ids there; see textFor.
//   - A position is unique by the sequence, and by an index in its partition.

// maxTenantPartitions bounds [Options].TenantPartitions: statements that are not of one
// tenant look into each partition.
const maxTenantPartitions = 256

//go:embed partitioned.sql
var partitionedSQL string

// How the function append finds events by their ids, in each layout. Migrations are
// written for the first one. The comparison that says nothing keeps PostgreSQL from
// hashing all ids, to look for one, which it would go on doing as they become many: it
// takes the table for small when it makes the plan.
const (
	idsOfEvents = "{schema}.events e WHERE e.id = u.id"
	idsApart    = "{schema}.event_ids e WHERE e.id = u.id AND e.id >= u.id"
)

// textFor returns the text of a migration for a layout.
func textFor(sql string, partitioned bool) string {
	if partitioned {
		return strings.ReplaceAll(sql, idsOfEvents, idsApart)
	}
	return sql
}

func checkTenantPartitions(n int) error {
	if n < 2 || n > maxTenantPartitions {
		return fmt.Errorf("postgres: %d partitions by tenant, want 2 to %d", n, maxTenantPartitions)
	}
	return nil
}

// layout says how many partitions the events table has, 0 where it is not partitioned. A
// partition that is not there any more is an error.
func (db *DB) layout(ctx context.Context, q querier) (partitions int, err error) {
	var partitioned bool
	var bounds []string
	err = q.QueryRow(ctx, `SELECT c.relkind = 'p', ARRAY(SELECT pg_get_expr(p.relpartbound, p.oid)
			FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
			WHERE i.inhparent = c.oid AND (to_jsonb(i)->>'inhdetachpending')::boolean IS NOT TRUE)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'events'`, db.opts.Schema).
		Scan(&partitioned, &bounds)
	if errors.Is(err, pgx.ErrNoRows) { // a ledger's schema
		return 0, nil
	}
	if err != nil || !partitioned {
		return 0, err
	}
	if len(bounds) == 0 {
		return 0, fmt.Errorf("postgres: the events table of schema %q is partitioned and lacks all its partitions, and who reads on would skip their events: "+
			"attach them again (ALTER TABLE %s ATTACH PARTITION), or restore the schema from a copy", db.opts.Schema, db.q("{schema}.events"))
	}
	there := map[int]bool{}
	for _, b := range bounds {
		var modulus, remainder int
		if _, err := fmt.Sscanf(b, "FOR VALUES WITH (modulus %d, remainder %d)", &modulus, &remainder); err != nil || partitions != 0 && modulus != partitions {
			return 0, fmt.Errorf("postgres: the events table of schema %q is partitioned by another hand (%s)", db.opts.Schema, b)
		}
		partitions, there[remainder] = modulus, true
	}
	for i := range partitions {
		if !there[i] {
			part := "events_p" + strconv.Itoa(i)
			return 0, fmt.Errorf("postgres: the events table of schema %q lacks its partition %s, and who reads on would skip the events in it: "+
				"ALTER TABLE %s ATTACH PARTITION %s FOR VALUES WITH (MODULUS %d, REMAINDER %d), after DETACH PARTITION ... FINALIZE if a DETACH ... CONCURRENTLY did not end, or restore the schema from a copy",
				db.opts.Schema, part, db.q("{schema}.events"), db.q("{schema}.")+part, partitions, i)
		}
	}
	return partitions, nil
}

// checkLayout looks at the layout as the DB is opened.
func (db *DB) checkLayout(ctx context.Context) error {
	n, err := db.layout(ctx, db.pool)
	if n > 0 {
		db.sql = &partitionedStatements
	}
	db.partitions.Store(int64(n))
	return err
}

// TenantPartitions returns how many partitions by tenant the events table has; 0: it is
// one table.
func (db *DB) TenantPartitions() int { return int(db.partitions.Load()) }

// How long PartitionByTenant waits for those who have written to the events table: all
// who come after it wait behind it meanwhile.
const partitionLockWait = 5 * time.Second

// PartitionByTenant partitions the events table of a log that is there by hash of the
// tenant, and returns how many events it has copied. It is one transaction that holds the
// table while it copies: appends and readers wait, up to their own Timeout, and go on
// afterwards. It takes the room of the events once more. If it fails, the log is as it was.
//
// A log that has so many partitions already is left as it is. One that has another number
// is refused: they are never changed. So is one whose table has what the copy would lose,
// such as foreign keys and policies; the error names it. While somebody holds the table
// for more than 5 s it fails with [ErrTimeout]; [DB.Holders] names who appends.
//
// [Options].TenantPartitions is the same for a new schema.
func (db *DB) PartitionByTenant(ctx context.Context, partitions int) (events int64, err error) {
	if err := checkTenantPartitions(partitions); err != nil {
		return 0, err
	}
	err = pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		version, err := db.lockMigrations(ctx, tx)
		if err != nil {
			return err
		}
		if need := len(db.migrations); version != need {
			return &SchemaError{Schema: db.opts.Schema, Database: db.where, Version: version, Need: need}
		}
		n, err := db.layout(ctx, tx)
		switch {
		case err != nil || n == partitions:
			return err
		case n != 0:
			return fmt.Errorf("postgres: the events table of schema %q has %d partitions by tenant already: their number is never changed; "+
				"export the events, and import them into a schema that is made with %d", db.opts.Schema, n, partitions)
		}
		events, err = db.partition(ctx, tx, version, partitions)
		return err
	})
	if e := serverError(err); e != nil && e.Code == "42501" {
		err = fmt.Errorf("%w (%s at %s: %w)", ErrRights, db.grantMigrate(ctx), db.where, err)
	}
	if err != nil {
		return 0, db.fault(ctx, "partition the events table", err)
	}
	if events > 0 {
		// Nobody does this by himself for the parent.
		_, _ = db.pool.Exec(ctx, db.q("ANALYZE {schema}.events, {schema}.event_ids"))
	}
	db.partitions.Store(int64(partitions)) // its statements are those that it began with, which do
	return events, nil
}

// partition partitions the events table of a schema of some version, in a transaction that
// holds the lock of migrations.
func (db *DB) partition(ctx context.Context, tx pgx.Tx, version, partitions int) (events int64, err error) {
	if version >= firstWithCollections {
		names := []string{"event_ids", "events_before"}
		for i := range partitions {
			names = append(names, "events_p"+strconv.Itoa(i), fmt.Sprintf("events_p%d_pkey", i))
		}
		if _, err := tx.Exec(ctx, db.q("SELECT {schema}.make_way($1)"), names); err != nil {
			return 0, err
		}
	}
	// What is made is the owner's, whoever of its members runs this.
	var owner string
	err = tx.QueryRow(ctx, "SELECT pg_get_userbyid(c.relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'events'",
		db.opts.Schema).Scan(&owner)
	if err != nil {
		return 0, err
	}
	// Not the functions of other schemas, nor the time that a statement usually has.
	prepare := fmt.Sprintf("SET LOCAL ROLE %s; SET LOCAL search_path = {schema}, pg_temp; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = %d; "+
		"SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'; "+
		"LOCK TABLE {schema}.events IN ACCESS EXCLUSIVE MODE; SET LOCAL lock_timeout = 0", pgx.Identifier{owner}.Sanitize(), partitionLockWait.Milliseconds())
	if _, err := tx.Conn().PgConn().Exec(ctx, db.names.Replace(prepare)).ReadAll(); err != nil {
		return 0, err
	}
	table := db.q("{schema}.events")
	var lost, found, functions []string
	err = tx.QueryRow(ctx, "SELECT ARRAY("+wouldBeLost+"), ARRAY("+foundOnEvents+`), ARRAY(SELECT format('SET LOCAL ROLE %I; ', pg_get_userbyid(p.proowner)) || pg_get_functiondef(p.oid) FROM pg_proc p
		WHERE p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = $2) AND p.prokind = 'f' AND strpos(p.prosrc, $3) > 0)`,
		table, db.opts.Schema, db.q(idsOfEvents)).Scan(&lost, &found, &functions)
	if err != nil {
		return 0, err
	}
	if len(lost) > 0 {
		return 0, fmt.Errorf("postgres: partitioning the events table would lose what it has: %s: drop that, and make it again afterwards", strings.Join(lost, ", "))
	}
	var sequence string
	if err := tx.QueryRow(ctx, "SELECT pg_get_serial_sequence($1, 'position')", table).Scan(&sequence); err != nil {
		return 0, err
	}
	var next string // one that was not called yet stands before its value
	if err := tx.QueryRow(ctx, "SELECT format('SELECT setval(''events_position_seq'', %s, %L)', last_value, is_called) FROM "+sequence).Scan(&next); err != nil {
		return 0, err
	}
	var text strings.Builder
	before, after, _ := strings.Cut(strings.ReplaceAll(partitionedSQL, "{partitions}", strconv.Itoa(partitions)), "{found}")
	text.WriteString(db.names.Replace(before) + strings.Join(append(found, next), ";\n") + ";" + db.names.Replace(after))
	for _, f := range functions { // each as its owner
		text.WriteString(strings.ReplaceAll(f, db.q(idsOfEvents), db.q(idsApart)) + ";\n")
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, text.String()).ReadAll(); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, "SELECT current_setting('fairlead.copied')::bigint").Scan(&events)
	return events, err
}

// Of the table that is to be partitioned, $1: what would be lost with it without a word,
// and statements that make what it has on another one of its name. Definitions have the
// names of their tables, and fit the new one as they are.
const (
	wouldBeLost = `SELECT x.what FROM (
	SELECT format('policy %I', p.polname) AS what FROM pg_policy p WHERE p.polrelid = to_regclass($1)
	UNION ALL SELECT 'row-level security' FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relrowsecurity
	UNION ALL SELECT format('foreign key %I', f.conname) FROM pg_constraint f WHERE f.contype = 'f' AND to_regclass($1) IN (f.conrelid, f.confrelid)
	UNION ALL SELECT DISTINCT format('publication %I', b.pubname) FROM pg_publication_tables b JOIN pg_namespace n ON n.nspname = b.schemaname
		JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = b.tablename WHERE c.oid = to_regclass($1)
	UNION ALL SELECT 'parameters of its TOAST table' FROM pg_class c JOIN pg_class o ON o.oid = c.reltoastrelid WHERE c.oid = to_regclass($1) AND o.reloptions IS NOT NULL
	UNION ALL SELECT 'UNLOGGED' FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relpersistence <> 'p'
	UNION ALL SELECT format('access method %I', m.amname) FROM pg_class c JOIN pg_am m ON m.oid = c.relam
		WHERE c.oid = to_regclass($1) AND m.amname <> current_setting('default_table_access_method')
	UNION ALL SELECT DISTINCT format('view or rule on %s', r.ev_class::regclass) FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
		WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1)
	UNION ALL SELECT format('constraint %I', k.conname) FROM pg_constraint k WHERE k.contype IN ('u', 'x') AND k.conname <> 'events_id' AND k.conrelid = to_regclass($1)
	UNION ALL SELECT format('trigger %I that is disabled, or enabled for replicas', g.tgname) FROM pg_trigger g
		WHERE g.tgrelid = to_regclass($1) AND NOT g.tgisinternal AND g.tgenabled <> 'O'
	UNION ALL SELECT format('identity of column %I', a.attname) FROM pg_attribute a
		WHERE a.attrelid = to_regclass($1) AND NOT a.attisdropped AND a.attidentity <> '' AND a.attname <> 'position'
	UNION ALL SELECT format('tablespace %I of %s', s.spcname, c.oid::regclass) FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
		WHERE c.oid = to_regclass($1) OR c.oid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = to_regclass($1))
	UNION ALL SELECT 'replica identity' FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relreplident <> 'd'
	UNION ALL SELECT format('child table %s', i.inhrelid::regclass) FROM pg_inherits i WHERE i.inhparent = to_regclass($1)
) x ORDER BY 1`

	// Who appends draws the position and enters the id himself now, and who deletes takes
	// it out. What the owner has taken from himself he does not get back.
	foundOnEvents = `WITH t AS (
	SELECT c.oid, c.relowner, c.relacl FROM pg_class c WHERE c.oid = to_regclass($1)
), acl AS (
	SELECT a.*, '' AS of FROM t, aclexplode(t.relacl) a
	UNION ALL SELECT a.*, format(' (%I)', c.attname) FROM t JOIN pg_attribute c ON c.attrelid = t.oid AND NOT c.attisdropped, aclexplode(c.attacl) a
), g AS (
	SELECT acl.privilege_type AS what, acl.of, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END AS grantee,
		CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS more
	FROM t, acl WHERE acl.grantee <> t.relowner
) SELECT x.sql FROM (
	SELECT 1 AS step, pg_get_indexdef(i.indexrelid) AS sql FROM t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class c ON c.oid = i.indexrelid
		WHERE NOT i.indisprimary AND c.relname <> 'events_id'
	UNION ALL SELECT 2, pg_get_triggerdef(g.oid) FROM t JOIN pg_trigger g ON g.tgrelid = t.oid WHERE NOT g.tgisinternal
	UNION ALL SELECT 4, format('GRANT %s%s ON events TO %s%s', g.what, g.of, g.grantee, g.more) FROM g
	UNION ALL SELECT 3, format('REVOKE ALL ON events FROM %s', t.relowner::regrole) FROM t WHERE t.relacl IS NOT NULL
	UNION ALL SELECT 4, format('GRANT %s ON events TO %s', a.privilege_type, t.relowner::regrole) FROM t, aclexplode(t.relacl) a WHERE a.grantee = t.relowner
	UNION ALL SELECT 4, format('GRANT %s ON event_ids TO %s', x.what, g.grantee) FROM g, LATERAL (SELECT CASE
		WHEN g.what IN ('SELECT', 'INSERT') AND g.of = '' THEN g.what
		WHEN g.what = 'INSERT' THEN 'INSERT'
		WHEN g.what = 'SELECT' AND g.of IN (' (id)', ' (tenant)', ' (stream)', ' (version)') THEN 'SELECT' || g.of
		WHEN g.what = 'UPDATE' AND g.of IN ('', ' (id)', ' (tenant)', ' (stream)', ' (version)') THEN 'SELECT (id), INSERT, DELETE'
		WHEN g.what = 'DELETE' OR g.what = 'TRUNCATE' AND EXISTS (SELECT FROM g s WHERE s.what = 'SELECT' AND s.of = '' AND s.grantee IN (g.grantee, 'PUBLIC'))
			THEN 'SELECT (id), DELETE' END) x(what) WHERE x.what IS NOT NULL
	UNION ALL SELECT 4, format('GRANT USAGE ON SEQUENCE events_position_seq TO %s', g.grantee) FROM g WHERE g.what = 'INSERT'
	UNION ALL SELECT 4, format('GRANT %s ON SEQUENCE events_position_seq TO %s%s', a.privilege_type,
			CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
		FROM t JOIN pg_class c ON c.oid = pg_get_serial_sequence($1, 'position')::regclass, aclexplode(c.relacl) a WHERE a.grantee <> t.relowner
) x ORDER BY x.step, x.sql`
)
