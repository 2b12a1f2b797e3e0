package postgres

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
)

// A foreign is an event store of other people, on its real tables.
type foreign struct {
	name     string
	database func(t testing.TB) (url string) // a new one
	mapping  Mapping
	// append appends in c, in its transaction if there is one, as the store does.
	append func(ctx context.Context, c querier, a eventlog.StreamAppend) error
	// draw is what an append does up to where it has a position, and no more.
	draw string
	// insert is an event at the position $1, as first of stream $2.
	insert string
}

func foreigns() []foreign { return []foreign{emmett(), marten(), messageDB()} }

// emmett is Emmett's store, made by its own package. A tenant is a partition.
func emmett() foreign {
	m := Emmett()
	m.Class = "message_metadata ->> 'class'"
	return foreign{
		name: "Emmett",
		database: func(t testing.TB) string {
			dir := pgtest.NPM(t, "bench/peers/emmett")
			return pgtest.Clone(t, "emmett "+dir, func(ctx context.Context, url string) error {
				out, err := osexec.CommandContext(ctx, "node", filepath.Join(dir, "append.mjs"), url, `{"setup":true}`).CombinedOutput()
				if err != nil {
					return fmt.Errorf("make Emmett's tables: %w: %s", err, out)
				}
				return nil
			})
		},
		mapping: m,
		append: func(ctx context.Context, c querier, a eventlog.StreamAppend) error {
			if _, err := c.Exec(ctx, "SELECT emt_add_partition($1) WHERE NOT EXISTS (SELECT FROM pg_class WHERE relname = emt_sanitize_name('emt_messages_' || $1))", a.Tenant); err != nil {
				return err
			}
			var ids, data, meta, schemas, types, kinds []string
			for _, e := range a.Events {
				ids, data, types = append(ids, id(e)), append(data, string(e.Data)), append(types, e.Type)
				meta, schemas, kinds = append(meta, metadata(e)), append(schemas, "1"), append(kinds, "E")
			}
			var ok bool
			err := c.QueryRow(ctx, "SELECT success FROM emt_append_to_stream($1, $2::text[]::jsonb[], $3::text[]::jsonb[], $4, $5, $6, $7, 'test', NULL, $8)",
				ids, data, meta, schemas, types, kinds, a.Stream, a.Tenant).Scan(&ok)
			if err == nil && !ok {
				return fmt.Errorf("Emmett refuses the append")
			}
			return err
		},
		draw: "SELECT nextval('emt_global_message_position')",
		insert: `INSERT INTO emt_messages (global_position, stream_id, stream_position, message_data, message_metadata, message_schema_version,
			message_type, message_id, transaction_id) VALUES ($1, $2, 1, '{}', '{}', '1', 'Late', gen_random_uuid(), pg_current_xact_id())`,
	}
}

