package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

func readLane(t testing.TB, db *DB, id store.LaneID) (l store.Lane, err error) {
	t.Helper()
	err = db.View(t.Context(), func(tx store.Tx) (err error) {
		l, err = tx.Lane(id)
		return err
	})
	return l, err
}

func fenceOf(l store.Lane) store.Fence {
	return store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}
}

// retried tries until there is no error.
func retried(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

// A book counts what its commits do, in a document, in a table of the user's and
// in the lane's position. All three agree unless a commit was halved or doubled.
type book struct {
	db *DB
	id store.LaneID
}

func (b *book) commit(ctx context.Context, l store.Lane, sql bool) error {
	n := int64(l.Position) + 1
	c := &store.Commit{
		Lane: b.id, Fence: fenceOf(l), Position: l.Position + 1, Done: fmt.Append(nil, n),
		Writes: []store.Write{
			{Document: store.Document{Key: store.Key{Tenant: "a", ID: "counter"}, Data: fmt.Appendf(nil, `{"n":%d}`, n)}},
			{Document: store.Document{Key: store.Key{Tenant: "a", ID: fmt.Sprint("n", n)}, Data: []byte(`{}`)}},
		},
		Letters: []store.DeadLetter{{Build: b.id.Build, Key: fmt.Sprint(n), State: store.Skipped}},
	}
	if sql {
		c.SQL = func(ctx context.Context, tx any) error {
			_, err := tx.(pgx.Tx).Exec(ctx, "INSERT INTO ledger VALUES ($1, $2, 1) ON CONFLICT (lane, n) DO UPDATE SET times = ledger.times + 1", b.id.Processor, n)
			return err
		}
	}
	return b.db.Commit(ctx, c)
}

// work commits up to a position, as an owner does: after each error it looks at
// the row.
func (b *book) work(ctx context.Context, upTo event.Position, sql func(event.Position) bool) error {
	for ctx.Err() == nil {
		var l store.Lane
		err := b.db.View(ctx, func(tx store.Tx) (err error) { l, err = tx.Lane(b.id); return err })
		for err == nil && l.Position < upTo {
			if err = b.commit(ctx, l, sql(l.Position)); err == nil {
				l.Position++
			}
		}
		if err == nil {
			return nil
		}
		if f, ok := errors.AsType[*store.FenceError](err); ok && f.Lost() {
			return err
		}
		if _, ok := errors.AsType[*store.UserError](err); ok {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// check compares, on a connection of its own.
func (b *book) check(t testing.TB, c *pgx.Conn, want event.Position, sql func(event.Position) bool) {
	t.Helper()
	l := value[int64](t, c, "SELECT position FROM fairlead.lanes WHERE processor = $1", b.id.Processor)
	doc := value[string](t, c, "SELECT doc->>'n' FROM fairlead.read_model WHERE collection = $1 AND tenant = 'a' AND id = 'counter'", b.id.Processor)
	docs := value[int64](t, c, "SELECT count(*) FROM fairlead.read_model WHERE collection = $1", b.id.Processor)
	letters := value[int64](t, c, "SELECT count(*) FROM fairlead.dead_letters WHERE processor = $1", b.id.Processor)
	if l != int64(want) || doc != fmt.Sprint(want) || docs != int64(want)+1 || letters != int64(want) {
		t.Errorf("%s: position %d, document %s, %d documents, %d letters; want %d, %d, %d, %d", b.id, l, doc, docs, letters, want, want, want+1, want)
	}
	withSQL := int64(0)
	for p := range want {
		if sql(p) {
			withSQL++
		}
	}
	rows := value[int64](t, c, "SELECT count(*) FROM ledger WHERE lane = $1", b.id.Processor)
	doubled := value[int64](t, c, "SELECT count(*) FROM ledger WHERE lane = $1 AND times <> 1", b.id.Processor)
	if rows != withSQL || doubled != 0 {
		t.Errorf("%s: the ledger has %d rows, %d of them doubled; want %d and none", b.id, rows, doubled, withSQL)
	}
}

const makeLedger = "CREATE TABLE ledger (lane text, n bigint, times integer, PRIMARY KEY (lane, n))"

// TestConnectionCutAnywhere cuts the connection after every so many bytes of a
// commit's conversation: what comes of it is all or nothing, and known.
func TestConnectionCutAnywhere(t *testing.T) {
	t.Parallel()
	step := 61
	if testing.Short() {
		step = 370
	}
	for _, pooler := range []bool{false, true} {
		t.Run(fmt.Sprint("pooler=", pooler), func(t *testing.T) {
			url := migrated(t)
			p, through := newProxy(t, url)
			db := openAt(t, through, Options{MaxConns: 2, Pooler: pooler})
			c, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.WithoutCancel(t.Context()))
			exec(t, c, makeLedger)
			id, _ := laneOf(t, db, "p")
			b := &book{db: db, id: id}
			sql := func(p event.Position) bool { return p%2 == 0 }
			upTo := event.Position(0)
			for bytes := 1; ; bytes += step {
				upTo += 2 // one of each kind
				p.cutAfter(bytes)
				if err := b.work(t.Context(), upTo, sql); err != nil {
					t.Fatal(err)
				}
				if !p.wasCut() {
					t.Logf("%d commits with a cut in each second one, up to byte %d", upTo, bytes)
					break
				}
			}
			if upTo < 100 {
				t.Errorf("only %d commits: the cuts came nowhere", upTo)
			}
			b.check(t, c, upTo, sql)
		})
	}
}

// TestServerCrashesDuringCommits: the server is stopped as by a power cut, while
// several lanes commit.
func TestServerCrashesDuringCommits(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	db := openAt(t, server.URL)
	c, err := pgx.Connect(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, c, makeLedger)
	const lanes, crashes = 4, 4
	sql := func(p event.Position) bool { return p%3 != 0 }
	target := make([]event.Position, lanes)
	books := make([]*book, lanes)
	for i := range books {
		id, _ := laneOf(t, db, fmt.Sprint("p", i))
		books[i] = &book{db: db, id: id}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, b := range books {
		wg.Go(func() {
			for {
				target[i] += 5
				if err := b.work(ctx, target[i], sql); err != nil {
					t.Errorf("lane %v: %v", b.id, err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range crashes {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	c, err = pgx.Connect(ctx, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	for i, b := range books {
		b.check(t, c, target[i], sql)
		t.Logf("lane %v: %d commits over %d crashes", b.id, target[i], crashes)
	}
}

// TestTwoProcessesRaceForALane: two DBs take a lane from each other all the time.
func TestTwoProcessesRaceForALane(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dbs := []*DB{openAt(t, url), openAt(t, url)}
	c := connect(t, dbs[0])
	exec(t, c, makeLedger)
	id, _ := laneOf(t, dbs[0], "p")
	sql := func(p event.Position) bool { return p%2 == 0 }
	const target = 200
	lost := make([]int, len(dbs))
	var wg sync.WaitGroup
	for i, db := range dbs {
		wg.Go(func() {
			b := &book{db: db, id: id}
			for {
				var l store.Lane
				err := db.Update(ctx, func(tx store.Tx) (err error) {
					if l, err = tx.Lane(id); err != nil {
						return err
					}
					l.Epoch++
					return tx.PutLane(l)
				})
				for err == nil && l.Position < target {
					if err = b.commit(ctx, l, sql(l.Position)); err == nil {
						l.Position++
					}
				}
				f, fenced := errors.AsType[*store.FenceError](err)
				switch {
				case err == nil:
					return
				case !fenced || !f.Lost():
					t.Errorf("process %d: %v", i, err)
					return
				}
				lost[i]++
			}
		})
	}
	wg.Wait()
	(&book{id: id}).check(t, c, target, sql)
	t.Logf("the processes lost the lane %v times", lost)
	if lost[0]+lost[1] == 0 {
		t.Error("nobody ever lost the lane: there was no race")
	}
}
