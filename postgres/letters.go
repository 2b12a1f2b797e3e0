package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

const letterColumns = `processor, number, partition, tenant, key, state, retry, reason, error, attempts, at,
	position, event_id, event_tenant, stream, version, type, occurred_at, recorded_at, metadata, data, withheld, class`

// letterArgs are the values of letterColumns. Names go as bytes: an event may be
// a letter because its names are no text.
func letterArgs(l *store.DeadLetter) []any {
	e := &l.Event
	return []any{
		l.Processor, l.Number, l.Partition, []byte(l.Tenant), []byte(l.Key), string(l.State), l.Retry, readable(l.Reason), []byte(l.Error),
		l.Attempts, timeOrNil(l.At), int64(e.Position), []byte(e.ID), []byte(e.Tenant), []byte(e.Stream), e.Version, []byte(e.Type),
		timeOrNil(e.OccurredAt), timeOrNil(e.RecordedAt), packMetadata(e.Metadata), e.Data, e.Withheld, []byte(e.Class),
	}
}

// scanLetter reads id and letterColumns.
func scanLetter(row pgx.CollectableRow) (l store.DeadLetter, err error) {
	var tenant, key, reason, id, eventTenant, stream, kind, metadata, class []byte
	var at, occurred, recorded *time.Time
	e := &l.Event
	err = row.Scan(&l.ID, &l.Processor, &l.Number, &l.Partition, &tenant, &key, (*string)(&l.State), &l.Retry, &l.Reason, &reason, &l.Attempts,
		&at, (*int64)(&e.Position), &id, &eventTenant, &stream, &e.Version, &kind, &occurred, &recorded, &metadata, &e.Data, &e.Withheld, &class)
	if err != nil {
		return l, err
	}
	l.Tenant, l.Key, l.Error, l.At = string(tenant), string(key), string(reason), utc(at)
	e.ID, e.Tenant, e.Stream, e.Type = string(id), string(eventTenant), string(stream), string(kind)
	e.Class = string(class)
	e.OccurredAt, e.RecordedAt = utc(occurred), utc(recorded)
	e.Metadata, err = unpackMetadata(metadata)
	return l, err
}

// packMetadata returns the lengths and bytes of keys and values, by key, and
// nil where there are none.
func packMetadata(m event.Metadata) (b []byte) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		for _, s := range []string{k, m[k]} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	return b
}

var errLetterMetadata = errors.New("postgres: metadata of a dead letter is damaged")

func unpackMetadata(b []byte) (event.Metadata, error) {
	if len(b) == 0 {
		return nil, nil
	}
	m := event.Metadata{}
	var pair [2]string
	for i := 0; len(b) > 0; i++ {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, errLetterMetadata
		}
		pair[i%2] = string(b[size : size+int(n)])
		b = b[size+int(n):]
		if i%2 == 1 {
			m[pair[0]] = pair[1]
		}
	}
	return m, nil
}

const insertLetter = "INSERT INTO {schema}.dead_letters (" + letterColumns +
	") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($11, clock_timestamp()), $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)"

func (db *DB) queueLetters(b *pgx.Batch, letters []store.DeadLetter) {
	for i := range letters {
		b.Queue(db.q(insertLetter), letterArgs(&letters[i])...)
	}
}

// Letters implements [store.Tx].
func (tx *storeTx) Letters(f store.LetterFilter) (out []store.DeadLetter, err error) {
	where, values := "id > $1", []any{f.AfterID}
	add := func(on bool, column string, v any) {
		if on {
			values = append(values, v)
			where += fmt.Sprintf(" AND %s = $%d", column, len(values))
			if _, name := v.([]byte); name { // as the index has it
				where += fmt.Sprintf(" AND md5(%s) = md5($%d)", column, len(values))
			}
		}
	}
	add(f.Processor != "", "processor", f.Processor)
	add(f.Number != 0, "number", f.Number)
	if f.Partition != nil {
		add(true, "partition", *f.Partition)
	}
	add(f.Tenant != "", "tenant", []byte(f.Tenant))
	if f.Key != nil {
		add(true, "key", []byte(*f.Key))
	}
	add(f.State != "", "state", string(f.State))
	add(f.Reason != "", "reason", f.Reason)
	query := "SELECT id, " + letterColumns + " FROM {schema}.dead_letters WHERE " + where + " ORDER BY id"
	if f.Limit > 0 {
		values = append(values, f.Limit)
		query += fmt.Sprintf(" LIMIT $%d", len(values))
	}
	err = tx.rows(query, func(row pgx.CollectableRow) error {
		l, err := scanLetter(row)
		out = append(out, l)
		return err
	}, append([]any{planned}, values...)...)
	return out, err
}

// Parked implements [store.Tx].
func (tx *storeTx) Parked(b store.Build, tenant string) (out []store.ParkedKey, err error) {
	of := "$3::bytea = ''"
	if tenant != "" {
		of = "tenant = $3 AND md5(tenant) = md5($3)"
	}
	err = tx.rows(`SELECT partition, tenant, key, bool_or(retry), count(*) FROM {schema}.dead_letters
		WHERE processor = $1 AND number = $2 AND `+of+` AND state <> $4
		GROUP BY partition, tenant, key ORDER BY partition, tenant, key`,
		func(row pgx.CollectableRow) error {
			var k store.ParkedKey
			var tenant, key []byte
			err := row.Scan(&k.Partition, &tenant, &key, &k.Retry, &k.Letters)
			k.Tenant, k.Key = string(tenant), string(key)
			out = append(out, k)
			return err
		}, planned, b.Processor, b.Number, []byte(tenant), string(store.Skipped))
	return out, err
}

const putLetter = "UPDATE {schema}.dead_letters SET (" + letterColumns +
	") = ROW ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) WHERE id = $24"

// PutLetter implements [store.Tx].
func (tx *storeTx) PutLetter(l store.DeadLetter) error {
	n, err := tx.exec(putLetter, append(letterArgs(&l), l.ID)...)
	if err == nil && n == 0 {
		err = fmt.Errorf("postgres: dead letter %d: %w", l.ID, store.ErrNotFound)
	}
	return err
}

// DeleteLetters implements [store.Tx].
func (tx *storeTx) DeleteLetters(ids []int64) error {
	_, err := tx.exec("DELETE FROM {schema}.dead_letters WHERE id = ANY ($1)", append([]int64{}, ids...))
	return err
}
