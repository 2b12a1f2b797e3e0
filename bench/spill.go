package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	zs "zombiezen.com/go/sqlite"
)

// A tenant that has a lane of its own on a shared partition is read a second time, from
// where it left the base lane: its lane passes over the records of the others. The
// other way would be for the base lane, which reads them all anyway, to write the
// tenant's into the store, and for the tenant's lane to read them there and delete them.
// This measures what each costs.

// A spillCase is the tenants that are read together, and which share of a partition
// they have among them.
type spillCase struct {
	name    string
	tenants []string
	share   float64
}

// spillTenants are the tenants of the backlog, by how many records of a hundred they
// have: one of 50, one of 10, and 40 of one each.
func spillTenants() (of []string) {
	add := func(name string, n int) {
		for range n {
			of = append(of, name)
		}
	}
	add("half", 50)
	add("tenth", 10)
	for i := range 40 {
		add(fmt.Sprintf("small-%02d", i), 1)
	}
	return of
}

func spillCases() []spillCase {
	var ten []string
	for i := range 10 {
		ten = append(ten, fmt.Sprintf("small-%02d", i))
	}
	return []spillCase{
		{"one tenant", ten[:1], 0.01},
		{"ten tenants that share a reader", ten, 0.1},
		{"one tenant", []string{"tenth"}, 0.1},
		{"one tenant", []string{"half"}, 0.5},
	}
}

const spillBatch = 5000 // records that the base lane has in a commit, and events of a page

// A spillArm is what one way came to for a case.
type spillArm struct{ processor, elapsed []float64 } // ns for an event of the tenants

// runSpill compares reading again with spilling.
func runSpill(ctx context.Context, b *bench) error { return b.onServers(ctx, b.runSpillOn) }

func (b *bench) runSpillOn(ctx context.Context, k *kafkaServer, pg *pgServer) error {
	n, runs := 500_000, 5
	if b.quick {
		n, runs = 100_000, 3
	}
	topic, err := k.topic(ctx, "spill", 1)
	if err != nil {
		return err
	}
	defer func() { _ = k.drop(ctx, topic) }()
	tenants, records := spillTenants(), make([]*kgo.Record, n)
	if err := k.produce(ctx, n, func(i int) *kgo.Record {
		r := orderRecord(topic, 0, 0, i*7919%10_000, i)
		r.Headers[0].Value = []byte(tenants[i*37%len(tenants)]) // 37 has no divisor in common with 100
		r.Offset = int64(i)
		records[i] = r
		return r
	}); err != nil {
		return err
	}
	s := &spillRun{k: k, pg: pg, topic: topic, records: records, dir: b.dir}
	if s.url, err = pg.create(ctx, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.drop(ctx, s.url)) }()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	err = errors.Join(conn.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&s.data), conn.Close(ctx))
	if err != nil {
		return err
	}
	ways := []struct {
		name string
		run  func(context.Context, spillCase) ([]int64, error)
	}{{"read again", s.reread}, {"spilled to PostgreSQL", s.postgres}, {"spilled to SQLite", s.sqlite}}
	cases := spillCases()
	got := make([][]spillArm, len(cases))
	for i := range got {
		got[i] = make([]spillArm, len(ways))
	}
	for range runs {
		for i, c := range cases {
			for j, w := range ways {
				before, began := s.processor(), time.Now()
				positions, err := w.run(ctx, c)
				took, worked := time.Since(began), s.processor()-before
				if err == nil {
					err = s.check(c, positions)
				}
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, w.name, err)
				}
				a, of := &got[i][j], float64(len(positions))
				a.processor, a.elapsed = append(a.processor, float64(worked.Nanoseconds())/of), append(a.elapsed, float64(took.Nanoseconds())/of)
			}
		}
	}
	cond := fmt.Sprintf("%d records of one partition, %d a page and a commit, median of %d interleaved runs, positions compared; processor time with the servers'; %s; %s", n, spillBatch, runs, k.settings, pg.settings)
	for i, c := range cases {
		for j, w := range ways {
			a := got[i][j]
			about := fmt.Sprintf("%s, %s %% of the partition, %s", c.name, number(100*c.share), w.name)
			b.add("processor_time", median(a.processor), "ns/event", line{}, "of the tenants; %s; %s; %s", about, spread(a.processor), cond)
			b.add("elapsed", median(a.elapsed), "ns/event", line{}, "of the tenants; %s; %s; %s", about, spread(a.elapsed), cond)
		}
	}
	// Reading again costs for an event of the tenants each + over/share: each is what an
	// event costs that is theirs, over what a record costs that is read at all.
	one, half := got[0][0], got[len(cases)-1][0]
	for j, w := range ways[1:] {
		for _, what := range []string{"processor time", "elapsed"} {
			of := func(a spillArm) float64 {
				if what == "elapsed" {
					return median(a.elapsed)
				}
				return median(a.processor)
			}
			over, each := readAgainCosts(of(one), of(half))
			spilled := of(got[len(cases)-1][j+1])
			b.add("break_even_share", 100*breakEven(over, each, spilled), "%", line{}, "of the partition that the tenants of one reader must have for reading again to cost less than what is %s, by %s: a record that is read again costs %s ns and one of the tenant's own %s ns more, spilled one costs %s ns; %s",
				w.name, what, number(over), number(each), number(spilled), cond)
		}
	}
	return nil
}

