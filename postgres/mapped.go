package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// A mapped log is a [Mapping] that was checked against its table.
type mapped struct {
	m        Mapping
	table    string // quoted, with its schema
	position string // quoted
	oid      uint32 // of the table
	sequence uint32
	seqName  string
	peek     bool // the role may read the sequence
	types    map[string]uint32
	advice   []string
}

// checkMapping checks m against the database, and makes its statements.
func (db *DB) checkMapping(ctx context.Context, m Mapping) error {
	x := &mapped{m: m, types: map[string]uint32{}}
	for _, check := range []func(context.Context, *DB) error{
		x.checkTable, x.checkColumns, x.checkExpressions, x.findSequence, x.checkSequence, x.checkPositions, x.checkIndex,
	} {
		if err := check(ctx, db); err != nil {
			return err
		}
	}
	db.mapped, db.sql, db.head.late = x, x.statements(), m.LateInserts
	return nil
}

// misfit is an error of the mapping.
func (x *mapped) misfit(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMapping, fmt.Errorf(format, args...))
}

func (x *mapped) checkTable(ctx context.Context, db *DB) error {
	var schema, name, kind, user string
	var children, secured bool
	err := db.pool.QueryRow(ctx, `SELECT c.oid, n.nspname, c.relname, c.relkind::text, current_user::text,
			c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid),
			row_security_active(c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)`, x.m.Table).
		Scan(&x.oid, &schema, &name, &kind, &user, &children, &secured)
	server, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return x.misfit("there is no table %s in database %s: name its schema, or set search_path in the URL; a name that is not all small letters is quoted", x.m.Table, db.where)
	case server != nil && server.Code == "42501":
		schema, _, _ := strings.Cut(x.m.Table, ".")
		return fmt.Errorf("%w: GRANT USAGE ON SCHEMA %s TO the role (%w)", ErrRights, schema, err)
	case server != nil && server.Code[:2] == "42":
		return x.misfit("Table %q is no name of a table: %w", x.m.Table, err)
	case err != nil:
		return err
	case kind != "r" && kind != "p":
		return x.misfit("%s is not a table: map the table whose rows are inserted, since the locks on it say what may still appear", x.m.Table)
	case children:
		return x.misfit("%s has tables that inherit from it, other than partitions", x.m.Table)
	case secured:
		return fmt.Errorf("%w: row-level security hides events of %s from role %s: ALTER ROLE %s BYPASSRLS", ErrRights, x.m.Table, user,
			pgx.Identifier{user}.Sanitize())
	}
	x.table = pgx.Identifier{schema, name}.Sanitize()
	var usage, read bool
	if err := db.pool.QueryRow(ctx, "SELECT has_schema_privilege($1, 'USAGE'), has_any_column_privilege($2::oid, 'SELECT')", schema, x.oid).
		Scan(&usage, &read); err != nil {
		return err
	}
	role := pgx.Identifier{user}.Sanitize()
	if !usage {
		return fmt.Errorf("%w: GRANT USAGE ON SCHEMA %s TO %s", ErrRights, pgx.Identifier{schema}.Sanitize(), role)
	}
	if !read {
		return fmt.Errorf("%w: GRANT SELECT ON %s TO %s", ErrRights, x.table, role)
	}
	return nil
}

func (x *mapped) checkColumns(ctx context.Context, db *DB) error {
	rows, err := db.pool.Query(ctx, "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped", x.oid)
	if err != nil {
		return err
	}
	columns := map[string]bool{}
	var name string
	var oid, position uint32
	want := column(x.m.Position)
	if _, err := pgx.ForEachRow(rows, []any{&name, &oid}, func() error {
		columns[name] = true
		if name == want {
			position = oid
		}
		return nil
	}); err != nil {
		return err
	}
	switch position {
	case pgtype.Int8OID, pgtype.Int4OID:
	case 0:
		return x.misfit("table %s has no column %s (Position)", x.m.Table, x.m.Position)
	default:
		return x.misfit("column %s of table %s (Position) is no integer", x.m.Position, x.m.Table)
	}
	x.position = pgx.Identifier{want}.Sanitize()
	x.m.adapt(columns)
	return nil
}

