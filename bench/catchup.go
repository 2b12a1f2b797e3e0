package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

const (
	// catchupBatch is the most events of a batch of the engine.
	catchupBatch = 5000
	// catchupMemory lets both arms keep all documents.
	catchupMemory = 512 << 20
)

// A catchupCase is a data set with one projection of it, as a definition and as
// what a hand-written loop does.
type catchupCase struct {
	set   string
	d     projection.Definition
	loop  func(path string, batch int) (time.Duration, error)
	quick int // events
}

func catchupCases() []catchupCase {
	return []catchupCase{
		{"retail-orders", retail.Orders, func(path string, batch int) (time.Duration, error) {
			return tightLoop(path, "orders", batch, nil, foldOrder)
		}, 60_000},
		{"asset-store", assets, func(path string, batch int) (time.Duration, error) {
			return tightLoop(path, "assets", batch, []string{"AssetUploaded", "AssetReplaced", "AssetDeleted"}, foldAsset)
		}, 60_000},
	}
}

// orderLine is what a hand-written loop reads of a line of retail-orders.
type orderLine struct {
	Product        string `json:"product"`
	Quantity       int64  `json:"quantity"`
	UnitPriceMilli int64  `json:"unit_price_milli"`
	Customer       string `json:"customer"`
}

func foldOrder(o *retail.Order, _ int, occurred int64, e *orderLine) {
	o.Lines++
	o.Units += e.Quantity
	o.AmountMilli += e.Quantity * e.UnitPriceMilli
	o.LastAt = time.Unix(0, occurred).UTC()
	if e.Customer != "" {
		o.Customer = e.Customer
	}
}

// An assetDoc is the document of a file of asset-store.
type assetDoc struct {
	Size    int64 `json:"size"`
	Change  int64 `json:"change"`
	Changes int64 `json:"changes"`
	Deleted bool  `json:"deleted"`
}

type assetChange struct {
	Size   int64 `json:"size"`
	Change int64 `json:"change"`
}

func (a *assetDoc) apply(e *assetChange, deleted bool) {
	a.Size, a.Change, a.Deleted = e.Size, e.Change, deleted
	a.Changes++
}

func foldAsset(a *assetDoc, typ int, _ int64, e *assetChange) { a.apply(e, typ == 2) }

var assets = projection.New("assets",
	projection.On("AssetUploaded", func(a *assetDoc, e projection.Event[assetChange]) error { a.apply(&e.Data, false); return nil }),
	projection.On("AssetReplaced", func(a *assetDoc, e projection.Event[assetChange]) error { a.apply(&e.Data, false); return nil }),
	projection.On("AssetDeleted", func(a *assetDoc, e projection.Event[assetChange]) error { a.apply(&e.Data, true); return nil }),
)

// A loopDoc is a document in the map of a hand-written loop.
type loopDoc[S any] struct {
	state             S
	tenant            int64
	id                string
	version, position int64
	dirty             bool
}

