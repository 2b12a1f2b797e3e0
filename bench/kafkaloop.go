package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"
	zs "zombiezen.com/go/sqlite"
)

// A kafkaLoop is what one would write by hand for this one projection: all documents
// in a map, each batch's written with one statement or one prepared one, and the
// offsets in the same transaction. It knows no other tenants' lanes, no dead letters,
// no second process and no records that cannot be decoded.
type kafkaLoop struct {
	docs  map[string]*kafkaLoopDoc
	key   []byte
	dirty []*kafkaLoopDoc
	next  map[int32]int64 // by partition
}

type kafkaLoopDoc struct {
	state      cart
	tenant, id string
	position   int64
	dirty      bool
}

// run polls to the ends of the topic. Commit is called with what a batch changed and
// the offsets behind it, in a goroutine of its own with overlap, which few would take
// the trouble to write.
func (l *kafkaLoop) run(ctx context.Context, brokers []string, topic string, ends map[int]event.Position, overlap bool,
	commit func(dirty []kafkaLoopWrite, next map[int32]int64) error) (time.Duration, error) {
	from := map[int32]kgo.Offset{}
	left := 0
	for p, end := range ends {
		from[int32(p)] = kgo.NewOffset().At(0)
		left += int(end)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	started := time.Now()
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
	for left > 0 {
		fetches := client.PollRecords(ctx, catchupBatch)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		l.dirty = l.dirty[:0]
		for it := fetches.RecordIter(); !it.Done(); {
			if err := l.fold(it.Next()); err != nil {
				return 0, err
			}
			left--
		}
		writes, next, err := l.writes()
		if err == nil {
			err = landed()
		}
		if err != nil {
			return 0, err
		}
		done := make(chan error, 1)
		flight = done
		go func() { done <- commit(writes, next) }()
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

func (l *kafkaLoop) fold(r *kgo.Record) error {
	var tenant, typ []byte
	for i := range r.Headers {
		switch r.Headers[i].Key {
		case "fairlead-tenant":
			tenant = r.Headers[i].Value
		case "type":
			typ = r.Headers[i].Value
		}
	}
	l.key = append(append(append(l.key[:0], tenant...), 0), r.Key...)
	d := l.docs[string(l.key)]
	if d == nil {
		d = &kafkaLoopDoc{tenant: string(tenant), id: string(r.Key), position: -1}
		l.docs[string(l.key)] = d
	}
	l.next[r.Partition] = r.Offset + 1
	if r.Offset <= d.position {
		return nil
	}
	codec := projection.JSON{}
	var err error
	switch string(typ) {
	case "CartOpened":
		var o cartOpened
		err = codec.Decode(r.Value, &o)
		d.state.opened(&o)
	case "ItemAdded", "ItemRemoved":
		var it cartItem
		err = codec.Decode(r.Value, &it)
		sign := int64(1)
		if string(typ) == "ItemRemoved" {
			sign = -1
		}
		d.state.item(&it, sign)
	case "CartConfirmed":
		var c cartConfirmed
		err = codec.Decode(r.Value, &c)
		d.state.confirmed()
	}
	d.position = r.Offset
	if !d.dirty {
		d.dirty = true
		l.dirty = append(l.dirty, d)
	}
	return err
}

// A kafkaLoopWrite is a document as it is to be written.
type kafkaLoopWrite struct {
	tenant, id string
	position   int64
	doc        []byte
}

func (l *kafkaLoop) writes() (out []kafkaLoopWrite, next map[int32]int64, err error) {
	slices.SortFunc(l.dirty, func(a, b *kafkaLoopDoc) int { return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.id, b.id)) })
	out = make([]kafkaLoopWrite, len(l.dirty))
	for i, d := range l.dirty {
		doc, err := projection.JSON{}.Encode(&d.state)
		if err != nil {
			return nil, nil, err
		}
		out[i] = kafkaLoopWrite{d.tenant, d.id, d.position, doc}
		d.dirty = false
	}
	next = make(map[int32]int64, len(l.next))
	maps.Copy(next, l.next)
	return out, next, nil
}

func newKafkaLoop() *kafkaLoop {
	return &kafkaLoop{docs: map[string]*kafkaLoopDoc{}, next: map[int32]int64{}}
}

// What the loop has on PostgreSQL.
const (
	kafkaLoopSchema = `CREATE SCHEMA loop;
		CREATE TABLE loop.carts (tenant text COLLATE "C", id text COLLATE "C", position bigint NOT NULL,
			updated_at timestamptz NOT NULL, doc jsonb NOT NULL, PRIMARY KEY (tenant, id)) WITH (fillfactor = 85);
		CREATE TABLE loop.offsets (partition int PRIMARY KEY, next bigint NOT NULL) WITH (fillfactor = 50)`
	kafkaLoopPut = `INSERT INTO loop.carts (tenant, id, position, updated_at, doc)
		SELECT k.tenant, k.id, k.position, now(), k.doc FROM unnest($1::text[], $2::text[], $3::bigint[], $4::jsonb[]) AS k (tenant, id, position, doc)
		ON CONFLICT (tenant, id) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at, doc = excluded.doc`
	kafkaLoopFence = `INSERT INTO loop.offsets SELECT * FROM unnest($1::int[], $2::bigint[])
		ON CONFLICT (partition) DO UPDATE SET next = excluded.next WHERE loop.offsets.next <= excluded.next`
	kafkaLoopLoad = `SELECT tenant, id, doc FROM loop.carts`
)

// kafkaToPostgres runs the loop into PostgreSQL.
func kafkaToPostgres(ctx context.Context, s *kafkaServer, topic string, ends map[int]event.Position, url string, overlap bool) (took time.Duration, err error) {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	return newKafkaLoop().run(ctx, s.brokers, topic, ends, overlap, func(ws []kafkaLoopWrite, next map[int32]int64) error {
		n := len(ws)
		tenants, ids, positions, docs := make([]string, n), make([]string, n), make([]int64, n), make([][]byte, n)
		for i := range ws {
			w := &ws[i]
			tenants[i], ids[i], positions[i], docs[i] = w.tenant, w.id, w.position, w.doc
		}
		var parts []int32
		var offsets []int64
		for p, o := range next {
			parts, offsets = append(parts, p), append(offsets, o)
		}
		b := &pgx.Batch{}
		b.Queue(kafkaLoopPut, tenants, ids, positions, docs)
		b.Queue(kafkaLoopFence, parts, offsets).Exec(func(tag pgconn.CommandTag) error {
			if int(tag.RowsAffected()) != len(parts) {
				return errors.New("the offsets of the loop are not where they were")
			}
			return nil
		})
		return c.SendBatch(ctx, b).Close()
	})
}

// comparePGCarts compares the loop's documents with what they must be.
func comparePGCarts(ctx context.Context, url string, want map[store.Key]cart) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	rows, err := c.Query(ctx, kafkaLoopLoad)
	if err != nil {
		return err
	}
	left := len(want)
	var k store.Key
	var doc []byte
	_, err = pgx.ForEachRow(rows, []any{&k.Tenant, &k.ID, &doc}, func() error {
		left--
		return compareRaw(want, k, doc)
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("wrong result: %d of %d carts are missing", left, len(want))
	}
	return err
}

func compareRaw(want map[store.Key]cart, k store.Key, doc []byte) error {
	var got cart
	if err := (projection.JSON{}).Decode(doc, &got); err != nil {
		return err
	}
	return compareCart(want, k, got)
}

// What the loop has in SQLite, in a file with the settings of package sqlite.
const (
	sqliteLoopCarts   = `CREATE TABLE loop_carts (tenant TEXT, id TEXT, position INTEGER, updated_at INTEGER, doc TEXT, PRIMARY KEY (tenant, id)) WITHOUT ROWID`
	sqliteLoopOffsets = `CREATE TABLE loop_offsets (partition INTEGER PRIMARY KEY, next INTEGER)`
	sqliteLoopPut     = `INSERT OR REPLACE INTO loop_carts VALUES (?, ?, ?, ?, ?)`
	sqliteLoopFence   = `INSERT INTO loop_offsets VALUES (?1, ?2) ON CONFLICT (partition) DO UPDATE SET next = excluded.next WHERE next <= excluded.next`
)

// kafkaToSQLite runs the loop into a file that package sqlite has made, and compares
// the documents.
func kafkaToSQLite(ctx context.Context, s *kafkaServer, topic string, ends map[int]event.Position, path string, overlap bool, want map[store.Key]cart) (took time.Duration, err error) {
	c, err := openRaw(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := errors.Join(c.exec(sqliteLoopCarts), c.exec(sqliteLoopOffsets)); err != nil {
		return 0, err
	}
	put, err := c.Prepare(sqliteLoopPut)
	if err != nil {
		return 0, err
	}
	took, err = newKafkaLoop().run(ctx, s.brokers, topic, ends, overlap, func(ws []kafkaLoopWrite, next map[int32]int64) error {
		if err := c.exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		now := time.Now().UnixNano()
		for i := range ws {
			w := &ws[i]
			put.BindText(1, w.tenant)
			put.BindText(2, w.id)
			put.BindInt64(3, w.position)
			put.BindInt64(4, now)
			put.BindText(5, unsafeString(w.doc))
			if _, err := put.Step(); err != nil {
				return err
			}
			if err := put.Reset(); err != nil {
				return err
			}
		}
		for p, o := range next {
			if err := c.exec(sqliteLoopFence, int64(p), o); err != nil {
				return err
			}
			if c.Changes() != 1 {
				return errors.New("the offsets of the loop are not where they were")
			}
		}
		return c.exec("COMMIT")
	})
	if err != nil {
		return 0, err
	}
	left := len(want)
	err = c.rows("SELECT tenant, id, doc FROM loop_carts", func(st *zs.Stmt) error {
		left--
		return compareRaw(want, store.Key{Tenant: st.ColumnText(0), ID: st.ColumnText(1)}, []byte(st.ColumnText(2)))
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("wrong result: %d of %d carts are missing", left, len(want))
	}
	return took, err
}