// readAgainCosts returns what a record costs that is read again, and what one costs
// more that is the tenant's own, from the costs by event of a tenant with one percent
// of the records and of one with a half.
func readAgainCosts(one, half float64) (over, each float64) {
	over = (one - half) / (1/0.01 - 1/0.5)
	return over, half - over/0.5
}

// breakEven returns at which share reading again costs what spilling costs; 1 or more:
// at none.
func breakEven(over, each, spilled float64) float64 {
	if spilled <= each {
		return 1
	}
	return over / (spilled - each)
}

// A spillRun is the backlog, and the servers.
type spillRun struct {
	k          *kafkaServer
	pg         *pgServer
	topic, url string
	records    []*kgo.Record
	dir        string
	data       string // the database server's folder
	n          int
}

// processor is the time of this process, of the database server and of the broker.
func (s *spillRun) processor() time.Duration {
	server := serverTime(s.data)
	if s.k.dir != "" {
		server += folderTime(s.k.dir)
	}
	return processorTime() + time.Duration(server*float64(time.Second))
}

// check sees that each record of the tenants has come, in order.
func (s *spillRun) check(c spillCase, positions []int64) error {
	i := 0
	for at, r := range s.records {
		if !c.has(r) {
			continue
		}
		if i >= len(positions) || positions[i] != int64(at)+1 {
			return fmt.Errorf("wrong result: event %d of the tenants is not the one at position %d", i, at+1)
		}
		i++
	}
	if i != len(positions) {
		return fmt.Errorf("wrong result: %d events, must be %d", len(positions), i)
	}
	return nil
}

func (c *spillCase) has(r *kgo.Record) bool {
	t := r.Headers[0].Value
	return slices.Contains(c.tenants, string(t))
}

// reread reads the partition again, as the lane of these tenants does.
func (s *spillRun) reread(ctx context.Context, c spillCase) (positions []int64, err error) {
	log, err := kafka.Open(ctx, kafka.Config{Brokers: s.k.brokers, Topic: s.topic})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	for at := event.Position(0); int(at) < len(s.records); {
		page, err := log.Read(ctx, eventlog.ReadRequest{After: at, Filter: eventlog.Filter{Tenants: c.tenants}, MaxEvents: spillBatch})
		if err != nil {
			return nil, err
		}
		for i := range page.Events {
			positions = append(positions, int64(page.Events[i].Position))
		}
		at = page.Next
	}
	return positions, nil
}

// A spilled is a record as it is written into a store.
type spilled struct {
	tenant   string
	position int64
	record   []byte
}

// spill calls write with the records of the tenants, as many as the base lane finds in
// what it commits at once.
func (s *spillRun) spill(c spillCase, write func([]spilled) error) error {
	var some []spilled
	for i, r := range s.records {
		if c.has(r) {
			some = append(some, spilled{string(r.Headers[0].Value), int64(i) + 1, packRecord(r)})
		}
		if (i+1)%spillBatch == 0 || i+1 == len(s.records) {
			if len(some) > 0 {
				if err := write(some); err != nil {
					return err
				}
			}
			some = some[:0]
		}
	}
	return nil
}

// packRecord writes key, value and headers one after the other.
func packRecord(r *kgo.Record) []byte {
	b := make([]byte, 0, len(r.Key)+len(r.Value)+200)
	put := func(x []byte) { b = append(binary.AppendUvarint(b, uint64(len(x))), x...) }
	put(r.Key)
	put(r.Value)
	for _, h := range r.Headers {
		put([]byte(h.Key))
		put(h.Value)
	}
	return b
}

func unpackRecord(b []byte) (*kgo.Record, error) {
	ok := true
	next := func() []byte {
		n, at := binary.Uvarint(b)
		if at <= 0 || uint64(len(b)-at) < n {
			ok = false
			return nil
		}
		x := b[at : at+int(n)]
		b = b[at+int(n):]
		return x
	}
	r := &kgo.Record{Key: next(), Value: next()}
	for len(b) > 0 && ok {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: string(next()), Value: next()})
	}
	if !ok {
		return nil, errors.New("wrong result: a record was cut")
	}
	return r, nil
}

// unspill makes the event of what was spilled.
func unspill(topic string, position int64, b []byte) (event.Event, error) {
	r, err := unpackRecord(b)
	if err != nil {
		return event.Event{}, err
	}
	r.Topic, r.Offset = topic, position-1
	var m kafka.Mapping
	return m.Decode(r)
}

