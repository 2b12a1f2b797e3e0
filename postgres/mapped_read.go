package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// How many events a page with a filter looks at.
const mappedWindow = "16384"

// statements returns the statements that read the mapped table. All gaps of the
// table count, also those of rows that Where leaves out.
func (x *mapped) statements() *statements {
	const (
		server = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
		zero   = "'0001-01-01 00:00:00+00'::timestamptz"
	)
	from := " FROM " + x.table + " t"
	p := "t." + x.position
	text := func(sql string) string { return "coalesce((" + sql + ")::text, '')" }
	moment := func(field, sql string) string {
		if sql == "" {
			return zero
		}
		if x.types[field] == pgtype.TimestampOID {
			sql = "(" + sql + ") AT TIME ZONE 'UTC'"
		}
		return "coalesce(CASE WHEN isfinite((" + sql + ")) THEN (" + sql + ") END, " + zero + ")"
	}
	orNone := func(sql string) string {
		if sql == "" {
			return "NULL::text"
		}
		return "(" + sql + ")::text"
	}
	class := "''::text"
	if x.m.Class != "" {
		class = text(x.m.Class)
	}
	version := "0::bigint"
	if x.m.Version != "" {
		version = "coalesce((" + x.m.Version + ")::bigint, 0)"
	}
	recorded := moment("RecordedAt", x.m.RecordedAt)
	occurred := recorded
	if x.m.OccurredAt != "" {
		occurred = moment("OccurredAt", x.m.OccurredAt)
	}
	data, raw := "("+x.m.Data+")::text", "NULL::bytea"
	if x.types["Data"] == pgtype.ByteaOID {
		data, raw = "NULL::text", "("+x.m.Data+")"
	} else if x.m.raw != "" {
		raw = "(" + x.m.raw + ")"
		data = "CASE WHEN " + raw + " IS NULL THEN " + data + " END"
	}
	columns := p + "::bigint AS position, " + version + " AS version, " + occurred + " AS occurred_at, " + recorded + " AS recorded_at, " +
		text(x.m.Tenant) + " AS tenant, " + text(x.m.Stream) + " AS stream, " + text(x.m.Type) + " AS type, " + class + " AS class, " +
		"nullif(" + orNone(x.m.ID) + ", '') AS id, " + orNone(x.m.Metadata) + " AS metadata, " +
		data + " AS data, " + raw + " AS raw, " + x.m.headersSQL() + " AS headers"
	where := ""
	if x.m.Where != "" {
		where = " AND (" + x.m.Where + ")"
	}
	// The parameters of a filter, from this number on.
	filter := func(n int) string {
		tenant, typ := text(x.m.Tenant), text(x.m.Type)
		return fmt.Sprintf(" AND ($%d::text[] IS NULL OR %s = ANY($%d)) AND ($%d::text[] IS NULL OR %s = ANY($%d))"+
			" AND ($%d::text[] IS NULL OR %s <> ALL($%d)) AND ($%d::text[] IS NULL OR %s = ANY($%d))"+
			" AND ($%d::text[] IS NULL OR %s = ANY($%d))",
			n, tenant, n, n+1, tenant, n+1, n+2, tenant, n+2, n+3, typ, n+3, n+4, class, n+4)
	}
	nth := func(n string) string {
		return "(SELECT " + p + from + " WHERE " + p + " > $2 ORDER BY " + p + " LIMIT 1 OFFSET (SELECT " + n + " - 1))"
	}
	frontier := `WITH x AS MATERIALIZED (
	SELECT q.p, q.p - row_number() OVER (ORDER BY q.p) AS before
	FROM (SELECT ` + p + `::bigint AS p` + from + ` WHERE ` + p + ` > $1 AND ` + p + ` <= $1::bigint + ` + firstGap + `) q
), f AS MATERIALIZED (
	SELECT coalesce((SELECT max(x.p) FROM x WHERE x.before = $1), $1::bigint) AS safe,
		greatest($1::bigint, (SELECT max(` + p + `)` + from + `)) AS seen, 0::bigint AS gone, ` + server + ` AS server
)`
	// An event more than the page has is looked at, to see a position that comes
	// twice.
	page := func(window, more string) string {
		return frontier + `, b AS MATERIALIZED (
	SELECT least(f.safe, $3, ` + nth(window) + `) AS upto FROM f
), e AS MATERIALIZED (
	SELECT ` + columns + from + ` WHERE ` + p + ` > $2 AND ` + p + ` <= (SELECT b.upto FROM b)` + where + more + `
), v AS (
	SELECT e.*, coalesce(octet_length(e.data), octet_length(e.raw), 0) AS size,
		coalesce(lead(e.position) OVER (ORDER BY e.position) = e.position, false) AS twice FROM e
), w AS (
	SELECT v.*, row_number() OVER pages AS n, sum(` + sizeMapped + `) OVER pages - ` + sizeMapped + ` AS before
	FROM v WINDOW pages AS (ORDER BY v.position ROWS UNBOUNDED PRECEDING)
)
SELECT CASE WHEN coalesce(w.n, 1) = 1 THEN ARRAY[` + frontierColumns + `, b.upto] END,
	w.position, w.version, w.occurred_at, w.recorded_at, w.tenant, w.stream, w.type, w.class, w.id, w.metadata,
	CASE WHEN w.size > $6 THEN NULL ELSE w.data END, CASE WHEN w.size > $6 THEN NULL ELSE w.raw END,
	CASE WHEN w.size > $6 THEN w.size END, w.twice, w.headers
FROM f CROSS JOIN b LEFT JOIN w ON w.before < $5
ORDER BY w.position`
	}
	more := filter(7) + " ORDER BY " + p + " LIMIT $4::bigint + 1"
	window := mappedWindow
	if where == "" {
		window = "$4::integer"
	}
	all := page(window, "")
	if where != "" {
		all = page(window, " ORDER BY "+p+" LIMIT $4::bigint + 1")
	}
	count := func(more string) string {
		return frontier + `, c AS (
	SELECT count(*) AS n, min(q.p) AS first FROM (SELECT ` + p + `::bigint AS p` + from + ` WHERE ` + p + ` > $2 AND ` + p +
			` <= least((SELECT f.safe FROM f), $3)` + where + more + ` ORDER BY ` + p + ` LIMIT $4::bigint) q
) SELECT ` + frontierColumns + `, c.n, (SELECT ` + recorded + from + ` WHERE ` + p + ` = c.first LIMIT 1) FROM f CROSS JOIN c`
	}
	counted := func(more string) string {
		return frontier + `, e AS (
	SELECT ` + p + `::bigint AS position, ` + text(x.m.Tenant) + ` AS tenant, ` + text(x.m.Stream) + ` AS stream` + from + ` WHERE ` + p + ` > $2 AND ` + p +
			` <= least((SELECT f.safe FROM f), $3)` + where + more + ` ORDER BY ` + p + ` LIMIT $4::bigint
)`
	}
	return &statements{
		readFrontier: frontier + " SELECT " + frontierColumns + " FROM f",
		readSafeHead: "SELECT 0::bigint, " + server, // one list of holders finds it again
		readAll:      all,
		readFound:    page(mappedWindow, more),
		readStream: "SELECT NULL::bigint, e.position, e.version, e.occurred_at, e.recorded_at, e.tenant, e.stream, e.type, e.class, e.id, e.metadata, e.data, e.raw," +
			" NULL::integer, false, e.headers FROM (SELECT " + columns + from + " WHERE (" + x.m.Stream + ") = $2::text::" + x.castOf("Stream") +
			" AND " + text(x.m.Tenant) + " = $1::text AND " + version + " > $3::bigint" + where + " ORDER BY " + version + ", " + p +
			" LIMIT $4::bigint) e ORDER BY e.version, e.position",
		countAll: count(""),
		// Whoever draws a position locks the sequence first, until its transaction
		// ends; whoever inserts locks the table.
		listHolders:  holdersOf + fmt.Sprintf(" UNION ALL SELECT %d::oid)", x.sequence),
		countFound:   count(filter(5)),
		countedAll:   counted(""),
		countedFound: counted(filter(5)),
		positionAt:   frontier + " SELECT " + frontierColumns + ", (SELECT min(" + p + ")::bigint" + from + " WHERE " + recorded + " >= $2" + where + "), f.gone FROM f",
	}
}

