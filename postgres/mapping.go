package postgres

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Mapping says where the events of another program's event store are, so that
// [OpenLog] can read them: one table, with a row for each event and a column of
// positions that a sequence hands out. [Emmett], [MartenQuick], [MartenRich] and
// [MessageDB] return those of three known stores; change their fields as needed.
//
// All but Table, Position, Sequence and Channel is SQL over one row of the table:
// a column's name or any expression, put into statements as it stands. It is the
// programmer's, and must never come from a request, an event or a user.
type Mapping struct {
	// Table is the table, as SQL has it: events, "My Schema"."Events". It may be
	// partitioned. A view is refused, because locks are taken on tables.
	Table string

	// Position is the column of positions: integers above 0, each once, drawn from
	// a sequence in the transaction that inserts the event.
	Position string

	// Sequence is that sequence; default: the one that the column owns, or that
	// its DEFAULT draws from.
	Sequence string

	Stream string // text, uuid or an integer
	Type   string

	// Tenant is a column, a place in the metadata (metadata ->> 'tenant'), a part
	// of the stream's name (split_part(stream_id, ':', 1)), or a constant in
	// quotes ('acme'). All events of a stream must have the same one. An event
	// without a tenant becomes a dead letter.
	Tenant string

	// Class is the traffic class: a column, or a place in the metadata
	// (metadata ->> 'class'). NULL is the default class, and so is Class empty: the
	// store has none.
	Class string

	// Version is the event's place in its stream: 1, 2, 3, ... Where a store
	// counts from 0, add 1. Empty: the store has none; then lost order inside a
	// stream cannot be noticed.
	Version string

	RecordedAt string // timestamptz, or timestamp in UTC
	OccurredAt string // the same; default: RecordedAt

	ID   string // default: made of tenant, stream and version
	Data string // json, jsonb, text or bytea; JSON unless your codec is another

	// Metadata is a JSON object, as json, jsonb or text. A value that is no string
	// comes as its JSON. What is no object comes whole, under the key "metadata".
	Metadata string

	// Headers are further metadata: key -> SQL. NULL is left out.
	Headers map[string]string

	// Where leaves rows out: a condition. What it leaves out must never come back.
	Where string

	// Channel is what the store notifies (NOTIFY) after an append. Empty: new
	// events are found by looking, at the latest 200 ms after their commit.
	Channel string

	// LateInserts is how long after a position was drawn its event may be
	// inserted by *another* transaction. Set it for stores that draw positions in
	// a transaction of their own only: each gap then costs this much time, and an
	// event that comes later still is lost. 0: they do not.
	LateInserts time.Duration

	// Of presets: what a table may have or not.
	raw       string // bytea; where it is not NULL, it is the payload instead of Data
	metadata  string
	headers   map[string]string // key -> column
	archived  string            // boolean
	perTenant string            // sequences of such a name (LIKE) mean that each tenant has one
}

// Emmett is the mapping of Emmett's store (the npm package
// @event-driven-io/emmett-postgresql, seen with 0.42): the table emt_messages.
// The tenant is Emmett's partition, "emt:default" unless you use others; where it
// is in the metadata, say so:
//
//	m := postgres.Emmett()
//	m.Tenant = "message_metadata ->> 'tenant'"
//
// Archived events are read like others, with "archived" in their metadata.
func Emmett() Mapping {
	return Mapping{
		Table:      "emt_messages",
		Position:   "global_position",
		Stream:     "stream_id",
		Version:    "stream_position",
		Tenant:     "partition",
		Type:       "message_type",
		ID:         "message_id",
		Data:       "message_data",
		Metadata:   "message_metadata",
		RecordedAt: "created",
		headers:    map[string]string{"message_schema_version": "message_schema_version"},
		archived:   "is_archived",
	}
}

