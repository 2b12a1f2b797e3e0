package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A schema is one of Fairlead's that tests have one after the other: that is faster than
// to migrate a new one for each. They are the sub-tests of one test, which has the
// connection.
type schema struct {
	name   string
	conn   *pgx.Conn
	tables []string // quoted, with partitions
	asNew  string   // statements that make it what it was
}

// schemas hands out schemas that are as new.
type schemas struct {
	conn *pgx.Conn
	free []*schema
}

func newSchemas(t *testing.T, url string) *schemas {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return &schemas{conn: c}
}

// open lets f open a schema of the name for a sub-test, or again one that an
// earlier one had.
func (s *schemas) open(t *testing.T, name string, f func(name string) *DB) *DB {
	t.Helper()
	one := &schema{name: name, conn: s.conn}
	if n := len(s.free); n > 0 {
		one, s.free = s.free[n-1], s.free[:n-1]
	}
	t.Cleanup(func() { // after the one that closes it
		if !t.Failed() && one.asNew != "" {
			one.clear(t)
			s.free = append(s.free, one)
		}
	})
	db := f(one.name)
	if one.asNew == "" {
		one.remember(t)
	}
	return db
}

// remember notes what is in a schema that was just migrated.
func (s *schema) remember(t *testing.T) {
	t.Helper()
	s.tables = s.list(t, true, "r", "p")
	tables := s.list(t, false, "r", "p")
	// The events first: what their triggers write is deleted after them.
	slices.SortStableFunc(tables, func(a, b string) int {
		if strings.HasSuffix(a, ".events") {
			return -1
		}
		if strings.HasSuffix(b, ".events") {
			return 1
		}
		return 0
	})
	var sql strings.Builder
	for _, table := range tables {
		fmt.Fprintf(&sql, "DELETE FROM %s;\n", table)
	}
	for _, table := range tables {
		if rows := value[*string](t, s.conn, fmt.Sprintf("SELECT quote_literal(jsonb_agg(to_jsonb(x))::text) FROM %s x", table)); rows != nil {
			fmt.Fprintf(&sql, "INSERT INTO %s OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::%s, %s);\n", table, table, *rows)
		}
	}
	for _, sequence := range s.list(t, false, "S") {
		sql.WriteString(value[string](t, s.conn, fmt.Sprintf("SELECT format('SELECT setval(%%L, %%s, %%L);', %s, last_value, is_called) FROM %s", literal(sequence), sequence)) + "\n")
	}
	s.asNew = sql.String()
}

// clear takes out what a test has made, and puts back what was there.
func (s *schema) clear(t *testing.T) {
	t.Helper()
	var sql strings.Builder
	sql.WriteString("BEGIN;\n")
	for _, table := range s.list(t, true, "r", "p") {
		if !slices.Contains(s.tables, table) {
			sql.WriteString("DROP TABLE IF EXISTS " + table + " CASCADE;\n")
		}
	}
	if _, err := s.conn.PgConn().Exec(context.Background(), sql.String()+s.asNew+"COMMIT").ReadAll(); err != nil {
		t.Errorf("the schema is not as new: %v", err)
	}
}

// list returns the quoted names of the relations of some kinds, and of what a test has
// made beside the schema.
func (s *schema) list(t *testing.T, partitions bool, kinds ...string) []string {
	t.Helper()
	rows, err := s.conn.Query(context.Background(), `SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE nspname IN ($1, 'public') AND relkind::text = ANY($2) AND ($3 OR NOT relispartition) ORDER BY 1`, s.name, kinds, partitions)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}
