package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// shape lists what a schema has, in the words of one layout.
func shape(t *testing.T, db *DB) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	rows, err := db.pool.Query(t.Context(), `WITH s AS (SELECT oid FROM pg_namespace WHERE nspname = 'fairlead')
		SELECT 'table ' || c.relname || ' ' || CASE c.relkind WHEN 'p' THEN 'r' ELSE c.relkind::text END || ' ' || coalesce(c.relacl::text, '')
			FROM s JOIN pg_class c ON c.relnamespace = s.oid WHERE c.relkind IN ('r', 'p', 'v', 'S') AND NOT c.relispartition
		UNION ALL
		SELECT format('column %s.%s %s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation::regcollation,
				CASE WHEN (c.relname, a.attname) <> ('events', 'position') THEN pg_get_expr(d.adbin, d.adrelid) END)
			FROM s JOIN pg_class c ON c.relnamespace = s.oid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
				LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
			WHERE c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
		UNION ALL
		SELECT 'index ' || replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') FROM s JOIN pg_class c ON c.relnamespace = s.oid JOIN pg_index i ON i.indrelid = c.oid WHERE NOT c.relispartition
		UNION ALL
		SELECT 'function ' || p.proname || '(' || oidvectortypes(p.proargtypes) || ') ' || md5(replace(pg_get_functiondef(p.oid), 'event_ids e WHERE e.id = u.id AND e.id >= u.id', 'events e WHERE e.id = u.id')) || coalesce(p.proacl::text, '')
			FROM s JOIN pg_proc p ON p.pronamespace = s.oid
		UNION ALL
		SELECT 'trigger ' || pg_get_triggerdef(g.oid) FROM s JOIN pg_class c ON c.relnamespace = s.oid JOIN pg_trigger g ON g.tgrelid = c.oid WHERE NOT g.tgisinternal AND NOT c.relispartition
		UNION ALL
		SELECT 'looks for ids in events: ' || p.proname FROM s JOIN pg_proc p ON p.pronamespace = s.oid WHERE p.prosrc ~ 'events (AS )?(\w+) WHERE \2\.id\M'`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if !strings.Contains(l, " sums") { // a collection of oldData
			out[l] = true
		}
	}
	return out
}

// TestLayoutsAreAlike: a schema that is made in partitions, and those of a version of before
// that were partitioned and then brought up to date, have what others have, and what
// partitions need. A migration that forgets one of the layouts is found here. What an old
// log had is there, and goes on.
func TestLayoutsAreAlike(t *testing.T) {
	t.Parallel()
	want := shape(t, openTemp(t))
	differs := map[bool][]string{ // only in one of the layouts: is it that in partitions
		false: {
			"index CREATE UNIQUE INDEX events_id ON fairlead.events USING btree (id) WHERE (id IS NOT NULL)",
			`index CREATE UNIQUE INDEX events_position ON fairlead.events USING btree ("position")`,
			"looks for ids in events: append",
		},
		true: {
			"table event_ids r", "column event_ids.", "index CREATE UNIQUE INDEX events_id ON fairlead.event_ids USING btree (id)",
			"function keep_id() ", "function change_id() ", "function note_truncate_part() ",
			"trigger CREATE TRIGGER keep_id ", "trigger CREATE TRIGGER drop_id ", "trigger CREATE TRIGGER change_id ",
		},
	}
	alike := func(t *testing.T, db *DB) {
		t.Helper()
		got := shape(t, db)
		for _, side := range []struct {
			has, lacks  map[string]bool
			partitioned bool
		}{{want, got, false}, {got, want, true}} {
			used := map[string]bool{}
			for _, l := range slices.Sorted(maps.Keys(side.has)) {
				if side.lacks[l] {
					continue
				}
				i := slices.IndexFunc(differs[side.partitioned], func(d string) bool { return strings.Contains(l, d) })
				if i < 0 {
					t.Errorf("only in one layout (partitions: %t): %s", side.partitioned, l)
					continue
				}
				used[differs[side.partitioned][i]] = true
			}
			if len(used) != len(differs[side.partitioned]) {
				t.Errorf("partitions: %t: of %q there is only %q", side.partitioned, differs[side.partitioned], slices.Sorted(maps.Keys(used)))
			}
		}
		// Each partition has the triggers of its own, and its indexes.
		parts := value[string](t, db.pool, `SELECT string_agg(DISTINCT x.t || ' ' || x.i, '; ') FROM (
			SELECT (SELECT string_agg(g.tgname, ' ' ORDER BY g.tgname) FROM pg_trigger g WHERE g.tgrelid = p.relid) AS t,
				(SELECT count(*)::text FROM pg_index i WHERE i.indrelid = p.relid) AS i
			FROM pg_partition_tree('fairlead.events') p WHERE p.isleaf) x`)
		if parts != "change_id drop_id keep_id note_delete note_truncate 4" {
			t.Errorf("triggers and number of indexes of the partitions: %s", parts)
		}
	}
	t.Run("new", func(t *testing.T) {
		t.Parallel()
		db := openAt(t, pgtest.Database(t), Options{TenantPartitions: 3})
		if found, now := db.SchemaVersion(); found != 0 || now != len(migrations) || db.TenantPartitions() != 3 {
			t.Errorf("versions %d and %d, %d partitions", found, now, db.TenantPartitions())
		}
		alike(t, db)
	})
	for _, version := range []int{1, 4, firstWithCollections, len(migrations)} {
		t.Run(fmt.Sprint("from ", version), func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			old, err := prepare(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			old.migrations = before(t, version)
			if err := old.migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			oldData(t, old.pool, version)
			if n, err := old.PartitionByTenant(t.Context(), 3); err != nil || n != 12 {
				t.Fatalf("PartitionByTenant = %d, %v", n, err)
			}
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			db := openAt(t, url)
			if n := db.TenantPartitions(); n != 3 {
				t.Errorf("%d partitions, want 3", n)
			}
			alike(t, db)
			sameIDs(t, db.pool)
			goesOn(t, db, version) // a consumer works on
		})
	}
}

