package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
)

// plain is a store of nobody: the least that a mapping needs.
const plainDDL = `CREATE TABLE log (pos bigserial PRIMARY KEY, stream text, version int, tenant text, type text, body text, head text,
	at timestamp DEFAULT (now() AT TIME ZONE 'UTC'))`

func plain() Mapping {
	return Mapping{Table: "log", Position: "pos", Stream: "stream", Version: "version", Tenant: "tenant", Type: "type",
		Data: "body", Metadata: "head", RecordedAt: "at"}
}

func plainDatabase(t testing.TB, more ...string) (url string, c *pgx.Conn) {
	t.Helper()
	url = pgtest.Database(t)
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	for _, sql := range append([]string{plainDDL}, more...) {
		exec(t, c, sql)
	}
	return url, c
}

func TestOpenLogSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		sql  string
		edit func(*Mapping)
		kind error
		want string
	}{
		{"nothing", "", func(m *Mapping) { *m = Mapping{} }, ErrMapping, "Table is empty"},
		{"no table", "", func(m *Mapping) { m.Table = "events" }, ErrMapping, "no table events in database"},
		{"no name of a table", "", func(m *Mapping) { m.Table = "a b" }, ErrMapping, "a b"},
		{"a view", "CREATE VIEW v AS SELECT * FROM log", func(m *Mapping) { m.Table = "v" }, ErrMapping, "v is not a table"},
		{"inheritance", "CREATE TABLE child () INHERITS (log)", nil, ErrMapping, "inherit"},
		{"no position", "", func(m *Mapping) { m.Position = "seq" }, ErrMapping, "no column seq (Position)"},
		{"position of a wrong type", "", func(m *Mapping) { m.Position = "stream" }, ErrMapping, "no integer"},
		{"no column", "", func(m *Mapping) { m.Tenant = "customer" }, ErrMapping, "field Tenant, customer"},
		{"no SQL", "", func(m *Mapping) { m.Stream = "stream ||" }, ErrMapping, "field Stream"},
		{"stream of a wrong type", "", func(m *Mapping) { m.Stream = "at" }, ErrMapping, "is of type timestamp without time zone, want text"},
		{"version of a wrong type", "", func(m *Mapping) { m.Version = "stream" }, ErrMapping, "field Version, stream, is of type text"},
		{"data of a wrong type", "", func(m *Mapping) { m.Data = "version" }, ErrMapping, "field Data"},
		{"condition", "", func(m *Mapping) { m.Where = "version" }, ErrMapping, "field Where"},
		{"no sequence", "ALTER TABLE log ALTER pos DROP DEFAULT; DROP SEQUENCE log_pos_seq", nil, ErrSequence, "draws its positions from no sequence"},
		{"another sequence", "", func(m *Mapping) { m.Sequence = "numbers" }, ErrSequence, "no sequence"},
		{"cache", "ALTER SEQUENCE log_pos_seq CACHE 20", nil, ErrSequence, "ALTER SEQUENCE public.log_pos_seq INCREMENT 1 CACHE 1 NO CYCLE"},
		{"step", "ALTER SEQUENCE log_pos_seq INCREMENT 2", nil, ErrSequence, "CACHE 1"},
		{"sequence behind", "INSERT INTO log (pos) VALUES (7)", nil, ErrSequence, "setval('public.log_pos_seq', 7)"},
		{"no place", "ALTER TABLE log DROP CONSTRAINT log_pkey, ALTER pos DROP NOT NULL; INSERT INTO log (pos) VALUES (NULL)", nil, ErrMapping, "without a position"},
		{"below the beginning", "INSERT INTO log (pos) VALUES (0)", nil, ErrMapping, "below position 1"},
		{"Marten, a sequence for each tenant", martenDDL + "; CREATE SEQUENCE mt_events_sequence_acme", func(m *Mapping) { *m = MartenQuick() }, ErrMapping, "mt_events_sequence_acme"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, c := plainDatabase(t)
			if tt.sql != "" {
				exec(t, c, tt.sql)
			}
			m := plain()
			if tt.edit != nil {
				tt.edit(&m)
			}
			log, err := OpenLog(t.Context(), url, m)
			if err == nil {
				_ = log.Close()
			}
			if !errors.Is(err, tt.kind) || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("OpenLog = %v, want %v with %q", err, tt.kind, tt.want)
			}
		})
	}
}

