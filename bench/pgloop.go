package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What the hand-written loop on PostgreSQL has of its own: a table of jsonb
// documents and its checkpoint.
const (
	pgLoopSchema = `CREATE SCHEMA loop;
		CREATE TABLE loop.carts (tenant text COLLATE "C", id text COLLATE "C", version bigint NOT NULL, position bigint NOT NULL,
			updated_at timestamptz NOT NULL, doc jsonb NOT NULL, PRIMARY KEY (tenant, id)) WITH (fillfactor = 85);
		CREATE TABLE loop.checkpoint (processor text PRIMARY KEY, position bigint NOT NULL, updated_at timestamptz NOT NULL) WITH (fillfactor = 50);
		INSERT INTO loop.checkpoint VALUES ('carts', 0, now())`
	pgLoopRead = `SELECT position, version, tenant, stream, type, data FROM fairlead.events
		WHERE position > $1 AND position <= $2 ORDER BY position`
	pgLoopPut = `INSERT INTO loop.carts (tenant, id, version, position, updated_at, doc)
		SELECT k.tenant, k.id, k.version, k.position, now(), k.doc
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::jsonb[]) AS k (tenant, id, version, position, doc)
		ON CONFLICT (tenant, id) DO UPDATE
		SET version = excluded.version, position = excluded.position, updated_at = excluded.updated_at, doc = excluded.doc`
	pgLoopLoad  = `SELECT tenant, id, version, doc FROM loop.carts`
	pgLoopFence = `UPDATE loop.checkpoint SET position = $1, updated_at = now() WHERE processor = 'carts' AND position = $2`
)

// A pgLoopEvent is what the loop reads of an event. Its bytes are those of its
// page.
type pgLoopEvent struct {
	position, version         int64
	tenant, stream, typ, data []byte
}

type pgLoopPage struct {
	events []pgLoopEvent
	to     int64
	bytes  []byte
	err    error
}

// pgLoop is what one would write by hand for this one projection: binary rows
// decoded in place, the next page read ahead on a connection of its own, all
// documents in a map, one upsert of arrays and the checkpoint in one pipelined
// transaction a batch. With overlap it is committed while the next batch is
// folded, which few would take the trouble to write. The loop knows no other tenants' lanes, no dead letters, no gaps in the positions and no
// second process.
func pgLoop(ctx context.Context, url string, batch int, overlap bool) (time.Duration, error) {
	reader, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = reader.Close(context.WithoutCancel(ctx)) }()
	writer, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = writer.Close(context.WithoutCancel(ctx)) }()
	started := time.Now()
	var at, head int64
	err = writer.QueryRow(ctx, "SELECT position, (SELECT max(position) FROM fairlead.events) FROM loop.checkpoint").Scan(&at, &head)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pages := make(chan *pgLoopPage, 1)
	go func() {
		defer close(pages)
		for from := at; from < head; {
			p := pgReadPage(ctx, reader, from, min(from+int64(batch), head))
			select {
			case pages <- p:
			case <-ctx.Done():
				return
			}
			if p.err != nil {
				return
			}
			from = p.to
		}
	}()
	defer func() { // before the connections are closed
		cancel()
		for range pages { // until the reader has ended
		}
	}()
	l := &pgLooping{docs: map[string]*pgLoopDoc{}}
	var flight chan error // the commit before
	landed := func() error {
		if flight == nil {
			return nil
		}
		err := <-flight
		flight = nil
		return err
	}
	defer func() { _ = landed() }()
	for p := range pages {
		if p.err != nil {
			return 0, p.err
		}
		b, err := l.fold(p)
		if err == nil {
			err = landed()
		}
		if err != nil {
			return 0, err
		}
		b.Queue(pgLoopFence, p.to, at).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != 1 {
				return errors.New("the checkpoint of the loop is not where it was")
			}
			return nil
		})
		at = p.to
		done := make(chan error, 1)
		flight = done
		go func() { done <- writer.SendBatch(ctx, b).Close() }()
		if !overlap {
			if err := landed(); err != nil {
				return 0, err
			}
		}
	}
	if err := landed(); err != nil {
		return 0, err
	}
	return time.Since(started), nil
}

type pgLooping struct {
	docs  map[string]*pgLoopDoc
	key   []byte
	dirty []*pgLoopDoc
}