// MartenQuick is the mapping of Marten's store (seen with 9.29) where its AppendMode
// is Quick or QuickWithServerTimestamps, the default from 9.0 on: the table
// mt_events with its column tenant_id. For other schemas than the first of the
// search_path, set Table. Archived events are read like others, with "archived" in
// their metadata; tombstones are left out.
//
// A store that was made with UseTenantPartitionedEvents has a sequence for each
// tenant, so no order of all events, and is refused.
func MartenQuick() Mapping {
	return Mapping{
		Table:      "mt_events",
		Position:   "seq_id",
		Sequence:   "mt_events_sequence",
		Stream:     "stream_id",
		Version:    "version",
		Tenant:     "tenant_id",
		Type:       "type",
		ID:         "id",
		Data:       "data",
		RecordedAt: `"timestamp"`,
		Where:      "type <> 'tombstone'",
		raw:        "bdata",
		metadata:   "headers",
		headers: map[string]string{
			"causation_id":   "causation_id",
			"correlation_id": "correlation_id",
			"user_name":      "user_name",
			"dotnet_type":    "mt_dotnet_type",
		},
		archived:  "is_archived",
		perTenant: `mt\_events\_sequence\_%`,
	}
}

// MartenRich is [MartenQuick] for the AppendMode Rich, the default before 9.0,
// which draws positions in a transaction of its own, before the one that inserts
// the events. Nothing in the database tells that an insert is still to come. So
// each gap is waited for: late must be longer than any append takes from its first
// statement to its last (Marten's own daemon takes 3 s by default). Prefer Quick.
func MartenRich(late time.Duration) Mapping {
	m := MartenQuick()
	m.LateInserts = max(late, time.Nanosecond)
	return m
}

// MessageDB is the mapping of message-db (seen with 1.3.0): the table
// message_store.messages, whose versions count from 0. All is of one tenant,
// "default", unless you say where it is:
//
//	m := postgres.MessageDB()
//	m.Tenant = "metadata ->> 'tenant'"
func MessageDB() Mapping {
	return Mapping{
		Table:      "message_store.messages",
		Position:   "global_position",
		Stream:     "stream_name",
		Version:    `"position" + 1`,
		Tenant:     "'default'",
		Type:       "type",
		ID:         "id",
		Data:       "data",
		Metadata:   "metadata",
		RecordedAt: `"time"`,
	}
}

// ErrMapping means that a [Mapping] and the database do not fit.
var ErrMapping = errors.New("postgres: mapping of the event store does not fit")

// check returns all faults of m that show without a database.
func (m *Mapping) check() error {
	var errs []error
	for _, f := range []struct{ name, value string }{
		{"Table", m.Table}, {"Position", m.Position}, {"Stream", m.Stream}, {"Type", m.Type},
		{"Tenant", m.Tenant}, {"RecordedAt", m.RecordedAt}, {"Data", m.Data},
	} {
		if strings.TrimSpace(f.value) == "" {
			errs = append(errs, fmt.Errorf("%w: field %s is empty", ErrMapping, f.name))
		}
	}
	if m.LateInserts < 0 {
		errs = append(errs, fmt.Errorf("%w: field LateInserts is %v", ErrMapping, m.LateInserts))
	}
	return errors.Join(errs...)
}

// adapt takes in what a preset knows of, where this table has it.
func (m *Mapping) adapt(columns map[string]bool) {
	if !columns[m.raw] {
		m.raw = ""
	}
	if m.Metadata == "" && columns[m.metadata] {
		m.Metadata = m.metadata
	}
	out := map[string]string{}
	for key, column := range m.headers {
		if columns[column] {
			out[key] = column
		}
	}
	if columns[m.archived] {
		out["archived"] = "CASE WHEN " + m.archived + " THEN 'true' END"
	}
	maps.Copy(out, m.Headers)
	m.Headers = out
}

// headersSQL is a JSON object of the headers as text, NULL where there are none.
func (m *Mapping) headersSQL() string {
	if len(m.Headers) == 0 {
		return "NULL::text"
	}
	var b strings.Builder
	b.WriteString("nullif(jsonb_strip_nulls(jsonb_build_object(")
	for i, key := range slices.Sorted(maps.Keys(m.Headers)) {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(literal(key) + "::text, (" + m.Headers[key] + ")")
	}
	b.WriteString(")), '{}')::text")
	return b.String()
}

// literal quotes a string for SQL.
func literal(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		q = " E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}