// tightLoop is what one would write by hand for one projection on one file: one
// connection, one goroutine, one transaction a batch, documents in a map, every
// statement prepared once. It does all that the engine's single lane must do to
// be right after a crash, and nothing else. types are told to fold by their
// index; nil: fold does not look at the type.
func tightLoop[S, E any](path, processor string, batch int, types []string, fold func(s *S, typ int, occurred int64, e *E)) (time.Duration, error) {
	c, err := openRaw(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	started := time.Now()
	head, err := c.int64("SELECT max(position) FROM fairlead_events")
	if err != nil {
		return 0, err
	}
	at, err := c.int64("SELECT position FROM fairlead_lanes WHERE processor = ? AND tenant = ''", processor)
	if err != nil {
		return 0, err
	}
	typeIndex := map[int64]int{}
	for i, name := range types {
		err := c.rows("SELECT type_no FROM fairlead_types WHERE name = ?", func(s *zs.Stmt) error {
			typeIndex[s.ColumnInt64(0)] = i
			return nil
		}, name)
		if err != nil {
			return 0, err
		}
	}
	build := int64(0)
	l := &looping[S, E]{c: c, docs: map[int64]*loopDoc[S]{}, types: typeIndex, fold: fold}
	for at < head {
		if err := c.exec("BEGIN IMMEDIATE"); err != nil {
			return 0, err
		}
		if build == 0 {
			if err := c.exec("INSERT INTO fairlead_builds(processor, number) VALUES(?, 1)", processor); err != nil {
				return 0, err
			}
			build = c.LastInsertRowID()
			l.build = build
		}
		to := min(at+int64(batch), head)
		if err := l.batch(at, to); err != nil {
			return 0, err
		}
		if err := l.moveOn(processor, at, to); err != nil {
			return 0, err
		}
		if err := c.exec("COMMIT"); err != nil {
			return 0, err
		}
		at = to
	}
	return time.Since(started), nil
}

type looping[S, E any] struct {
	c     *raw
	build int64
	docs  map[int64]*loopDoc[S] // by stream_no
	types map[int64]int
	fold  func(s *S, typ int, occurred int64, e *E)
	dirty []*loopDoc[S]
	buf   []byte
}

// batch folds the events in (at, to] and writes the documents they change.
func (l *looping[S, E]) batch(at, to int64) error {
	s, err := l.c.Prepare(loopRange)
	if err != nil {
		return err
	}
	s.BindInt64(1, 1<<62)
	s.BindInt64(2, at)
	s.BindInt64(3, to)
	codec := projection.JSON{}
	l.dirty = l.dirty[:0]
	for {
		more, err := s.Step()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		d, err := l.doc(s.ColumnInt64(3), s.ColumnInt64(1))
		if err != nil {
			return err
		}
		version := s.ColumnInt64(4)
		if version <= d.version {
			continue
		}
		if version != d.version+1 {
			return fmt.Errorf("wrong result: stream %q jumps from version %d to %d", d.id, d.version, version)
		}
		n := s.ColumnLen(10)
		if n > cap(l.buf) {
			l.buf = make([]byte, 2*n)
		}
		l.buf = l.buf[:n]
		s.ColumnBytes(10, l.buf)
		var e E
		if err := codec.Decode(l.buf, &e); err != nil {
			return err
		}
		typ := 0
		if len(l.types) > 0 {
			typ = l.types[s.ColumnInt64(2)]
		}
		l.fold(&d.state, typ, s.ColumnInt64(5), &e)
		d.version, d.position = version, s.ColumnInt64(0)
		if !d.dirty {
			d.dirty = true
			l.dirty = append(l.dirty, d)
		}
	}
	if err := s.Reset(); err != nil {
		return err
	}
	return l.write()
}

// doc returns a document from the map, or else from the file.
func (l *looping[S, E]) doc(stream, tenant int64) (*loopDoc[S], error) {
	if d := l.docs[stream]; d != nil {
		return d, nil
	}
	d := &loopDoc[S]{tenant: tenant}
	err := l.c.rows("SELECT name FROM fairlead_streams WHERE stream_no = ?", func(s *zs.Stmt) error {
		d.id = s.ColumnText(0)
		return nil
	}, stream)
	if err != nil {
		return nil, err
	}
	err = l.c.rows(loopLoad, func(s *zs.Stmt) error {
		d.version, d.position = s.ColumnInt64(0), s.ColumnInt64(1)
		data := make([]byte, s.ColumnLen(3))
		s.ColumnBytes(3, data)
		return projection.JSON{}.Decode(data, &d.state)
	}, l.build, tenant, d.id)
	l.docs[stream] = d
	return d, err
}

func (l *looping[S, E]) write() error {
	put, err := l.c.Prepare(loopPut)
	if err != nil {
		return err
	}
	now := time.Now().UnixNano()
	for _, d := range l.dirty {
		data, err := projection.JSON{}.Encode(&d.state)
		if err != nil {
			return err
		}
		put.BindInt64(1, l.build)
		put.BindInt64(2, d.tenant)
		put.BindText(3, d.id)
		put.BindInt64(4, d.version)
		put.BindInt64(5, d.position)
		put.BindInt64(6, now)
		put.BindText(7, unsafeString(data))
		if _, err := put.Step(); err != nil {
			return err
		}
		if err := put.Reset(); err != nil {
			return err
		}
		d.dirty = false
	}
	return nil
}

// moveOn moves the checkpoint, under the fence that a lane has.
func (l *looping[S, E]) moveOn(processor string, from, to int64) error {
	s, err := l.c.Prepare(loopFence)
	if err != nil {
		return err
	}
	now := time.Now().UnixNano()
	s.BindInt64(1, to)
	s.BindNull(2)
	s.BindInt64(3, now)
	s.BindInt64(4, now)
	s.BindInt64(5, 0)
	s.BindText(6, processor)
	s.BindInt64(7, 1)
	s.BindInt64(8, 0)
	s.BindText(9, "")
	s.BindInt64(10, 0)
	s.BindInt64(11, from)
	s.BindInt64(12, 0)
	if _, err := s.Step(); err != nil {
		return err
	}
	if err := s.Reset(); err != nil {
		return err
	}
	if l.c.Changes() != 1 {
		return fmt.Errorf("the checkpoint of %s is not at %d", processor, from)
	}
	return nil
}

func runCatchup(ctx context.Context, b *bench) error {
	for _, c := range catchupCases() {
		err := b.catchup(ctx, c)
		if errors.Is(err, os.ErrNotExist) {
			b.note("left out: %v", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.set, err)
		}
	}
	return b.fiveOverOne(ctx)
}

// catchup compares the engine with the loop on one data set.
func (b *bench) catchup(ctx context.Context, c catchupCase) error {
	limit, runs := 0, 5
	if b.quick {
		limit = c.quick
	}
	filled, a, l := filepath.Join(b.dir, c.set+".db"), filepath.Join(b.dir, "engine.db"), filepath.Join(b.dir, "loop.db")
	defer removeDB(filled)
	n, err := b.fill(ctx, filled, c.set, limit)
	if err != nil {
		return err
	}
	tenants, want, err := prepareCatchup(ctx, filled, c.d)
	if err != nil {
		return err
	}
	var ours, theirs, apart []float64
	var cpu [3][]float64
	for range runs {
		for i, arm := range []struct {
			path  string
			rates *[]float64
			run   func(path string) (time.Duration, error)
		}{
			{a, &ours, func(path string) (time.Duration, error) {
				return catchUp(ctx, path, catchupMemory, tenants, fairlead.Project(c.d))
			}},
			{l, &theirs, func(path string) (time.Duration, error) { return c.loop(path, catchupBatch) }},
			{a, &apart, func(path string) (time.Duration, error) {
				return catchUp(ctx, path, catchupMemory, tenants, fairlead.Project(c.d, fairlead.Options{NoIsolation: true}))
			}},
		} {
			if b.quick && i == 2 {
				continue
			}
			if err := copyFile(arm.path, filled); err != nil {
				return err
			}
			before := processorTime()
			took, err := arm.run(arm.path)
			cpu[i] = append(cpu[i], (processorTime() - before).Seconds())
			if err == nil {
				err = compareDocuments(arm.path, c.d.Name(), want)
			}
			if err != nil {
				return err
			}
			removeDB(arm.path)
			*arm.rates = append(*arm.rates, float64(n)/took.Seconds())
		}
	}
	cond := fmt.Sprintf("%s: %d events, %d documents, %d tenants, batches of at most %d, one transaction a batch, all documents cached, median of %d interleaved runs, every document compared",
		c.set, n, len(want), len(tenants), catchupBatch, runs)
	r := ratios(ours, theirs)
	b.add("ratio", median(r), "x", atLeast(0.8), "engine to hand-written loop; %s; %s", spread(r), cond)
	if len(apart) > 0 {
		r = ratios(apart, theirs)
		b.add("ratio_no_isolation", median(r), "x", line{}, "engine that detaches no tenant to hand-written loop; %s; %s", spread(r), cond)
	}
	if cpu[0][0] > 0 {
		r = ratios(cpu[1], cpu[0])
		b.add("processor_time_ratio", median(r), "x", line{}, "processor time of the hand-written loop to that of the engine, which uses several cores: what the ratio comes to where there is one; %s; %s", spread(r), cond)
	}
	b.add("events_per_second", median(ours), "events/s", line{}, "engine; %s; %s", spread(ours), cond)
	b.add("events_per_second_loop", median(theirs), "events/s", line{}, "hand-written loop; %s; %s", spread(theirs), cond)
	return nil
}

// prepareCatchup puts the processors' rows into a filled database, and returns
// its tenants and the documents that the first of them must come to.
func prepareCatchup(ctx context.Context, path string, ds ...projection.Definition) (tenants []string, want map[store.Key]foldedDoc, err error) {
	db, err := sqlite.Open(path)
	if err != nil {
		return nil, nil, err
	}
	c, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	for _, d := range ds {
		if err := c.Add(ctx, fairlead.Project(d)); err != nil {
			return nil, nil, errors.Join(err, db.Close())
		}
	}
	want, err = foldLog(ctx, db, ds[0])
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, nil, err
	}
	tenants, err = tenantNames(path)
	return tenants, want, err
}