// column is the name of a column as the catalogue has it.
func column(name string) string {
	name = strings.TrimSpace(name)
	if inner, ok := strings.CutPrefix(name, `"`); ok && strings.HasSuffix(inner, `"`) {
		return strings.ReplaceAll(inner[:len(inner)-1], `""`, `"`)
	}
	return strings.ToLower(name)
}

var (
	texts    = []uint32{pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID, pgtype.NameOID, pgtype.UUIDOID, pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID}
	integers = []uint32{pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID}
	moments  = []uint32{pgtype.TimestamptzOID, pgtype.TimestampOID}
	objects  = []uint32{pgtype.JSONOID, pgtype.JSONBOID, pgtype.TextOID, pgtype.VarcharOID}
)

// checkExpressions has PostgreSQL say what each expression is.
func (x *mapped) checkExpressions(ctx context.Context, db *DB) error {
	for _, f := range []struct {
		name, sql string
		types     []uint32
		want      string
	}{
		{"Stream", x.m.Stream, texts, "text, uuid or an integer"},
		{"Type", x.m.Type, texts, "text"},
		{"Tenant", x.m.Tenant, texts, "text"},
		{"Class", x.m.Class, texts, "text"},
		{"Version", x.m.Version, integers, "an integer"},
		{"RecordedAt", x.m.RecordedAt, moments, "timestamptz or timestamp"},
		{"OccurredAt", x.m.OccurredAt, moments, "timestamptz or timestamp"},
		{"ID", x.m.ID, texts, "text or uuid"},
		{"Data", x.m.Data, append([]uint32{pgtype.ByteaOID}, objects...), "json, jsonb, text or bytea"},
		{"Metadata", x.m.Metadata, objects, "json, jsonb or text"},
		{"Headers", strings.TrimSuffix(x.m.headersSQL(), "::text"), nil, ""},
		{"Where", x.m.Where, []uint32{pgtype.BoolOID}, "a condition"},
	} {
		if f.sql == "" {
			continue
		}
		oid, err := x.typeOf(ctx, db, f.sql)
		if server, ok := errors.AsType[*pgconn.PgError](err); ok {
			switch {
			case server.Code == "42501":
				return fmt.Errorf("%w: GRANT SELECT ON %s TO the role (field %s of the mapping: %w)", ErrRights, x.table, f.name, err)
			case server.Code[:2] == "42":
				return x.misfit("field %s, %s, is not right for table %s: %w", f.name, f.sql, x.m.Table, err)
			}
		}
		if err != nil {
			return err
		}
		ok := f.types == nil
		for _, t := range f.types {
			ok = ok || t == oid
		}
		if !ok {
			name := fmt.Sprint(oid)
			_ = db.pool.QueryRow(ctx, "SELECT format_type($1, NULL)", oid).Scan(&name)
			return x.misfit("field %s, %s, is of type %s, want %s", f.name, f.sql, name, f.want)
		}
		x.types[f.name] = oid
	}
	return nil
}

func (x *mapped) typeOf(ctx context.Context, db *DB, sql string) (uint32, error) {
	rows, err := db.pool.Query(ctx, "SELECT ("+sql+") FROM "+x.table+" t LIMIT 0")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	return rows.FieldDescriptions()[0].DataTypeOID, nil
}

// findSequence finds the sequence that positions are drawn from.
func (x *mapped) findSequence(ctx context.Context, db *DB) error {
	name := x.m.Sequence
	if name != "" && !strings.Contains(name, ".") { // in the schema of its table
		schema, _, _ := strings.Cut(strings.ReplaceAll(x.table, `""`, "\x00"), `".`)
		name = strings.ReplaceAll(schema, "\x00", `""`) + `".` + name
	}
	err := db.pool.QueryRow(ctx, `SELECT c.oid, format('%I.%I', n.nspname, c.relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'S' AND c.oid = CASE WHEN $1 <> '' THEN to_regclass(nullif($1, '')) ELSE coalesce(
			pg_get_serial_sequence($2, $3)::regclass,
			(SELECT d.refobjid FROM pg_attribute a
				JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
				JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
				JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
				WHERE a.attrelid = $4 AND a.attname = $3)) END`,
		name, x.table, column(x.m.Position), x.oid).Scan(&x.sequence, &x.seqName)
	switch {
	case errors.Is(err, pgx.ErrNoRows) && name != "":
		return fmt.Errorf("%w: there is no sequence %s (%s): set Mapping.Sequence", ErrSequence, name, db.where)
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: column %s of table %s draws its positions from no sequence (%s): set Mapping.Sequence to the one that its programs draw from",
			ErrSequence, x.m.Position, x.m.Table, db.where)
	}
	return err
}