// filled is a log with events that have ids, metadata and odd payloads, gaps, and some that
// were deleted.
func filled(t *testing.T) *DB {
	t.Helper()
	db := settled(t, 200)
	mustAppend(t, db, withID("t1", "gone", "removed"), withID("t2", "s0", "kept"))
	exec(t, db.pool, "DELETE FROM fairlead.events WHERE id = 'removed'")
	exec(t, db.pool, "UPDATE fairlead.removed SET accepted = removed")
	exec(t, db.pool, "SELECT nextval('fairlead.events_position_seq')")
	return db
}

// whole says what a log has, to the byte.
func whole(t *testing.T, c querier) string {
	t.Helper()
	return value[string](t, c, `SELECT md5(string_agg(e::text, '|' ORDER BY e.position)) FROM fairlead.events e`) +
		value[string](t, c, `SELECT string_agg(r::text, '|' ORDER BY r.id) FROM fairlead.removed_ids r`) +
		value[string](t, c, `SELECT (r, s, q.last_value, q.is_called)::text FROM fairlead.removed r, fairlead.safe_head s, fairlead.events_position_seq q`)
}

// TestPartitionByTenant: a log that is partitioned has what it had, while others append and
// read, and is not partitioned twice.
func TestPartitionByTenant(t *testing.T) {
	t.Parallel()
	db := filled(t)
	url := db.pool.Config().ConnString()
	role, as := newRole(t, db, "")
	quoted := pgx.Identifier{role}.Sanitize()
	exec(t, db.pool, "GRANT USAGE ON SCHEMA fairlead TO "+quoted)
	exec(t, db.pool, "GRANT SELECT ON ALL TABLES IN SCHEMA fairlead TO "+quoted)
	exec(t, db.pool, "GRANT INSERT, UPDATE ON fairlead.streams TO "+quoted)
	exec(t, db.pool, "GRANT INSERT ON fairlead.events TO "+quoted)
	exec(t, db.pool, "CREATE INDEX mine ON fairlead.events (type) WHERE type <> 'type-1'")
	exec(t, db.pool, "ALTER TABLE fairlead.events ADD COLUMN long integer GENERATED ALWAYS AS (length(data)) STORED")
	all, mayAll := newRole(t, db, "")
	quotedAll := pgx.Identifier{all}.Sanitize()
	exec(t, db.pool, "GRANT USAGE ON SCHEMA fairlead TO "+quotedAll)
	exec(t, db.pool, "GRANT ALL ON ALL TABLES IN SCHEMA fairlead TO "+quotedAll)
	changer, mayChange := newRole(t, db, "")
	quotedChanger := pgx.Identifier{changer}.Sanitize()
	exec(t, db.pool, "GRANT USAGE ON SCHEMA fairlead TO "+quotedChanger)
	exec(t, db.pool, "GRANT SELECT ON ALL TABLES IN SCHEMA fairlead TO "+quotedChanger)
	exec(t, db.pool, "GRANT UPDATE (id) ON fairlead.events TO "+quotedChanger)
	exec(t, db.pool, "GRANT USAGE ON SEQUENCE fairlead.events_position_seq TO "+quotedChanger+" WITH GRANT OPTION")
	few, _ := newRole(t, db, "") // gets nothing besides what it has
	exec(t, db.pool, "GRANT TRUNCATE, UPDATE (metadata) ON fairlead.events TO "+pgx.Identifier{few}.Sanitize())
	appender := openAt(t, as, Options{NoMigrate: true})
	mustAppend(t, appender, withID("t1", "appender", "of a role of few rights"))
	was := whole(t, db.pool)

	if n, err := db.PartitionByTenant(t.Context(), 4); err != nil || n != value[int64](t, db.pool, "SELECT count(*) FROM fairlead.events") {
		t.Fatalf("PartitionByTenant = %d, %v", n, err)
	}
	if got := whole(t, db.pool); got != was {
		t.Errorf("the log is\n%s\nand was\n%s", got, was)
	}
	sameIDs(t, db.pool)
	if n := value[int](t, db.pool, "SELECT count(*) FROM pg_indexes WHERE indexname = 'mine' AND tablename = 'events'"); n != 1 {
		t.Error("the user's index is gone")
	}
	for what, a := range map[string]eventlog.StreamAppend{"known": withID("t9", "s", "kept"), "removed": withID("t9", "s", "removed")} {
		if _, err := db.Append(t.Context(), a); !errors.Is(err, eventlog.ErrDuplicate) {
			t.Errorf("an id that is %s, under another tenant: %v, want a duplicate", what, err)
		}
	}
	mustAppend(t, appender, withID("t1", "appender", "of a role of few rights, again"))
	if grants, err := appender.MissingReadRights(t.Context()); err != nil || len(grants) != 0 {
		t.Errorf("to read it lacks %v, %v", grants, err)
	}
	truncater := connect(t, openAt(t, mayAll, Options{NoMigrate: true}))
	exec(t, truncater, "BEGIN")
	exec(t, truncater, "TRUNCATE fairlead.events")
	exec(t, truncater, "ROLLBACK")
	exec(t, connect(t, openAt(t, mayChange, Options{NoMigrate: true})), "UPDATE fairlead.events SET id = 'another' WHERE id = 'of a role of few rights'")
	sameIDs(t, db.pool)
	if !value[bool](t, db.pool, "SELECT has_sequence_privilege($1, 'fairlead.events_position_seq', 'USAGE WITH GRANT OPTION')", changer) {
		t.Error("who could give the right to the sequence no longer can")
	}
	if value[bool](t, db.pool, "SELECT has_table_privilege($1, 'fairlead.events_p0', 'SELECT') OR has_table_privilege($1, 'fairlead.event_ids', 'SELECT, INSERT, DELETE')", few) {
		t.Error("a role has rights that it had not")
	}
	openAt(t, url) // checks the sequence
	if n, err := db.PartitionByTenant(t.Context(), 4); err != nil || n != 0 {
		t.Errorf("PartitionByTenant again = %d, %v, want nothing to do", n, err)
	}
	if _, err := db.PartitionByTenant(t.Context(), 8); err == nil || !strings.Contains(err.Error(), "has 4 partitions") {
		t.Errorf("PartitionByTenant with another number = %v, want one that says so", err)
	}
	for _, n := range []int{-1, 1, 1000} {
		if _, err := db.PartitionByTenant(t.Context(), n); err == nil || !strings.Contains(err.Error(), "want 2 to 256") {
			t.Errorf("PartitionByTenant(%d) = %v", n, err)
		}
	}
	if kept := openAt(t, url, Options{TenantPartitions: 9}); kept.TenantPartitions() != 4 {
		t.Errorf("opened with another number it has %d partitions, want the 4 that it has", kept.TenantPartitions())
	}
	if plain := openTemp(t); openAt(t, plain.pool.Config().ConnString(), Options{TenantPartitions: 9}).TenantPartitions() != 0 {
		t.Error("a log that was there was partitioned by opening it")
	}
}

