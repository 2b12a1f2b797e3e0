package postgres

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Bounds of an append.
const (
	maxAppendBytes = 1<<30 - 64<<20 // of all payloads: PostgreSQL takes 1 GiB in one message
	maxAppendTries = 20             // lost races before a call gives up
)

const appendColumns = "status, coalesce(o_part, 0), coalesce(o_version, 0), coalesce(o_id, ''), coalesce(o_position, 0)"

const (
	callAppend = "SELECT " + appendColumns + " FROM {schema}.append($1, $2, $14, $15, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $16)"
	// For drivers that know no arrays.
	callAppendText = "SELECT " + appendColumns + ` FROM {schema}.append($1::text::text[], $2::text::text[],
		$14::text::bigint[], $15::text::bigint[],
		$3::text::integer[], $4::text::bigint[], $5::text::integer[], $6::text::boolean[],
		$7::text::text[], $8::text::timestamptz[], $9::text::text[], $10::text::bigint[],
		$11::text::text[], $12::text::text[], $13::text::bytea[], $16::text::text[])`
)

// An appendCall is a call of the function append; see migrations/0001_log.sql and 0009_classes.sql.
type appendCall struct {
	appends []eventlog.StreamAppend

	tenants, streams []string // the streams, each once, in byte order
	tenantHashes     []int64  // of each; see bucketGroup
	streamHashes     []int64
	refs             []int32 // of each append, its stream: from 1
	expected         []*int64
	counts           []int32
	withIDs          []bool

	types    []string
	occurred []*time.Time
	ids      []*string
	own      []*int64
	metadata []*string
	data     []*string
	raw      [][]byte
	classes  []string // nil: all are of the default class
}

