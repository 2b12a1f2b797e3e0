package postgres

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestPartitionedLog: what is true of a log is true of one in partitions.
func TestPartitionedLog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"AppendInTransaction":    TestAppendInTransaction,
		"LostRaces":              TestLostRaces,
		"NoDeadlocks":            TestNoDeadlocks,
		"AppendToSeveral":        TestAppendToSeveral,
		"AppendToSeveralAtOnce":  TestAppendToSeveralAtOnce,
		"ClassInTransactions":    TestClassInTransactions,
		"ConcurrentTransactions": TestConcurrentTransactions,
		"CommitsOutOfOrder":      TestCommitsOutOfOrder,
		"RolledBackAndSavepoint": TestRolledBackAndSavepoint,
		"Prepared":               TestPrepared,
		"UnrelatedTransactions":  TestUnrelatedTransactions,
		"WaitBehindGap":          TestWaitBehindGap,
		"Rounds":                 TestRounds,
		"ReadBelowNoMore":        TestReadBelowNoMore,
		"ReadsWithoutStatistics": TestReadsWithoutStatistics,
		"Sequence":               TestSequence,
		"RightsListed":           TestRightsListed,
		"Rights":                 TestRights, // a consumer works
	} {
		t.Run(name, test)
	}
}

func TestPartitionedConformance(t *testing.T) {
	t.Parallel()
	eventlogtest.Run(t, inSchemas(t, Options{TenantPartitions: 3}), logFeatures)
}