const (
	spillSchema = `DROP TABLE IF EXISTS spilled;
		CREATE TABLE spilled (tenant text COLLATE "C", partition int, position bigint, record bytea NOT NULL, PRIMARY KEY (tenant, partition, position))`
	spillPut = `INSERT INTO spilled SELECT t, 0, p, r FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS x (t, p, r)`
	spillGet = `SELECT position, record FROM spilled WHERE tenant = $1 AND partition = 0 AND position > $2 ORDER BY position LIMIT $3`
	spillDel = `DELETE FROM spilled WHERE tenant = $1 AND partition = 0 AND position <= $2`
)

// postgres writes the tenants' records, reads each tenant's in order, and deletes them.
func (s *spillRun) postgres(ctx context.Context, c spillCase) (positions []int64, err error) {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, spillSchema); err != nil {
		return nil, err
	}
	err = s.spill(c, func(some []spilled) error {
		tenants, at, records := make([]string, len(some)), make([]int64, len(some)), make([][]byte, len(some))
		for i, x := range some {
			tenants[i], at[i], records[i] = x.tenant, x.position, x.record
		}
		_, err := conn.Exec(ctx, spillPut, tenants, at, records)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.drain(c, func(tenant string, after int64, f func(int64, []byte) error) error {
		rows, err := conn.Query(ctx, spillGet, tenant, after, spillBatch)
		if err != nil {
			return err
		}
		var at int64
		var record []byte
		_, err = pgx.ForEachRow(rows, []any{&at, &record}, func() error { return f(at, record) })
		return err
	}, func(tenant string, until int64) error {
		_, err := conn.Exec(ctx, spillDel, tenant, until)
		return err
	})
}

// drain reads what was spilled, tenant by tenant, and deletes it page by page. It
// returns all positions, in order.
func (s *spillRun) drain(c spillCase, get func(tenant string, after int64, f func(int64, []byte) error) error, del func(tenant string, until int64) error) ([]int64, error) {
	of := make([][]int64, len(c.tenants))
	for i, tenant := range c.tenants {
		for after := int64(0); ; {
			n := 0
			err := get(tenant, after, func(at int64, record []byte) error {
				e, err := unspill(s.topic, at, record)
				if err == nil && e.Tenant != tenant {
					err = fmt.Errorf("wrong result: tenant %q at position %d of %q", e.Tenant, at, tenant)
				}
				n, after = n+1, at
				of[i] = append(of[i], at)
				return err
			})
			if err != nil {
				return nil, err
			}
			if n == 0 {
				break
			}
			if err := del(tenant, after); err != nil {
				return nil, err
			}
		}
	}
	var all []int64
	for len(of) > 0 { // the order of the partition, for the check
		least := -1
		for i := range of {
			if len(of[i]) > 0 && (least < 0 || of[i][0] < of[least][0]) {
				least = i
			}
		}
		if least < 0 {
			break
		}
		all, of[least] = append(all, of[least][0]), of[least][1:]
	}
	return all, nil
}

// sqlite is the same with a file that has the settings of package sqlite.
func (s *spillRun) sqlite(ctx context.Context, c spillCase) (positions []int64, err error) {
	s.n++
	path := filepath.Join(s.dir, fmt.Sprintf("spill-%d.db", s.n))
	db, err := sqlite.Open(path)
	if err != nil {
		return nil, err
	}
	defer removeDB(path)
	if err := db.Close(); err != nil {
		return nil, err
	}
	conn, err := openRaw(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.exec(`CREATE TABLE spilled (tenant TEXT, partition INTEGER, position INTEGER, record BLOB, PRIMARY KEY (tenant, partition, position)) WITHOUT ROWID`); err != nil {
		return nil, err
	}
	put, err := conn.Prepare(`INSERT INTO spilled VALUES (?, 0, ?, ?)`)
	if err != nil {
		return nil, err
	}
	in := func(f func() error) error { return errors.Join(conn.exec("BEGIN IMMEDIATE"), f(), conn.exec("COMMIT")) }
	err = s.spill(c, func(some []spilled) error {
		return in(func() error {
			for _, x := range some {
				put.BindText(1, x.tenant)
				put.BindInt64(2, x.position)
				put.BindBytes(3, x.record)
				if _, err := put.Step(); err != nil {
					return err
				}
				if err := put.Reset(); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return s.drain(c, func(tenant string, after int64, f func(int64, []byte) error) error {
		return conn.rows(`SELECT position, record FROM spilled WHERE tenant = ? AND partition = 0 AND position > ? ORDER BY position LIMIT ?`, func(st *zs.Stmt) error {
			record := make([]byte, st.ColumnLen(1))
			st.ColumnBytes(1, record)
			return f(st.ColumnInt64(0), record)
		}, tenant, after, int64(spillBatch))
	}, func(tenant string, until int64) error {
		return in(func() error {
			return conn.exec(`DELETE FROM spilled WHERE tenant = ? AND partition = 0 AND position <= ?`, tenant, until)
		})
	})
}