// TestPartitionUnderLoad: appenders and readers wait while a log is partitioned, and go on,
// those with their statements prepared before too.
func TestPartitionUnderLoad(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	fillLog(t, db, 5000)
	before := len(readAllEvents(t, db, eventlog.Filter{}))
	url := db.pool.Config().ConnString()
	done := make(chan struct{})
	var appending, reading sync.WaitGroup
	counts := make([]int, 3)
	for w := range counts {
		appender := openAt(t, url)
		appending.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				a := withID(fmt.Sprint("w", w), "s", fmt.Sprint(w, "-", i))
				if _, err := appender.Append(t.Context(), a, one(fmt.Sprint("also ", w))); err != nil {
					t.Errorf("append: %v", err)
					return
				}
				counts[w] += 2
			}
		})
	}
	end := make(chan struct{})
	seen := make([]([]event.Event), 2)
	for r := range seen {
		reader := openAt(t, url)
		reading.Go(func() {
			var err error
			if seen[r], err = follow(t.Context(), reader, end); err != nil {
				t.Errorf("reader: %v", err)
			}
		})
	}
	sleep(t.Context(), 200*time.Millisecond)
	start := time.Now()
	n, err := db.PartitionByTenant(t.Context(), 5)
	if err != nil || n < 5000 {
		t.Errorf("PartitionByTenant = %d, %v", n, err)
	}
	t.Logf("%d events were partitioned in %v", n, time.Since(start))
	sleep(t.Context(), 200*time.Millisecond)
	close(done)
	appending.Wait()
	close(end)
	reading.Wait()
	want := before
	for _, n := range counts {
		want += n
	}
	if want-before < 10 {
		t.Errorf("%d events were appended meanwhile: the test shows nothing", want-before)
	}
	for _, events := range seen {
		checkStreams(t, events, want)
	}
	sameIDs(t, db.pool)
}