type pgLoopDoc struct {
	state             cart
	tenant, id        string
	version, position int64
	dirty             bool
}

// fold applies a page, and returns the statement that writes what it changed.
func (l *pgLooping) fold(p *pgLoopPage) (*pgx.Batch, error) {
	codec := projection.JSON{}
	l.dirty = l.dirty[:0]
	for i := range p.events {
		e := &p.events[i]
		l.key = append(append(append(l.key[:0], e.tenant...), 0), e.stream...)
		d := l.docs[string(l.key)]
		if d == nil {
			d = &pgLoopDoc{tenant: string(e.tenant), id: string(e.stream)}
			l.docs[string(l.key)] = d
		}
		if e.version <= d.version {
			continue
		}
		if e.version != d.version+1 {
			return nil, fmt.Errorf("wrong result: stream %q jumps from version %d to %d", d.id, d.version, e.version)
		}
		var err error
		switch string(e.typ) {
		case "CartOpened":
			var o cartOpened
			err = codec.Decode(e.data, &o)
			d.state.opened(&o)
		case "ItemAdded", "ItemRemoved":
			var it cartItem
			err = codec.Decode(e.data, &it)
			sign := int64(1)
			if string(e.typ) == "ItemRemoved" {
				sign = -1
			}
			d.state.item(&it, sign)
		case "CartConfirmed":
			var c cartConfirmed
			err = codec.Decode(e.data, &c)
			d.state.confirmed()
		}
		if err != nil {
			return nil, err
		}
		d.version, d.position = e.version, e.position
		if !d.dirty {
			d.dirty = true
			l.dirty = append(l.dirty, d)
		}
	}
	slices.SortFunc(l.dirty, func(a, b *pgLoopDoc) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.id, b.id))
	})
	n := len(l.dirty)
	tenants, ids, versions, positions, docs := make([]string, n), make([]string, n), make([]int64, n), make([]int64, n), make([][]byte, n)
	for i, d := range l.dirty {
		tenants[i], ids[i], versions[i], positions[i] = d.tenant, d.id, d.version, d.position
		var err error
		if docs[i], err = codec.Encode(&d.state); err != nil {
			return nil, err
		}
		d.dirty = false
	}
	b := &pgx.Batch{}
	b.Queue(pgLoopPut, tenants, ids, versions, positions, docs)
	return b, nil
}

// pgReadPage reads the events in (after, to] by the binary protocol.
func pgReadPage(ctx context.Context, c *pgx.Conn, after, to int64) *pgLoopPage {
	p := &pgLoopPage{to: to, events: make([]pgLoopEvent, 0, to-after), bytes: make([]byte, 0, 128*(to-after))}
	rows, err := c.Query(ctx, pgLoopRead, pgx.QueryResultFormats{pgx.BinaryFormatCode}, after, to)
	if err != nil {
		p.err = err
		return p
	}
	defer rows.Close()
	keep := func(v []byte) []byte {
		if len(p.bytes)+len(v) > cap(p.bytes) {
			p.bytes = make([]byte, 0, max(cap(p.bytes), len(v)))
		}
		from := len(p.bytes)
		p.bytes = append(p.bytes, v...)
		return p.bytes[from:]
	}
	for rows.Next() {
		v := rows.RawValues()
		p.events = append(p.events, pgLoopEvent{
			int64(binary.BigEndian.Uint64(v[0])), int64(binary.BigEndian.Uint64(v[1])),
			keep(v[2]), keep(v[3]), keep(v[4]), keep(v[5]),
		})
	}
	p.err = rows.Err()
	return p
}

// comparePGLoop compares the loop's documents with what they must be.
func comparePGLoop(ctx context.Context, url string, want map[store.Key]cart) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	rows, err := c.Query(ctx, pgLoopLoad)
	if err != nil {
		return err
	}
	left := len(want)
	var k store.Key
	var version int64
	var doc []byte
	_, err = pgx.ForEachRow(rows, []any{&k.Tenant, &k.ID, &version, &doc}, func() error {
		var got cart
		if err := (projection.JSON{}).Decode(doc, &got); err != nil {
			return err
		}
		left--
		return compareCart(want, k, got)
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("wrong result: %d of %d carts are missing", left, len(want))
	}
	return err
}