// TestOpenLogRights: SELECT on the table is enough, and what lacks is named.
func TestOpenLogRights(t *testing.T) {
	t.Parallel()
	address, c := plainDatabase(t, "CREATE SCHEMA shut", strings.Replace(plainDDL, "log", "shut.log", 1))
	role := "reader_" + strings.TrimPrefix(address[strings.LastIndex(address, "/")+1:strings.Index(address, "?")], "fairlead_")
	exec(t, c, "DROP ROLE IF EXISTS "+role)
	exec(t, c, "CREATE ROLE "+role+" LOGIN PASSWORD 'x'")
	t.Cleanup(func() {
		if _, err := c.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "x")
	fails := func(m Mapping, want string) {
		t.Helper()
		log, err := OpenLog(t.Context(), u.String(), m)
		if err == nil {
			_ = log.Close()
		}
		if !errors.Is(err, ErrRights) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("OpenLog = %v, want ErrRights with %q", err, want)
		}
	}
	m := plain()
	fails(m, `GRANT SELECT ON "public"."log" TO "`+role+`"`)
	m.Table = "shut.log"
	fails(m, "GRANT USAGE ON SCHEMA shut")
	exec(t, c, "GRANT SELECT (pos, stream) ON log TO "+role)
	fails(plain(), `GRANT SELECT ON "public"."log"`)
	exec(t, c, "GRANT SELECT ON log TO "+role)
	exec(t, c, "ALTER TABLE log ENABLE ROW LEVEL SECURITY")
	fails(plain(), "BYPASSRLS")
	exec(t, c, "ALTER TABLE log DISABLE ROW LEVEL SECURITY")
	log := openLog(t, u.String(), plain())
	exec(t, c, "INSERT INTO log (stream, version, tenant, type) VALUES ('s', 1, 't', 'T')")
	exec(t, c, "SELECT nextval('log_pos_seq')")
	exec(t, c, "INSERT INTO log (stream, version, tenant, type) VALUES ('s', 2, 't', 'T')")
	if got := readPast(t, log, 3); len(got) != 2 {
		t.Errorf("a role that may SELECT reads %d events, want 2", len(got))
	}
	if advice := strings.Join(log.Advice(), "\n"); !strings.Contains(advice, "GRANT SELECT ON SEQUENCE public.log_pos_seq") {
		t.Errorf("advice %q, want the sequence", advice)
	}
}

// TestMappedOddRows: what other people's rows may be comes as an event, which the
// engine then judges, or as an error that says which row it is.
func TestMappedOddRows(t *testing.T) {
	t.Parallel()
	url, c := plainDatabase(t)
	exec(t, c, `INSERT INTO log (stream, version, tenant, type, body, head, at) VALUES
		('s', 1, 't', 'T', '{"a": 1}', '{"k": "v", "n": 7, "o": {"x": [1]}, "z": null}', '2024-05-06 07:08:09'),
		(NULL, NULL, NULL, NULL, NULL, NULL, NULL),
		('s', 9, 't', 'T', 'not JSON', 'nor this', 'infinity'),
		('s', 2, $1, 'T', '', '[1, 2]', '-infinity')`, "x'; DROP TABLE log; --\u202e")
	log := openLog(t, url, plain())
	events := allOf(t, log)
	if len(events) != 4 {
		t.Fatalf("%d events, want 4", len(events))
	}
	e := events[0]
	if got := fmt.Sprintln(e.Metadata["k"], e.Metadata["n"], e.Metadata["o"], len(e.Metadata), e.RecordedAt, string(e.Data), e.OccurredAt.Equal(e.RecordedAt)); got != `v 7 {"x": [1]} 3 2024-05-06 07:08:09 +0000 UTC {"a": 1} true`+"\n" {
		t.Errorf("the first event is %s", got)
	}
	for i, why := range map[int]string{1: "tenant", 3: "tenant"} {
		if err := events[i].CheckOnce(); !errors.Is(err, event.ErrInvalidName) || !strings.Contains(err.Error(), why) {
			t.Errorf("event %d: %v, want a fault of its %s", i, err, why)
		}
	}
	if e := events[1]; e.ID == "" || e.Version != 0 || e.Data != nil || !e.RecordedAt.IsZero() {
		t.Errorf("the event of NULL is %+v", e)
	}
	if e := events[2]; string(e.Data) != "not JSON" || e.Metadata["metadata"] != "nor this" || !e.RecordedAt.IsZero() || e.Version != 9 {
		t.Errorf("the third event is %+v", e)
	}
	if e := events[3]; e.Metadata["metadata"] != "[1, 2]" || e.Data == nil || len(e.Data) != 0 {
		t.Errorf("the fourth event is %+v", e)
	}
	got, err := log.ReadStream(t.Context(), eventlog.StreamRef{Tenant: "x' OR true; --", Stream: "s"}, 0, 10)
	if err != nil || len(got) != 0 {
		t.Errorf("ReadStream of a hostile tenant = %d events, %v", len(got), err)
	}
	page, err := log.Read(t.Context(), eventlog.ReadRequest{Filter: eventlog.Filter{Tenants: []string{"' OR true; --"}}})
	if err != nil || len(page.Events) != 0 {
		t.Errorf("a page of a hostile tenant has %d events, %v", len(page.Events), err)
	}

	// SQL that fails on a row stops before it, and says where.
	m := plain()
	m.Tenant = "head::json ->> 'k'"
	log = openLog(t, url, m)
	page, err = log.Read(t.Context(), eventlog.ReadRequest{})
	if err != nil || len(page.Events) != 2 || page.Next != 2 {
		t.Fatalf("before the bad row there are %d events to %v, %v, want 2", len(page.Events), page.Next, err)
	}
	_, err = log.Read(t.Context(), eventlog.ReadRequest{After: page.Next})
	if !errors.Is(err, ErrMapping) || !strings.Contains(err.Error(), "event at position 3") {
		t.Errorf("at the bad row: %v, want an error that names position 3", err)
	}
}