// fiveOverOne compares five projections over one log with one.
func (b *bench) fiveOverOne(ctx context.Context) error {
	limit, runs := 0, 5
	if b.quick {
		limit = 30_000
	}
	filled, path := filepath.Join(b.dir, "five.db"), filepath.Join(b.dir, "run.db")
	defer removeDB(filled)
	n, err := b.fill(ctx, filled, "retail-orders", limit)
	if err != nil {
		return err
	}
	defs := retail.Definitions()
	tenants, _, err := prepareCatchup(ctx, filled, defs...)
	if err != nil {
		return err
	}
	want := make([]map[store.Key]foldedDoc, len(defs))
	db, err := sqlite.Open(filled)
	if err != nil {
		return err
	}
	all := make([]fairlead.Processor, len(defs))
	for i, d := range defs {
		all[i] = fairlead.Project(d)
		if want[i], err = foldLog(ctx, db, d); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	if err := db.Close(); err != nil {
		return err
	}
	var five, one []float64
	for range runs {
		for _, arm := range []struct {
			seconds *[]float64
			ps      []fairlead.Processor
		}{{&one, all[:1]}, {&five, all}} {
			if err := copyFile(path, filled); err != nil {
				return err
			}
			took, err := catchUp(ctx, path, catchupMemory, tenants, arm.ps...)
			if err != nil {
				return err
			}
			for i := range arm.ps {
				if err := compareDocuments(path, defs[i].Name(), want[i]); err != nil {
					return err
				}
			}
			removeDB(path)
			*arm.seconds = append(*arm.seconds, took.Seconds())
		}
	}
	r := ratios(five, one)
	b.add("five_over_one", median(r), "x", line{"<", 3}, "time of the projections orders, products, customers, months and tenants at once to that of orders alone; %s; retail-orders: %d events, %d tenants, median of %d interleaved runs, every document compared",
		spread(r), n, len(tenants), runs)
	b.add("five_seconds", median(five), "s", line{}, "five projections at once; retail-orders: %d events", n)
	return nil
}