// messageDB is message-db, from the SQL of its own package.
func messageDB() foreign {
	m := MessageDB()
	m.Tenant = "split_part(stream_name, ':', 1)"
	m.Class = "metadata ->> 'class'"
	m.Stream = "substr(stream_name, strpos(stream_name, ':') + 1)"
	return foreign{
		name: "message-db",
		database: func(t testing.TB) string {
			dir := filepath.Join(pgtest.NPM(t, "bench/peers/emmett"), "node_modules/@eventide/message-db/database")
			return pgtest.Clone(t, "message-db "+dir, func(ctx context.Context, url string) error {
				c, err := pgx.Connect(ctx, url)
				if err != nil {
					return err
				}
				defer func() { _ = c.Close(ctx) }()
				files := []string{"schema/message-store.sql", "extensions/pgcrypto.sql", "types/message.sql", "tables/messages.sql"}
				for _, f := range []string{"message-store-version", "hash-64", "acquire-lock", "category", "is-category", "id", "cardinal-id",
					"stream-version", "write-message", "get-stream-messages", "get-category-messages", "get-last-stream-message"} {
					files = append(files, "functions/"+f+".sql")
				}
				files = append(files, "indexes/messages-id.sql", "indexes/messages-stream.sql", "indexes/messages-category.sql")
				for _, f := range files {
					sql, err := os.ReadFile(filepath.Join(dir, f))
					if err == nil {
						_, err = c.Exec(ctx, "SET search_path = message_store, public; "+string(sql))
					}
					if err != nil {
						return fmt.Errorf("%s: %w", f, err)
					}
				}
				return nil
			})
		},
		mapping: m,
		append: func(ctx context.Context, c querier, a eventlog.StreamAppend) error {
			tx, ok := c.(pgx.Tx)
			if !ok { // one append is one transaction
				var err error
				if tx, err = c.(interface {
					Begin(context.Context) (pgx.Tx, error)
				}).Begin(ctx); err != nil {
					return err
				}
				defer func() { _ = tx.Rollback(ctx) }()
			}
			if _, err := tx.Exec(ctx, "SET LOCAL search_path = message_store, public"); err != nil {
				return err
			}
			for _, e := range a.Events {
				if _, err := tx.Exec(ctx, "SELECT write_message($1, $2, $3, $4::text::jsonb, $5::text::jsonb)",
					id(e), a.Tenant+":"+a.Stream, e.Type, string(e.Data), metadata(e)); err != nil {
					return err
				}
			}
			if !ok {
				return tx.Commit(ctx)
			}
			return nil
		},
		draw:   "SELECT nextval('message_store.messages_global_position_seq')",
		insert: `INSERT INTO message_store.messages (global_position, stream_name, position, type, data) VALUES ($1, 't:' || $2, 0, 'Late', '{}')`,
	}
}

// martenDDL makes what Marten 9.29 makes with conjoined tenancy and string
// identity, by its sources (src/Marten/Events/Schema/EventsTable.cs, StreamsTable.cs,
// EventGraph.FeatureSchema.cs, QuickAppendEventFunction.cs): tables, columns, types
// and keys. The function is written anew and does the same in the same order; what
// matters here is that it draws a position before its first INSERT into mt_events.
const martenDDL = `
CREATE SEQUENCE mt_events_sequence;
CREATE TABLE mt_streams (
	tenant_id varchar NOT NULL DEFAULT '*DEFAULT*', id varchar NOT NULL, type varchar, version bigint,
	timestamp timestamptz NOT NULL DEFAULT now(), created timestamptz NOT NULL DEFAULT now(),
	is_archived boolean DEFAULT false, PRIMARY KEY (tenant_id, id));
CREATE TABLE mt_events (
	seq_id bigint NOT NULL PRIMARY KEY, id uuid NOT NULL, stream_id varchar, version bigint NOT NULL, data jsonb NOT NULL,
	bdata bytea, type varchar(500) NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(),
	tenant_id varchar DEFAULT '*DEFAULT*', mt_dotnet_type varchar, correlation_id varchar, causation_id varchar, headers jsonb,
	is_archived boolean DEFAULT false, FOREIGN KEY (tenant_id, stream_id) REFERENCES mt_streams (tenant_id, id));
CREATE UNIQUE INDEX pk_mt_events_stream_and_version ON mt_events (tenant_id, stream_id, version);
ALTER SEQUENCE mt_events_sequence OWNED BY mt_events.seq_id;
CREATE FUNCTION mt_quick_append_events(stream varchar, tenant varchar, ids uuid[], types varchar[], bodies jsonb[], heads jsonb[])
	RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
	at  bigint;
	seq bigint;
	out bigint[];
BEGIN
	SELECT s.version INTO at FROM mt_streams s WHERE s.tenant_id = tenant AND s.id = stream;
	IF at IS NULL THEN
		at := 0;
		INSERT INTO mt_streams (tenant_id, id, version) VALUES (tenant, stream, 0);
	END IF;
	FOR i IN 1 .. cardinality(ids) LOOP
		seq := nextval('mt_events_sequence');
		PERFORM pg_sleep(coalesce(current_setting('test.pause', true), '0')::float);
		at := at + 1;
		INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, tenant_id, headers, is_archived)
			VALUES (seq, ids[i], stream, at, bodies[i], types[i], tenant, heads[i], false);
		out := out || seq;
	END LOOP;
	UPDATE mt_streams s SET version = at WHERE s.tenant_id = tenant AND s.id = stream;
	RETURN out;
END $$;`

