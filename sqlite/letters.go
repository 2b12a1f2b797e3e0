package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

const letterColumns = `processor, number, partition, tenant, key, state, retry, reason, error, attempts, at,
	position, event_id, event_tenant, stream, version, type, occurred_at, recorded_at, metadata, data, withheld, class`

// bindLetter binds l to parameters 1 to 23, as letterColumns, and its id to
// parameter 24 where that is wanted.
func bindLetter(s *zs.Stmt, l *store.DeadLetter, id bool) error {
	e := &l.Event
	args := []any{
		l.Processor, l.Number, l.Partition, l.Tenant, l.Key, string(l.State), l.Retry, l.Reason, l.Error, l.Attempts, l.At,
		int64(e.Position), e.ID, e.Tenant, e.Stream, e.Version, e.Type, e.OccurredAt, e.RecordedAt, nil, text(e.Data), e.Withheld, e.Class,
	}
	if id {
		args = append(args, l.ID)
	}
	err := bind(s, args)
	bindMetadata(s, 20, e.Metadata)
	return err
}

// scanLetter reads id and letterColumns.
func scanLetter(s *zs.Stmt) (l store.DeadLetter, err error) {
	l = store.DeadLetter{
		ID: s.ColumnInt64(0), Build: store.Build{Processor: s.ColumnText(1), Number: s.ColumnInt64(2)}, Partition: s.ColumnInt(3),
		Tenant: s.ColumnText(4), Key: s.ColumnText(5), State: store.LetterState(s.ColumnText(6)), Retry: s.ColumnBool(7),
		Reason: s.ColumnText(8), Error: s.ColumnText(9), Attempts: s.ColumnInt(10),
		Event: event.Event{
			Position: event.Position(s.ColumnInt64(12)), ID: s.ColumnText(13), Tenant: s.ColumnText(14), Stream: s.ColumnText(15),
			Version: s.ColumnInt64(16), Type: s.ColumnText(17), Data: columnBytes(s, 21), Withheld: s.ColumnInt64(22), Class: s.ColumnText(23),
		},
	}
	var errs [4]error
	l.At, errs[0] = columnTime(s, 11)
	l.Event.OccurredAt, errs[1] = columnTime(s, 18)
	l.Event.RecordedAt, errs[2] = columnTime(s, 19)
	l.Event.Metadata, errs[3] = columnMetadata(s, 20)
	return l, errors.Join(errs[:]...)
}

func (w *writer) insertLetter(l *store.DeadLetter) error {
	s, err := w.Prepare("INSERT INTO fairlead_dead_letters(" + letterColumns + ") VALUES(?" + strings.Repeat(", ?", 22) + ")")
	if err != nil {
		return err
	}
	timed := *l
	if timed.At.IsZero() {
		timed.At = time.Now()
	}
	if err := bindLetter(s, &timed, false); err != nil {
		return err
	}
	if _, err := s.Step(); err != nil {
		return err
	}
	return s.Reset()
}

// Letters implements [store.Tx].
func (tx *storeTx) Letters(f store.LetterFilter) (out []store.DeadLetter, err error) {
	where, args := "id > ?", []any{f.AfterID}
	add := func(on bool, column string, v any) {
		if on {
			where += " AND " + column + " = ?"
			args = append(args, v)
		}
	}
	add(f.Processor != "", "processor", f.Processor)
	add(f.Number != 0, "number", f.Number)
	if f.Partition != nil {
		add(true, "partition", *f.Partition)
	}
	add(f.Tenant != "", "tenant", f.Tenant)
	if f.Key != nil {
		add(true, "key", *f.Key)
	}
	add(f.State != "", "state", string(f.State))
	add(f.Reason != "", "reason", f.Reason)
	limit := f.Limit
	if limit <= 0 {
		limit = -1 // SQLite's word for all
	}
	err = tx.rows("SELECT id, "+letterColumns+" FROM fairlead_dead_letters WHERE "+where+" ORDER BY id LIMIT ?", func(s *zs.Stmt) error {
		l, err := scanLetter(s)
		out = append(out, l)
		return err
	}, append(args, limit)...)
	return out, err
}

// Parked implements [store.Tx].
func (tx *storeTx) Parked(b store.Build, tenant string) (out []store.ParkedKey, err error) {
	err = tx.rows(`SELECT partition, tenant, key, max(retry), count(*) FROM fairlead_dead_letters
		WHERE processor = ?1 AND number = ?2 AND (?3 = '' OR tenant = ?3) AND state <> ?4
		GROUP BY partition, tenant, key ORDER BY partition, tenant, key`,
		func(s *zs.Stmt) error {
			out = append(out, store.ParkedKey{
				Partition: s.ColumnInt(0), Tenant: s.ColumnText(1), Key: s.ColumnText(2), Retry: s.ColumnBool(3), Letters: s.ColumnInt(4),
			})
			return nil
		}, b.Processor, b.Number, tenant, string(store.Skipped))
	return out, err
}

// PutLetter implements [store.Tx].
func (tx *storeTx) PutLetter(l store.DeadLetter) error {
	if err := tx.writable(); err != nil {
		return err
	}
	s, err := tx.c.Prepare("UPDATE fairlead_dead_letters SET (" + letterColumns + ") = (?" + strings.Repeat(", ?", 22) + ") WHERE id = ?")
	if err != nil {
		return tx.note(err)
	}
	if err := bindLetter(s, &l, true); err != nil {
		return err
	}
	if _, err := s.Step(); err != nil {
		return tx.note(err)
	}
	if err := s.Reset(); err != nil {
		return tx.note(err)
	}
	if tx.c.Changes() == 0 {
		return fmt.Errorf("sqlite: dead letter %d: %w", l.ID, store.ErrNotFound)
	}
	return nil
}

// DeleteLetters implements [store.Tx].
func (tx *storeTx) DeleteLetters(ids []int64) error {
	for _, id := range ids {
		if _, err := tx.exec("DELETE FROM fairlead_dead_letters WHERE id = ?", id); err != nil {
			return err
		}
	}
	return nil
}