// The size of an event as it is sent. Metadata are larger here than in a log of
// our own.
const sizeMapped = `(160 + octet_length(v.tenant) + octet_length(v.stream) + octet_length(v.type) + coalesce(octet_length(v.metadata), 0)
	+ CASE WHEN v.size > $6 THEN 0 ELSE v.size END)`

// castOf is the type of a field's column, for comparing with text.
func (x *mapped) castOf(field string) string {
	switch x.types[field] {
	case pgtype.UUIDOID:
		return "uuid"
	case pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID:
		return "bigint"
	}
	return "text"
}

// mappedMetadata reads the metadata of another program's event. It never fails:
// what is no JSON object comes whole.
func (m *memory) mappedMetadata(b, headers []byte) event.Metadata {
	key := string(b) + "\x00" + string(headers)
	if out, ok := m.meta[key]; ok {
		return out
	}
	var out event.Metadata
	add := func(b []byte) bool {
		var object map[string]json.RawMessage
		if json.Unmarshal(b, &object) != nil || object == nil {
			return false
		}
		for k, v := range object {
			var s string
			switch {
			case bytes.Equal(v, []byte("null")):
				continue
			case json.Unmarshal(v, &s) != nil:
				s = string(v)
			}
			if out == nil {
				out = make(event.Metadata, len(object))
			}
			out[k] = s
		}
		return true
	}
	if b != nil && !add(b) && !bytes.Equal(b, []byte("null")) {
		out = event.Metadata{"metadata": string(b)}
	}
	if headers != nil {
		add(headers)
	}
	if len(m.meta) < 64 {
		if m.meta == nil {
			m.meta = make(map[string]event.Metadata)
		}
		m.meta[key] = out
	}
	return out
}