// TestPartitionIsWhole: who is killed while he partitions a log leaves it as it was.
func TestPartitionIsWhole(t *testing.T) {
	t.Parallel()
	db := filled(t)
	was := whole(t, db.pool)
	other := openAt(t, db.pool.Config().ConnString())
	// Who makes a function that it will make waits for this one, behind the copy.
	tx, err := connect(t, db).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "CREATE FUNCTION fairlead.keep_id() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
	result := make(chan error, 1)
	go func() {
		_, err := other.PartitionByTenant(t.Context(), 4)
		result <- err
	}()
	const waiting = `SELECT l.pid FROM pg_locks l JOIN pg_locks h ON h.pid = l.pid AND h.mode = 'AccessExclusiveLock' AND h.granted AND h.relation = 'fairlead.events'::regclass
		WHERE NOT l.granted AND l.locktype = 'transactionid' LIMIT 1`
	var pid int
	c := connect(t, db)
	for pid == 0 {
		if err := c.QueryRow(t.Context(), waiting).Scan(&pid); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			t.Fatal(err)
		}
		select {
		case err := <-result:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	exec(t, c, "SET lock_timeout = '50ms'")
	for _, sql := range []string{"SELECT max(position) FROM fairlead.events", "INSERT INTO fairlead.events(tenant, stream, version, type, occurred_at) VALUES ('a', 'new', 1, 'T', now())"} {
		var e *pgconn.PgError
		if _, err := c.Exec(t.Context(), sql); !errors.As(err, &e) || e.Code != "55P03" {
			t.Errorf("%s meanwhile = %v, want it to wait", sql, err)
		}
	}
	exec(t, c, "SELECT pg_terminate_backend($1)", pid)
	if err := <-result; !errors.Is(err, ErrUnreachable) {
		t.Errorf("PartitionByTenant = %v, want that its connection was cut", err)
	}
	exec(t, tx, "ROLLBACK")
	if got := whole(t, c); got != was {
		t.Errorf("the log is\n%s\nand was\n%s", got, was)
	}
	if n := value[int](t, c, "SELECT count(*) FROM pg_class WHERE relname ~ '^(event_ids|events_before|events_p[0-9]+)$'"); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	mustAppend(t, db, withID("t1", "s", "after"))
	if _, err := other.PartitionByTenant(t.Context(), 4); err != nil {
		t.Errorf("PartitionByTenant afterwards = %v", err)
	}
	sameIDs(t, c)
}

// TestPartitionRefused: what would be lost is named, and who holds the table is not waited
// for without an end.
func TestPartitionRefused(t *testing.T) {
	t.Parallel()
	db := filled(t)
	for undo, make := range map[string]string{
		"DROP TABLE mine": "CREATE TABLE mine(position bigint REFERENCES fairlead.events)",
		"DROP VIEW mine":  "CREATE VIEW mine AS SELECT position FROM fairlead.events",
		"ALTER TABLE fairlead.events DISABLE ROW LEVEL SECURITY":       "ALTER TABLE fairlead.events ENABLE ROW LEVEL SECURITY",
		"DROP PUBLICATION mine":                                        "CREATE PUBLICATION mine FOR TABLE fairlead.events",
		"ALTER TABLE fairlead.events DROP CONSTRAINT mine":             "ALTER TABLE fairlead.events ADD CONSTRAINT mine EXCLUDE USING btree (position WITH =)",
		"ALTER TABLE fairlead.events DROP CONSTRAINT theirs":           "ALTER TABLE fairlead.events ADD CONSTRAINT theirs UNIQUE (tenant, position)",
		"ALTER TABLE fairlead.events ENABLE TRIGGER USER":              "ALTER TABLE fairlead.events DISABLE TRIGGER USER",
		"ALTER TABLE fairlead.events ENABLE TRIGGER note_delete":       "ALTER TABLE fairlead.events ENABLE ALWAYS TRIGGER note_delete",
		"ALTER TABLE fairlead.events DROP COLUMN mine":                 "ALTER TABLE fairlead.events ADD COLUMN mine bigint GENERATED ALWAYS AS IDENTITY",
		"ALTER TABLE fairlead.events REPLICA IDENTITY DEFAULT":         "ALTER TABLE fairlead.events REPLICA IDENTITY FULL",
		"DROP PUBLICATION everything":                                  "CREATE PUBLICATION everything FOR ALL TABLES",
		"ALTER TABLE fairlead.events RESET (toast.autovacuum_enabled)": "ALTER TABLE fairlead.events SET (toast.autovacuum_enabled = off)",
		"ALTER TABLE fairlead.events SET LOGGED":                       "ALTER TABLE fairlead.events SET UNLOGGED",
	} {
		exec(t, db.pool, make)
		if _, err := db.PartitionByTenant(t.Context(), 4); err == nil || !strings.Contains(err.Error(), "would lose") {
			t.Errorf("after %s: %v, want it refused", make, err)
		}
		exec(t, db.pool, undo)
	}
	if value[int](t, db.pool, "SELECT current_setting('server_version_num')::int") >= 150000 { // those of older ones need a directory
		space := pgx.Identifier{"of " + db.pool.Config().ConnConfig.Database}.Sanitize()
		c := connect(t, db)
		exec(t, c, "SET allow_in_place_tablespaces = on")
		exec(t, c, "CREATE TABLESPACE "+space+" LOCATION ''")
		exec(t, c, "ALTER INDEX fairlead.events_id SET TABLESPACE "+space)
		if _, err := db.PartitionByTenant(t.Context(), 4); err == nil || !strings.Contains(err.Error(), "of events_id") {
			t.Errorf("with an index in a tablespace: %v", err)
		}
		exec(t, c, "ALTER INDEX fairlead.events_id SET TABLESPACE pg_default")
		exec(t, c, "DROP TABLESPACE "+space)
	}
	tx, _ := begin(t, db, "s")
	if _, err := db.PartitionByTenant(t.Context(), 4); !errors.Is(err, ErrTimeout) {
		t.Errorf("while somebody has appended: %v, want ErrTimeout", err)
	}
	exec(t, tx, "ROLLBACK")
	if _, err := db.PartitionByTenant(t.Context(), 4); err != nil {
		t.Error(err)
	}
	// A partition that is not there is found at the next start.
	exec(t, db.pool, "ALTER TABLE fairlead.events DETACH PARTITION fairlead.events_p2")
	_, err := Open(t.Context(), db.pool.Config().ConnString())
	if err == nil || !strings.Contains(err.Error(), "lacks its partition events_p2") {
		t.Fatalf("Open = %v, want it to name the partition", err)
	}
	_, repair, _ := strings.Cut(err.Error(), "ALTER TABLE")
	repair, _, _ = strings.Cut(repair, ", after")
	exec(t, db.pool, "ALTER TABLE"+repair)
	openAt(t, db.pool.Config().ConnString())
	for i := range 4 {
		exec(t, db.pool, fmt.Sprint("ALTER TABLE fairlead.events DETACH PARTITION fairlead.events_p", i))
	}
	if _, err := Open(t.Context(), db.pool.Config().ConnString()); err == nil || !strings.Contains(err.Error(), "lacks all its partitions") {
		t.Errorf("Open without any partition = %v", err)
	}
}

// TestPartitionDetachedByHalf: a partition whose DETACH CONCURRENTLY did not end is out of
// sight already.
func TestPartitionDetachedByHalf(t *testing.T) {
	t.Parallel()
	db := openPartitioned(t)
	if value[int](t, db.pool, "SELECT current_setting('server_version_num')::int") < 140000 {
		t.Log("comes with PostgreSQL 14")
		return
	}
	reader, detacher := connect(t, db), connect(t, db)
	exec(t, reader, "BEGIN")
	exec(t, reader, "SELECT count(*) FROM fairlead.events")
	exec(t, detacher, "SET statement_timeout = 500")
	if _, err := detacher.Exec(t.Context(), "ALTER TABLE fairlead.events DETACH PARTITION fairlead.events_p1 CONCURRENTLY"); err == nil {
		t.Fatal("it was detached beside a reader")
	}
	if _, err := Open(t.Context(), db.pool.Config().ConnString()); err == nil || !strings.Contains(err.Error(), "lacks its partition events_p1") {
		t.Errorf("Open = %v, want it to name the partition", err)
	}
}

// TestPartitionKeepsRights: who had few rights has the same ones, whatever new tables are
// given by default, and can do with them what he could.
func TestPartitionKeepsRights(t *testing.T) {
	t.Parallel()
	db := filled(t)
	do := func(sql string, names ...string) {
		t.Helper()
		var quoted []any
		for _, n := range names {
			quoted = append(quoted, pgx.Identifier{n}.Sanitize())
		}
		exec(t, db.pool, fmt.Sprintf(sql, quoted...))
	}
	reader, _ := newRole(t, db, "")
	do("ALTER DEFAULT PRIVILEGES IN SCHEMA fairlead GRANT ALL ON TABLES TO %s", reader)
	do("ALTER DEFAULT PRIVILEGES IN SCHEMA fairlead GRANT ALL ON SEQUENCES TO %s", reader)
	do("GRANT USAGE ON SCHEMA fairlead TO %s", reader)
	do("GRANT SELECT ON fairlead.events TO %s", reader)
	column, _ := newRole(t, db, "")
	do("GRANT SELECT (position, tenant) ON fairlead.events TO %s", column)
	writer, _ := newRole(t, db, "")
	do("GRANT INSERT ON fairlead.events TO %s", writer)
	truncater, mayTruncate := newRole(t, db, "")
	do("GRANT USAGE ON SCHEMA fairlead TO %s", truncater)
	do("GRANT SELECT, TRUNCATE ON fairlead.events TO %s", truncater)
	do("GRANT SELECT, UPDATE ON fairlead.removed, fairlead.streams TO %s", truncater)
	do("GRANT SELECT, INSERT ON fairlead.removed_ids TO %s", truncater)
	do("ALTER TABLE fairlead.events ADD COLUMN mine text")
	do("GRANT SELECT (mine) ON fairlead.events TO %s", column)
	do("ALTER TABLE fairlead.events DROP COLUMN mine")
	owner := value[string](t, db.pool, "SELECT current_user::text")
	do("REVOKE TRUNCATE ON fairlead.events FROM %s", owner)
	truncate := func() {
		t.Helper()
		c, err := pgx.Connect(t.Context(), mayTruncate)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(context.WithoutCancel(t.Context())) }()
		exec(t, c, "BEGIN")
		exec(t, c, "TRUNCATE fairlead.events")
		exec(t, c, "ROLLBACK")
	}
	truncate()
	if _, err := db.PartitionByTenant(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	truncate()
	for _, x := range []struct{ role, on, rights string }{
		{reader, "events", "SELECT"}, {reader, "events_p0", ""}, {reader, "event_ids", "SELECT"},
		{column, "events", ""}, {column, "events_p0", ""}, {column, "event_ids", ""},
		{writer, "events", "INSERT"}, {writer, "event_ids", "INSERT"},
		{truncater, "events", "SELECT TRUNCATE"}, {truncater, "event_ids", "SELECT DELETE"},
	} {
		got := value[string](t, db.pool, `SELECT coalesce(string_agg(r, ' ' ORDER BY n), '') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) WITH ORDINALITY x(r, n)
			WHERE has_table_privilege($1, 'fairlead.' || $2, r)`, x.role, x.on)
		if got != x.rights {
			t.Errorf("rights on %s are %q, want %q", x.on, got, x.rights)
		}
	}
	if !value[bool](t, db.pool, "SELECT has_column_privilege($1, 'fairlead.event_ids', 'tenant', 'SELECT') AND NOT has_column_privilege($1, 'fairlead.event_ids', 'id', 'SELECT')", column) {
		t.Error("who could read the tenant can read more or less of event_ids")
	}
	if value[bool](t, db.pool, "SELECT has_sequence_privilege($1, 'fairlead.events_position_seq', 'UPDATE')", reader) {
		t.Error("a reader may set the sequence")
	}
	own := value[string](t, db.pool, "SELECT string_agg(a.privilege_type, ' ' ORDER BY 1) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'fairlead.events'::regclass AND a.grantee = c.relowner")
	if strings.Contains(own, "TRUNCATE") || !strings.Contains(own, "INSERT") {
		t.Errorf("the owner's rights on events are %s, want all but to TRUNCATE", own)
	}
}

// TestPartitionByMember: the schema is one role's, and a function of it that of a member who
// has migrated it.
func TestPartitionByMember(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	root := openAt(t, url, Options{Schema: "other"})
	owner, asOwner := newRole(t, root, "")
	member, asMember := newRole(t, root, "")
	o, m := pgx.Identifier{owner}.Sanitize(), pgx.Identifier{member}.Sanitize()
	exec(t, root.pool, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", pgx.Identifier{root.pool.Config().ConnConfig.Database}.Sanitize(), o))
	mustAppend(t, openAt(t, asOwner), withID("t1", "s", "before"))
	exec(t, root.pool, fmt.Sprintf("GRANT %s TO %s; GRANT CREATE ON SCHEMA fairlead TO %[2]s", o, m))
	exec(t, root.pool, `DO $$ DECLARE f regprocedure; BEGIN
		FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'fairlead'::regnamespace AND proname = 'append' LOOP
			EXECUTE format('ALTER FUNCTION %s OWNER TO `+m+`', f);
		END LOOP; END $$`)
	db := openAt(t, asMember)
	if n, err := db.PartitionByTenant(t.Context(), 4); err != nil || n != 1 {
		t.Fatalf("PartitionByTenant = %d, %v", n, err)
	}
	mustAppend(t, openAt(t, asMember), withID("t1", "s", "afterwards"))
}

// TestPartitionOddSchemas: names that look like part of the statements.
func TestPartitionOddSchemas(t *testing.T) {
	for _, schema := range []string{`odd "schema'`, "pg%s $1 {schema}", "$users", "{partitions}", "{found}", "events"} {
		t.Run(schema, func(t *testing.T) {
			url := pgtest.Database(t)
			db := openAt(t, url, Options{Schema: schema})
			mustAppend(t, db, withID("t1", "s", "a"), withID("t2", "s", "b"))
			if n, err := db.PartitionByTenant(t.Context(), 4); err != nil || n != 2 {
				t.Fatalf("PartitionByTenant = %d, %v", n, err)
			}
			mustAppend(t, db, withID("t1", "s", "c"), withID("t3", "s", "d"))
			exec(t, db.pool, db.q("DELETE FROM {schema}.events WHERE tenant = 't3'"))
			exec(t, db.pool, db.q("TRUNCATE {schema}.events"))
			openAt(t, url, Options{Schema: schema})
		})
	}
}