// openPartitioned opens a new database whose events are in 4 partitions.
func openPartitioned(t *testing.T) *DB {
	t.Helper()
	db := openTemp(t)
	if _, err := db.PartitionByTenant(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	return openAt(t, db.pool.Config().ConnString())
}

// partOf returns the partition that has a tenant's events.
func partOf(t *testing.T, c querier, tenant string) string {
	t.Helper()
	return value[string](t, c, "SELECT DISTINCT tableoid::regclass::text FROM fairlead.events WHERE tenant = $1", tenant)
}

func withID(tenant, stream, id string) eventlog.StreamAppend {
	return eventlog.StreamAppend{Tenant: tenant, Stream: stream, Events: []eventlog.NewEvent{{Type: "T", ID: id}}}
}

// sameIDs checks that event_ids is what the events say.
func sameIDs(t *testing.T, c querier) {
	t.Helper()
	differ := value[int](t, c, `WITH e AS (SELECT id, tenant, stream, version FROM fairlead.events WHERE id IS NOT NULL), i AS (SELECT id, tenant, stream, version FROM fairlead.event_ids)
		SELECT count(*) FROM ((TABLE e EXCEPT ALL TABLE i) UNION ALL (TABLE i EXCEPT ALL TABLE e)) d`)
	if differ != 0 {
		t.Errorf("event_ids and events differ in %d rows", differ)
	}
}

// TestPartitionsOneID: of two tenants that append an event of one id at the same time, one
// has it, whichever ends first.
func TestPartitionsOneID(t *testing.T) {
	t.Parallel()
	db := openPartitioned(t)
	mustAppend(t, db, withID("a", "s", "1"), withID("e", "s", "2"))
	if x, y := partOf(t, db.pool, "a"), partOf(t, db.pool, "e"); x == y {
		t.Fatalf("both tenants are in %s: the test shows nothing", x)
	}
	for _, commit := range []bool{true, false} {
		id := fmt.Sprint("raced ", commit)
		tx, err := connect(t, db).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.AppendTx(t.Context(), tx, withID("a", "s", id)); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := db.Append(t.Context(), withID("e", "s", id))
			second <- err
		}()
		for value[int](t, db.pool, "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") == 0 {
			sleep(t.Context(), time.Millisecond)
		}
		if commit {
			err = tx.Commit(t.Context())
		} else {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := <-second; errors.Is(err, eventlog.ErrDuplicate) != commit || err != nil != commit {
			t.Errorf("the first ends with COMMIT: %t; the second: %v", commit, err)
		}
	}
	const tenants, ids = 8, 40
	var wg sync.WaitGroup
	stored := make([]int, tenants)
	for w := range tenants {
		wg.Go(func() {
			for i := range ids {
				_, err := db.Append(t.Context(), withID(fmt.Sprint("t", w), "s", fmt.Sprint("id", i)))
				if err == nil {
					stored[w]++
				} else if !errors.Is(err, eventlog.ErrDuplicate) {
					t.Errorf("Append = %v, want nil or a duplicate", err)
				}
			}
		})
	}
	wg.Wait()
	if n := value[int](t, db.pool, "SELECT count(DISTINCT id) FROM fairlead.events WHERE id LIKE 'id%'"); n != ids {
		t.Errorf("%d ids are stored, want %d", n, ids)
	}
	total := 0
	for _, n := range stored {
		total += n
	}
	if total != ids {
		t.Errorf("%d appends were stored, want %d", total, ids)
	}
	sameIDs(t, db.pool)
}

// TestPartitionsByHand: what is deleted, truncated, inserted and changed by the name of a
// partition is noticed as it is by the name of the table.
func TestPartitionsByHand(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"delete all":      "DELETE FROM fairlead.events",
		"delete some":     "DELETE FROM fairlead.events WHERE tenant = 'a'",
		"delete in part":  "DELETE FROM PART",
		"truncate":        "TRUNCATE fairlead.events",
		"truncate a part": "TRUNCATE PART",
	} {
		t.Run(name, func(t *testing.T) {
			db := openPartitioned(t)
			mustAppend(t, db, withID("e", "s", "other"))
			mustAppend(t, db, withID("a", "s", "1"))
			mustAppend(t, db, eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{{Type: "T"}}})
			last := mustAppend(t, db, withID("a", "s", "3"))
			exec(t, db.pool, strings.ReplaceAll(sql, "PART", partOf(t, db.pool, "a")))
			sameIDs(t, db.pool)
			_, err := db.Read(t.Context(), eventlog.ReadRequest{})
			if gone, ok := errors.AsType[*eventlog.TruncatedError](err); !ok || gone.First <= last.Position {
				t.Errorf("Read = %v, want to be told that all up to %v is gone", err, last.Position)
			}
			if _, err := db.ReadStream(t.Context(), eventlog.StreamRef{Tenant: "a", Stream: "s"}, 0, 10); !errors.Is(err, eventlog.ErrTruncated) {
				t.Errorf("ReadStream = %v, want to be told that it is gone", err)
			}
			if _, err := db.Append(t.Context(), withID("e", "s", "3")); !errors.Is(err, eventlog.ErrDuplicate) {
				t.Errorf("the id of a deleted event under another tenant: %v, want a duplicate", err)
			}
			if again, err := db.Append(t.Context(), withID("a", "s", "3")); err != nil || again.Position < last.Position {
				t.Errorf("what was deleted is appended again: %+v, %v, want what it got, at %v", again, err, last.Position)
			}
			if left := value[int](t, db.pool, "SELECT count(*) FROM fairlead.events WHERE tenant = 'e'"); left == 1 {
				exec(t, db.pool, "UPDATE fairlead.removed SET accepted = removed")
				if got := readAllEvents(t, db, eventlog.Filter{}); strings.HasSuffix(name, "some") && len(got) != 1 {
					t.Errorf("%d events are left, want that of the other tenant", len(got))
				}
			}
			mustAppend(t, db, one("s"))
			if v := value[int](t, db.pool, "SELECT version FROM fairlead.events WHERE tenant = 'a'"); v != 4 {
				t.Errorf("the stream goes on with version %d, want 4", v)
			}
		})
	}
	t.Run("insert and update", func(t *testing.T) {
		db := openPartitioned(t)
		mustAppend(t, db, withID("a", "s", "1"), withID("e", "s", "2"))
		part := partOf(t, db.pool, "a")
		insert := "INSERT INTO " + part + "(tenant, stream, version, type, occurred_at, id) VALUES ('a', 'by hand', 1, 'T', now(), $1)"
		exec(t, db.pool, insert, "3")
		for _, sql := range []string{insert, "UPDATE fairlead.events SET id = $1 WHERE tenant = 'a' AND stream = 's'"} {
			var e *pgconn.PgError
			if _, err := db.pool.Exec(t.Context(), sql, "2"); !errors.As(err, &e) || e.Code != "23505" {
				t.Errorf("%s with the id of another tenant's event: %v, want it refused", sql, err)
			}
		}
		exec(t, db.pool, "UPDATE fairlead.events SET id = '4', data = '{}' WHERE id = '1'")
		exec(t, db.pool, "UPDATE fairlead.events SET tenant = 'e', stream = 'moved' WHERE id = '3'") // into another partition
		exec(t, db.pool, "UPDATE fairlead.events SET id = NULL WHERE id = '2'")
		sameIDs(t, db.pool)
		if n := value[int](t, db.pool, "SELECT count(*) FROM fairlead.event_ids"); n != 2 {
			t.Errorf("%d ids, want 2", n)
		}
	})
}

