package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A Log is the event store of another program, read by a [Mapping]. It changes
// nothing: the role needs SELECT on the table. All methods may be called from many
// goroutines at once.
//
// It reads as [DB] does: in the order of positions, up to the safe head. Who may
// still fill a gap is told by the locks on the table and on its sequence: nextval
// takes a RowExclusive lock on the sequence before it draws a number, and holds it
// until the transaction ends. So no event is skipped however an append goes about
// it, as long as the transaction that draws a position is the one that inserts the
// event; see [Mapping].LateInserts.
//
// Events that are deleted from the table are not noticed, except by the versions
// of their stream.
type Log struct{ db *DB }

var (
	_ eventlog.Log          = (*Log)(nil)
	_ eventlog.StreamReader = (*Log)(nil)
	_ eventlog.Counter      = (*Log)(nil)
)

// OpenLog connects to the database of an existing event store, by its URL as
// [Open] takes it, and checks that m fits and that no event can be skipped. Of the
// Options, Schema and NoMigrate do not matter. The caller closes the Log. Ctx is
// that of opening alone.
func OpenLog(ctx context.Context, url string, m Mapping, opts ...Options) (*Log, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	db, err := prepare(ctx, url, opts...)
	if err != nil {
		return nil, err
	}
	limited, cancel := db.limit(ctx)
	defer cancel()
	err = db.checkServer(limited)
	if err == nil {
		err = db.checkMapping(limited, m)
	}
	if err != nil {
		err = db.fault(limited, "open log", err)
		_ = db.Close()
		return nil, err
	}
	return &Log{db}, nil
}

// Partitions implements [eventlog.Log]: there is one.
func (l *Log) Partitions(ctx context.Context) (int, error) { return l.db.Partitions(ctx) }

// Read implements [eventlog.Log].
func (l *Log) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	return l.db.Read(ctx, req)
}

// Head implements [eventlog.Log].
func (l *Log) Head(ctx context.Context, partition int) (event.Position, error) {
	return l.db.Head(ctx, partition)
}

// Wait implements [eventlog.Log]. New events are found by looking, more often
// where some came lately; see [Mapping].Channel.
func (l *Log) Wait(ctx context.Context, partition int, after event.Position) error {
	return l.db.Wait(ctx, partition, after)
}

// PositionAt implements [eventlog.Log]. It scans the table, unless an index helps.
func (l *Log) PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error) {
	return l.db.PositionAt(ctx, partition, t)
}

// ReadStream implements [eventlog.StreamReader].
func (l *Log) ReadStream(ctx context.Context, stream eventlog.StreamRef, after int64, limit int) ([]event.Event, error) {
	if l.db.mapped.m.Version == "" {
		return nil, fmt.Errorf("%w: a stream cannot be read without Mapping.Version", ErrMapping)
	}
	out, err := l.db.ReadStream(ctx, stream, after, limit)
	if l.db.mapped.castOf("Stream") != "text" && isBadRow(err) {
		return nil, ctx.Err() // no stream has a name that is no uuid
	}
	return out, err
}

// Count implements [eventlog.Counter].
func (l *Log) Count(ctx context.Context, partition int, f eventlog.Filter, after, until event.Position, limit int) (n int, oldest time.Time, err error) {
	return l.db.Count(ctx, partition, f, after, until, limit)
}

// Holders returns the transactions that hold back the safe head, as [DB.Holders].
func (l *Log) Holders(ctx context.Context) ([]Holder, error) { return l.db.Holders(ctx) }

// Advice returns what would make reading cheaper, as SQL for whoever owns the
// table: an index of the positions above all, which Emmett's table does not have.
func (l *Log) Advice() []string { return slices.Clone(l.db.mapped.advice) }

// Close waits for what runs in the background and closes all connections.
func (l *Log) Close() error { return l.db.Close() }