func marten() foreign {
	return foreign{
		name: "Marten",
		database: func(t testing.TB) string {
			return pgtest.Clone(t, martenDDL, func(ctx context.Context, url string) error {
				c, err := pgx.Connect(ctx, url)
				if err != nil {
					return err
				}
				defer func() { _ = c.Close(ctx) }()
				_, err = c.Exec(ctx, martenDDL)
				return err
			})
		},
		mapping: MartenQuick(),
		append: func(ctx context.Context, c querier, a eventlog.StreamAppend) error {
			var ids, data, meta, types []string
			for _, e := range a.Events {
				ids, data, types, meta = append(ids, id(e)), append(data, string(e.Data)), append(types, e.Type), append(meta, metadata(e))
			}
			_, err := c.Exec(ctx, "SELECT mt_quick_append_events($1, $2, $3::text[]::uuid[], $4, $5::text[]::jsonb[], $6::text[]::jsonb[])",
				a.Stream, a.Tenant, ids, types, data, meta)
			return err
		},
		draw: "SELECT nextval('mt_events_sequence')",
		insert: `WITH s AS (INSERT INTO mt_streams (id, version) VALUES ($2, 1))
			INSERT INTO mt_events (seq_id, stream_id, version, id, type, data) VALUES ($1, $2, 1, gen_random_uuid(), 'Late', '{}')`,
	}
}

func id(e eventlog.NewEvent) string {
	if e.ID != "" {
		return e.ID
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func metadata(e eventlog.NewEvent) string {
	m := maps.Clone(e.Metadata)
	if e.Class != "" { // where a mapping finds it that says so
		if m == nil {
			m = event.Metadata{}
		}
		m["class"] = e.Class
	}
	if m == nil {
		return "{}"
	}
	b, _ := json.Marshal(m)
	return string(b)
}

// openForeign opens the log of a new store.
func openForeign(t testing.TB, f *foreign, opts ...Options) (*Log, *pgx.Conn) {
	t.Helper()
	url := f.database(t)
	log := openLog(t, url, f.mapping, opts...)
	return log, connect(t, log.db)
}

func openLog(t testing.TB, url string, m Mapping, opts ...Options) *Log {
	t.Helper()
	log, err := OpenLog(t.Context(), url, m, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// TestMappedConformance is the reading half of the suite, on tables that the
// stores' own code has made and filled.
func TestMappedConformance(t *testing.T) {
	t.Parallel()
	for _, f := range foreigns() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			conns := map[eventlog.Log]*pgx.Conn{}
			eventlogtest.Run(t, func(t *testing.T) eventlog.Log {
				log, c := openForeign(t, &f)
				conns[log] = c
				return log
			}, eventlogtest.Features{
				ReadStream: true, Count: true, JSONOnly: true, TimePrecision: time.Microsecond, NoClasses: f.mapping.Class == "",
				Fill: func(t *testing.T, log eventlog.Log, appends ...eventlog.StreamAppend) {
					t.Helper()
					for _, a := range appends {
						if err := f.append(t.Context(), conns[log], a); err != nil {
							t.Fatalf("append to %s/%s: %v", a.Tenant, a.Stream, err)
						}
					}
				},
			})
		})
	}
}

// allOf reads all that can be read.
func allOf(t testing.TB, log eventlog.Log) (out []event.Event) {
	t.Helper()
	var after event.Position
	for {
		p, err := log.Read(t.Context(), eventlog.ReadRequest{After: after})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.Events...)
		if p.Next >= p.Head {
			return out
		}
		after = p.Next
	}
}