// checkMapped refuses a position that comes twice: what reads on after it would
// skip an event.
func (p *pageReader) checkMapped(v [][]byte) error {
	if p.mapped && v[1+colTwice][0] != 0 {
		var e event.Event
		if err := p.decode(&e, v[1:]); err != nil {
			return err
		}
		return fmt.Errorf("%w: two events have the position %v (one in stream %.100q of tenant %.100q): "+
			"positions must be unique: read one partition of the table with Mapping.Where, or correct the rows", ErrMapping, e.Position, e.Stream, e.Tenant)
	}
	return nil
}

// readPage reads a page. Where the mapping's SQL fails on a row, it reads what is
// before that row, and then says which one it is.
func (db *DB) readPage(ctx context.Context, p *pageReader, safe int64) error {
	err := p.read(ctx, db, safe)
	if db.mapped == nil || !isBadRow(err) {
		return err
	}
	for n := 999; ; n /= 8 {
		var until *int64
		if e := db.pool.QueryRow(ctx, "SELECT t."+db.mapped.position+"::bigint FROM "+db.mapped.table+" t WHERE t."+db.mapped.position+
			" > $1 ORDER BY 1 LIMIT 1 OFFSET $2", int64(p.req.After), n).Scan(&until); e != nil && !errors.Is(e, pgx.ErrNoRows) {
			return e
		}
		if until == nil {
			if n == 0 {
				return err
			}
			continue
		}
		req := *p.req
		req.Until = min(req.Until, event.Position(*until))
		q := newPageReader(&req)
		q.mapped = true
		if err = q.read(ctx, db, safe); err == nil {
			*p = *q
			return nil
		}
		if !isBadRow(err) {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: the event at position %d cannot be read by the mapping: make its SQL bear with such a row: %w", ErrMapping, *until, err)
		}
	}
}

// isBadRow reports whether err came from the values of a row (class 22 of
// PostgreSQL's codes: data exception).
func isBadRow(err error) bool {
	server, ok := errors.AsType[*pgconn.PgError](err)
	return ok && strings.HasPrefix(server.Code, "22")
}

// idle reports whether no position was drawn since safe, by a look at the sequence
// alone: a table without an index, or one that nobody appends to, is left alone.
// It returns the last position that was drawn. Whoever drew it or one before holds
// the sequence's lock until its transaction ends. A nil mapped is never idle.
func (x *mapped) idle(ctx context.Context, db *DB, safe, server int64) (last int64, idle bool, err error) {
	if x == nil || !x.peek {
		return 0, false, nil
	}
	var started int64
	// Not by pg_sequence_last_value, which takes the lock that says who draws.
	err = db.pool.QueryRow(ctx, "SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END, (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint FROM "+
		x.seqName+" s").Scan(&last, &started)
	if err != nil || started != server || last > safe {
		return last, false, err
	}
	if last == safe {
		return last, true, nil
	}
	var highest int64
	if err := db.pool.QueryRow(ctx, "SELECT coalesce(max(t."+x.position+"), 0) FROM "+x.table+" t").Scan(&highest); err != nil {
		return 0, false, err
	}
	if highest < safe {
		return 0, false, fmt.Errorf("%w: it stands at %d, and there were positions up to %d: the table was emptied or restored: "+
			"rebuild what was read from it, and open the log again", ErrSequence, last, safe)
	}
	return last, false, nil
}

// listen hears the notifications of the store itself, until the connection is
// lost. That they come is known from the first on.
func (x *mapped) listen(ctx context.Context, c *pgx.Conn, w *watch) (heard bool) {
	if _, err := c.Exec(ctx, "LISTEN "+pgx.Identifier{x.m.Channel}.Sanitize()); err != nil {
		return false
	}
	w.hint()
	for {
		if _, err := c.WaitForNotification(ctx); err != nil {
			return heard
		}
		heard = true
		w.hears.Store(true)
		w.hint()
	}
}