// checkSequence says what about the sequence would make readers skip events.
func (x *mapped) checkSequence(ctx context.Context, db *DB) error {
	var cache, step int64
	var cycle bool
	var last, highest int64
	var perTenant *string
	err := db.pool.QueryRow(ctx, `SELECT s.seqcache, s.seqincrement, s.seqcycle, has_sequence_privilege(s.seqrelid, 'SELECT'),
			CASE WHEN has_sequence_privilege(s.seqrelid, 'SELECT') THEN coalesce(pg_sequence_last_value(s.seqrelid), 0) ELSE 0 END,
			coalesce((SELECT max(t.`+x.position+`) FROM `+x.table+` t), 0),
			(SELECT min(c.relname)::text FROM pg_class c JOIN pg_class o ON o.oid = s.seqrelid
				WHERE c.relkind = 'S' AND c.relnamespace = o.relnamespace AND c.relname LIKE $2)
		FROM pg_sequence s WHERE s.seqrelid = $1`, x.sequence, x.m.perTenant).
		Scan(&cache, &step, &cycle, &x.peek, &last, &highest, &perTenant)
	switch {
	case err != nil:
		return err
	case perTenant != nil:
		return x.misfit("sequence %s shows that each tenant of %s has positions of its own, which are no order of all events", *perTenant, x.m.Table)
	case cache != 1 || step != 1 || cycle:
		return fmt.Errorf("%w: it must count one by one: ALTER SEQUENCE %s INCREMENT 1 CACHE 1 NO CYCLE (%s), then start all that append again",
			ErrSequence, x.seqName, db.where)
	case x.peek && last < highest:
		return fmt.Errorf("%w: it stands at %d, and there is an event at %d: is this a logical replica, or a dump restored in parts? "+
			"While nobody appends, SELECT setval('%s', %d) (%s)", ErrSequence, last, highest, x.seqName, highest, db.where)
	}
	return nil
}

func (x *mapped) checkPositions(ctx context.Context, db *DB) error {
	var none, low bool
	err := db.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+x.table+" t WHERE t."+x.position+" IS NULL), EXISTS (SELECT FROM "+
		x.table+" t WHERE t."+x.position+" < 1)").Scan(&none, &low)
	switch {
	case err != nil:
		return err
	case none:
		return x.misfit("table %s has events without a position (%s IS NULL): they have no place in any order", x.m.Table, x.m.Position)
	case low:
		return x.misfit("table %s has events below position 1, where a log begins", x.m.Table)
	}
	return nil
}

// checkIndex looks for an index that begins with the position, on the table and
// on each partition.
func (x *mapped) checkIndex(ctx context.Context, db *DB) error {
	var without *string
	err := db.pool.QueryRow(ctx, `SELECT min(format('%I.%I', n.nspname, c.relname)) FROM (
			SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1::oid::regclass)) r
		JOIN pg_class c ON c.oid = r.oid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2
			WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = a.attnum AND i.indpred IS NULL)`, x.oid, column(x.m.Position)).Scan(&without)
	if err != nil {
		return err
	}
	if without != nil {
		x.advice = append(x.advice, fmt.Sprintf("no index of %s begins with %s, so every page reads the whole table: "+
			"CREATE INDEX CONCURRENTLY ON %s (%s), and so on each of its partitions", *without, x.m.Position, *without, x.position))
	}
	if !x.peek {
		x.advice = append(x.advice, fmt.Sprintf("the role may not read the sequence, so looking for new events reads the table: GRANT SELECT ON SEQUENCE %s", x.seqName))
	}
	return nil
}