// TestMappedPositionTwice: a position that comes twice cannot be read on from.
func TestMappedPositionTwice(t *testing.T) {
	t.Parallel()
	url, c := plainDatabase(t, "ALTER TABLE log DROP CONSTRAINT log_pkey")
	exec(t, c, "INSERT INTO log (stream, version, tenant, type) VALUES ('s', 1, 't', 'T'), ('s', 2, 't', 'T')")
	exec(t, c, "INSERT INTO log (pos, stream, version, tenant, type) VALUES (2, 's2', 1, 't', 'T')")
	log := openLog(t, url, plain())
	for _, req := range []eventlog.ReadRequest{{MaxEvents: 2}, {}, {MaxEvents: 1, After: 1}, {MaxEvents: 1, After: 1, Filter: eventlog.Filter{Types: []string{"T"}}}} {
		if _, err := log.Read(t.Context(), req); !errors.Is(err, ErrMapping) || !strings.Contains(fmt.Sprint(err), "position 2") {
			t.Errorf("Read(%+v) = %v, want ErrMapping that names position 2", req, err)
		}
	}
}

// TestMappedTruncated: positions that begin anew are an error, not silence.
func TestMappedTruncated(t *testing.T) {
	t.Parallel()
	url, c := plainDatabase(t)
	exec(t, c, "INSERT INTO log (stream, version, tenant, type) SELECT 's', n, 't', 'T' FROM generate_series(1, 5) n")
	log := openLog(t, url, plain())
	readPast(t, log, 5)
	exec(t, c, "TRUNCATE log RESTART IDENTITY")
	exec(t, c, "INSERT INTO log (stream, version, tenant, type) VALUES ('s', 1, 't', 'T')")
	if _, err := log.Head(t.Context(), 0); !errors.Is(err, ErrSequence) {
		t.Errorf("Head = %v, want ErrSequence", err)
	}
}

// TestMappedUUIDStreams: Marten's other identity of streams.
func TestMappedUUIDStreams(t *testing.T) {
	t.Parallel()
	url, c := plainDatabase(t, "ALTER TABLE log ALTER stream TYPE uuid USING stream::uuid, ALTER body TYPE bytea USING body::bytea")
	const stream = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	exec(t, c, "INSERT INTO log (stream, version, tenant, type, body) VALUES ($1, 1, 't', 'T', '\\x00ff')", stream)
	log := openLog(t, url, plain())
	for name, want := range map[string]int{stream: 1, "6ba7b810-9dad-11d1-80b4-00c04fd430c9": 0, "cart-1": 0} {
		got, err := log.ReadStream(t.Context(), eventlog.StreamRef{Tenant: "t", Stream: name}, 0, 10)
		if err != nil || len(got) != want {
			t.Errorf("stream %s has %d events, %v, want %d", name, len(got), err, want)
		} else if want == 1 && string(got[0].Data) != "\x00\xff" {
			t.Errorf("data are %q", got[0].Data)
		}
	}
}