// TestPartitionsOfATenant: what is asked of a tenant is looked for in its partition only,
// whatever is prepared, and pages of all are walks along indexes.
func TestPartitionsOfATenant(t *testing.T) {
	t.Parallel()
	db := openPartitioned(t)
	fillLog(t, db, 4000)
	own := strings.TrimPrefix(partOf(t, db.pool, "t7"), "fairlead.")
	const safe, head = 3000, 4000
	few := []string{"t7"}
	for name, tt := range map[string]struct {
		sql  string
		args []any
		all  int // looks into each partition besides: for the log's end, and when the first is of
	}{
		"stream":        {readStream, []any{"t7", "s0", 0, 100}, 0},
		"find":          {"SELECT {schema}.find($1, NULL, NULL, NULL, NULL, 0, 4000, 1000, 16384)", []any{few}, 0},
		"find types":    {"SELECT {schema}.find($1, NULL, NULL, ARRAY['OrderPlaced'], NULL, 0, 4000, 1000, 16384)", []any{few}, 0},
		"append":        {"SELECT (a).status FROM (SELECT {schema}.append($1, ARRAY['new'], NULL, NULL, ARRAY[1], ARRAY[NULL::bigint], ARRAY[1], ARRAY[true], ARRAY['T'], NULL, ARRAY['again'], NULL, NULL, NULL, NULL, NULL)) x(a)", []any{few}, 0},
		"page":          {db.sql.found(&filter{few: few}), []any{int64(safe), int64(0), int64(head), 1000, int64(1 << 20), 1 << 20, few, nil, nil, nil, nil}, 2},
		"count":         {countFound, []any{int64(safe), int64(0), int64(head), 1000, few, nil, nil, nil, nil}, 3},
		"count tenants": {countTenants, []any{int64(safe), few, []int64{0}, int64(head), 1000}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := connect(t, db).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for range 8 { // so that the server makes a plan for any parameters, if it does
				rows, err := tx.Query(t.Context(), db.q(tt.sql), tt.args...)
				if err == nil {
					rows.Close()
					err = rows.Err()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			rows, err := tx.Query(t.Context(), `SELECT t.relname::text, i.indexrelname LIKE '%\_pkey', sum(i.idx_scan)::bigint, t.seq_scan
				FROM pg_stat_xact_user_tables t LEFT JOIN (SELECT x.relid, x.indexrelname, pg_stat_get_xact_numscans(x.indexrelid) AS idx_scan FROM pg_stat_user_indexes x) i USING (relid)
				WHERE t.relname LIKE 'events\_p%' GROUP BY 1, 2, 4`)
			if err != nil {
				t.Fatal(err)
			}
			var part string
			var byPosition bool
			var n, seq int64
			seen := 0
			_, err = pgx.ForEachRow(rows, []any{&part, &byPosition, &n, &seq}, func() error {
				seen += int(n)
				fine := n == 0 || part == own || byPosition && n <= int64(8*tt.all)
				if !fine || seq > 0 {
					t.Errorf("%s: %d looks into an index (of positions: %t) and %d scans, the tenant is in %s", part, n, byPosition, seq, own)
				}
				return nil
			})
			if err != nil || seen == 0 {
				t.Errorf("%d looks, %v", seen, err)
			}
		})
	}
	plan := func(sql string, args ...any) string {
		c := connect(t, db)
		exec(t, c, "SET plan_cache_mode = force_generic_plan")
		exec(t, c, "SET enable_sort = off") // said as a cost: it is there where it is needed
		return explain(t, c, db.q(sql), args...)
	}
	if p := plan(readBelow, int64(0), int64(head), 100, 1000); strings.Contains(p, "Sort  ") || !strings.Contains(p, "Merge Append") || strings.Contains(p, "Seq Scan") {
		t.Errorf("a page is not merged from the indexes:\n%s", p)
	}
	if partitionedStatements.readAll == readAll || partitionedStatements.readFound == readFound || partitionedStatements.countedFound == countedFound {
		t.Error("statements of a log in partitions are those of one table")
	}
}