// newAppendCall checks what can be checked here: names, and the ids of the call
// among one another.
func newAppendCall(appends []eventlog.StreamAppend) (*appendCall, error) {
	if len(appends) == 0 {
		return nil, errors.New("postgres: append: no streams")
	}
	n, size := 0, 0
	for i := range appends {
		if err := appends[i].Check(); err != nil {
			return nil, err
		}
		n += len(appends[i].Events)
		for j := range appends[i].Events {
			size += len(appends[i].Events[j].Data)
		}
	}
	if size > maxAppendBytes {
		return nil, fmt.Errorf("postgres: append: the payloads of one call have %d bytes, want at most %d: use several calls", size, maxAppendBytes)
	}
	c := &appendCall{
		appends:  appends,
		types:    make([]string, 0, n),
		occurred: make([]*time.Time, 0, n),
		ids:      make([]*string, 0, n),
		own:      make([]*int64, 0, n),
		metadata: make([]*string, 0, n),
		data:     make([]*string, 0, n),
		raw:      make([][]byte, 0, n),
	}
	c.addStreams()
	var seen map[string]bool
	for i := range appends {
		a := &appends[i]
		c.counts = append(c.counts, int32(len(a.Events)))
		c.withIDs = append(c.withIDs, slices.ContainsFunc(a.Events, func(e eventlog.NewEvent) bool { return e.ID != "" }))
		for j := range a.Events {
			e := &a.Events[j]
			if e.ID != "" {
				if seen == nil {
					seen = make(map[string]bool)
				}
				if seen[e.ID] {
					return nil, &eventlog.DuplicateError{Stream: eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}, ID: e.ID}
				}
				seen[e.ID] = true
			}
			if err := c.addEvent(a, e); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// addStreams sets tenants, streams, refs and expected.
func (c *appendCall) addStreams() {
	refs := make([]eventlog.StreamRef, len(c.appends))
	for i := range c.appends {
		refs[i] = eventlog.StreamRef{Tenant: c.appends[i].Tenant, Stream: c.appends[i].Stream}
	}
	sorted := slices.Clone(refs)
	slices.SortFunc(sorted, compareRefs)
	sorted = slices.Compact(sorted)
	for _, r := range sorted {
		c.tenants = append(c.tenants, r.Tenant)
		c.streams = append(c.streams, r.Stream)
		c.tenantHashes = append(c.tenantHashes, tenantHash(r.Tenant))
		c.streamHashes = append(c.streamHashes, streamHash(r.Tenant, r.Stream))
	}
	for i := range c.appends {
		at, _ := slices.BinarySearchFunc(sorted, refs[i], compareRefs)
		c.refs = append(c.refs, int32(at+1))
		var expected *int64
		if v, ok := c.appends[i].Expected.Version(); ok {
			expected = &v
		}
		c.expected = append(c.expected, expected)
	}
}

func compareRefs(a, b eventlog.StreamRef) int {
	switch {
	case a.Tenant < b.Tenant, a.Tenant == b.Tenant && a.Stream < b.Stream:
		return -1
	case a == b:
		return 0
	}
	return 1
}

func (c *appendCall) addEvent(a *eventlog.StreamAppend, e *eventlog.NewEvent) error {
	var id *string
	var own *int64
	if e.ID != "" {
		switch tenant, stream, version, derived := event.ParseDerivedID(e.ID); {
		case !derived:
			id = &e.ID
		case tenant == a.Tenant && stream == a.Stream:
			own = &version
		default:
			return &event.NameError{Field: "id", Name: e.ID, Why: reserved}
		}
	}
	var occurred *time.Time
	if !e.OccurredAt.IsZero() {
		occurred = &e.OccurredAt
	}
	var data *string
	var raw []byte
	if e.Data != nil {
		if storable(e.Data) {
			data = view(e.Data)
		} else {
			raw = e.Data
		}
	}
	if e.Class != "" && c.classes == nil {
		c.classes = make([]string, len(c.types), cap(c.types))
	}
	if c.classes != nil {
		c.classes = append(c.classes, e.Class)
	}
	c.types = append(c.types, e.Type)
	c.occurred = append(c.occurred, occurred)
	c.ids = append(c.ids, id)
	c.own = append(c.own, own)
	c.metadata = append(c.metadata, encodeMetadata(e.Metadata))
	c.data = append(c.data, data)
	c.raw = append(c.raw, raw)
	return nil
}

const reserved = "is reserved for another event, whose derived id it is"

// A row is one that can be scanned.
type row interface{ Scan(dest ...any) error }

// answer reads what the function says.
func (c *appendCall) answer(r row) (eventlog.Token, error) {
	var status, id string
	var part int
	var version, position int64
	if err := r.Scan(&status, &part, &version, &id, &position); err != nil {
		return eventlog.Token{}, err
	}
	if status == "ok" {
		return eventlog.Token{Position: event.Position(position), Tenants: c.distinctTenants()}, nil
	}
	a := &c.appends[part-1]
	ref := eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}
	switch status {
	case "conflict":
		return eventlog.Token{}, &eventlog.ConflictError{Stream: ref, Expected: a.Expected, Actual: version}
	case "duplicate":
		return eventlog.Token{}, &eventlog.DuplicateError{Stream: ref, ID: id}
	}
	return eventlog.Token{}, &event.NameError{Field: "id", Name: id, Why: reserved}
}

// distinctTenants returns the tenants without repeats: they are sorted.
func (c *appendCall) distinctTenants() []string { return slices.Compact(slices.Clone(c.tenants)) }

// args are the arguments of callAppend.
func (c *appendCall) args() []any {
	return []any{c.tenants, c.streams, c.refs, c.expected, c.counts, c.withIDs, c.types, c.occurred, c.ids, c.own, c.metadata, c.data, c.raw,
		c.tenantHashes, c.streamHashes, c.classes}
}

// textArgs are the arguments of callAppendText.
func (c *appendCall) textArgs() []any {
	text := func(s string) *string { return &s }
	pointer := func(s *string) *string { return s }
	number := func(n int32) *string { return text(strconv.Itoa(int(n))) }
	hash := func(n int64) *string { return text(strconv.FormatInt(n, 10)) }
	version := func(v *int64) *string {
		if v == nil {
			return nil
		}
		return text(strconv.FormatInt(*v, 10))
	}
	var classes *string
	if c.classes != nil {
		classes = text(textArray(c.classes, text))
	}
	return []any{
		textArray(c.tenants, text), textArray(c.streams, text),
		textArray(c.refs, number), textArray(c.expected, version), textArray(c.counts, number),
		textArray(c.withIDs, func(b bool) *string { return text(strconv.FormatBool(b)) }),
		textArray(c.types, text),
		textArray(c.occurred, func(t *time.Time) *string {
			if t == nil {
				return nil
			}
			return text(timeText(*t))
		}),
		textArray(c.ids, pointer), textArray(c.own, version), textArray(c.metadata, pointer), textArray(c.data, pointer),
		textArray(c.raw, func(b []byte) *string {
			if b == nil {
				return nil
			}
			return text(`\x` + hex.EncodeToString(b))
		}),
		textArray(c.tenantHashes, hash), textArray(c.streamHashes, hash), classes,
	}
}

// Append implements [eventlog.Appender]: in one round trip and one transaction.
// Lost races (a deadlock with other writers of the tables) are run again.
func (db *DB) Append(ctx context.Context, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Token{}, err
	}
	c, err := newAppendCall(appends)
	if err != nil {
		return eventlog.Token{}, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	for try := 1; ; try++ {
		token, err := c.answer(db.pool.QueryRow(ctx, db.q(callAppend), c.args()...))
		switch {
		case err == nil:
			db.watch.hint()
			db.tell()
			return token, nil
		case try < maxAppendTries && ctx.Err() == nil && lostRace(err):
			continue
		case isOutcomeUnknown(err):
			return eventlog.Token{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, db.fault(ctx, "append", err))
		}
		return eventlog.Token{}, db.fault(ctx, "append", err)
	}
}

// lostRace reports whether running the same transaction again may succeed. An id
// that another transaction has just taken is a lost race too: the next try says
// by whom.
func lostRace(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (errors.Is(kinds[e.Code], ErrRetry) || e.Code == "23505" && e.ConstraintName == "events_id")
}

// isOutcomeUnknown reports whether a statement that commits by itself may have
// done so although err came back.
func isOutcomeUnknown(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "57P01" || e.Code == "57P02" // the server was stopped meanwhile
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || pgconn.SafeToRetry(err) {
		return false
	}
	return isNetwork(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// AppendTx is Append inside a transaction of the caller's: events and the
// caller's own rows are committed together, or not at all. The token is worth
// something once the transaction is committed.
//
// An [eventlog.ConflictError], an [eventlog.DuplicateError], an
// [eventlog.EventError] or an [event.NameError] leaves the transaction as it
// was. Any other error ends it.
// [ErrRetry] among them means that it lost a race: a deadlock, because two
// transactions append to the same streams in different orders, or, under
// REPEATABLE READ and SERIALIZABLE, a stream that has changed since the
// transaction began. Roll back and run the transaction again from its beginning,
// with what it read.
//
// From the first append on, until the transaction ends, other appends to its
// streams wait, and readers of the log do not pass the events that it may still
// add: commit soon.
func (db *DB) AppendTx(ctx context.Context, tx pgx.Tx, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	return db.appendIn(ctx, appends, func(c *appendCall) row {
		return tx.QueryRow(ctx, db.q(callAppend), c.args()...)
	})
}

// AppendSQL is [DB.AppendTx] for a transaction of database/sql, with any driver
// for PostgreSQL.
func (db *DB) AppendSQL(ctx context.Context, tx *sql.Tx, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	return db.appendIn(ctx, appends, func(c *appendCall) row {
		return tx.QueryRowContext(ctx, db.q(callAppendText), c.textArgs()...)
	})
}

func (db *DB) appendIn(ctx context.Context, appends []eventlog.StreamAppend, run func(*appendCall) row) (eventlog.Token, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Token{}, err
	}
	c, err := newAppendCall(appends)
	if err != nil {
		return eventlog.Token{}, err
	}
	token, err := c.answer(run(c))
	if err != nil {
		if lostRace(err) {
			err = fmt.Errorf("%w (append at %s: %w)", ErrRetry, db.where, err)
		} else {
			err = db.fault(ctx, "append", err)
		}
		return eventlog.Token{}, err
	}
	db.tell()
	return token, nil
}

// Versions implements [eventlog.Appender].
func (db *DB) Versions(ctx context.Context, streams ...eventlog.StreamRef) ([]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tenants, names := make([]string, len(streams)), make([]string, len(streams))
	for i, s := range streams {
		if storable(s.Tenant) && storable(s.Stream) { // else there is none
			tenants[i], names[i] = s.Tenant, s.Stream
		}
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	rows, err := db.pool.Query(ctx, db.q(`SELECT coalesce((SELECT s.version FROM {schema}.streams s WHERE s.tenant = u.tenant AND s.stream = u.stream), 0)
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY u(tenant, stream, n) ORDER BY u.n`), tenants, names)
	if err == nil {
		var out []int64
		if out, err = pgx.AppendRows(make([]int64, 0, len(streams)), rows, pgx.RowTo[int64]); err == nil {
			return out, nil
		}
	}
	return nil, db.fault(ctx, "read versions", err)
}
