package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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

// noPosition is a commit that leaves its lane's position alone, as that of a
// reactor does: only Done changes, which no fence looks at.
func noPosition(l store.Lane, done byte) *store.Commit {
	return &store.Commit{
		Lane: l.LaneID, Fence: fenceOf(l), Position: l.Position, Done: []byte{done},
		Letters: []store.DeadLetter{{Build: l.Build, Key: string([]byte{done}), State: store.Skipped}},
	}
}

func letterKeys(t testing.TB, db *DB) string {
	t.Helper()
	var keys []byte
	err := db.View(t.Context(), func(tx store.Tx) error {
		found, err := tx.Letters(store.LetterFilter{})
		for i := range found {
			keys = append(keys, found[i].Key...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(keys)
}

// TestCommitOnItsWayDoesNotComeTooLate: no answer comes to a commit, its owner
// looks at the row, finds it unchanged, and commits that again. Then the first
// one arrives at the server.
func TestCommitOnItsWayDoesNotComeTooLate(t *testing.T) {
	url := migrated(t)
	p, through := newProxy(t, url)
	db := openAt(t, through)
	id, _ := laneOf(t, db, "p")
	// The statements are to be prepared, so that what is held is all of a commit.
	if err := db.Commit(t.Context(), noPosition(store.Lane{LaneID: id}, 'w')); err != nil {
		t.Fatal(err)
	}
	before, err := readLane(t, db, id)
	if err != nil {
		t.Fatal(err)
	}
	p.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := db.Commit(ctx, noPosition(before, 'a')); !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("Commit without an answer = %v, want ErrOutcomeUnknown", err)
	}
	l, err := readLane(t, db, id)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(l.Done, before.Done) || l.Position != before.Position {
		t.Fatalf("the lane has changed: %+v", l)
	}
	if err := db.Commit(t.Context(), noPosition(l, 'b')); err != nil {
		t.Fatal(err)
	}
	p.release()
	waitForNobody(t, url)
	if got := letterKeys(t, db); got != "wb" {
		t.Errorf("letters of commits %q took effect, want w and b", got)
	}
}

// waitForNobody waits until no session of the database is at work but this one
// and those that wait for their clients.
func waitForNobody(t testing.TB, url string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	quiet := 0
	retried(t, func() error {
		n := value[int](t, c, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND backend_type = 'client backend' AND state <> 'idle'`)
		if quiet++; n > 0 {
			quiet = 0
		}
		if quiet < 5 {
			return fmt.Errorf("%d sessions are at work", n)
		}
		return nil
	})
}

// TestCommitUnderWayIsWaitedFor: the server works on a commit whose client was
// cut off. Until it is known what becomes of it, nothing is told about the lane,
// and all about the others.
func TestCommitUnderWayIsWaitedFor(t *testing.T) {
	url := migrated(t)
	p, through := newProxy(t, url)
	db := openAt(t, through)
	id, _ := laneOf(t, db, "p")
	other, _ := laneOf(t, db, "q")
	first := noPosition(store.Lane{LaneID: id}, 'w')
	first.Writes = someWrites(1, 0)
	if err := db.Commit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	before, err := readLane(t, db, id)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	// The commit stands in the middle, at its document, with the lane locked.
	exec(t, c, "BEGIN")
	exec(t, c, "SELECT FROM fairlead.documents FOR UPDATE")
	ended := make(chan error, 1)
	second := noPosition(before, 'a')
	second.Writes = first.Writes
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { ended <- db.Commit(ctx, second) }()
	retried(t, func() error {
		if value[int](t, c, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
			return errors.New("nobody waits")
		}
		return nil
	})
	p.cutClients()
	if err := <-ended; !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, ErrUnreachable) {
		t.Fatalf("Commit that was cut off = %v, want ErrOutcomeUnknown and ErrUnreachable", err)
	}
	if l, err := readLane(t, db, id); err == nil {
		t.Errorf("the lane is told about while a commit of it is under way: %+v", l)
	}
	if _, err := readLane(t, db, other); err != nil {
		t.Errorf("another lane: %v", err)
	}
	if err := db.Commit(ctx, noPosition(before, 'b')); err == nil || errors.Is(err, store.ErrFenced) {
		t.Errorf("Commit while another is under way = %v, want an error that is no answer", err)
	}
	exec(t, c, "COMMIT")
	retried(t, func() error {
		l, err := readLane(t, db, id)
		if err == nil && string(l.Done) != "a" {
			err = fmt.Errorf("the lane has done %q, want that of the commit that was under way", l.Done)
		}
		return err
	})
	if got := letterKeys(t, db); got != "wa" {
		t.Errorf("letters of commits %q took effect, want w and a", got)
	}
}

// A book counts what its commits do, in a document, in a table of the user's and
// in the lane's position. All three agree unless a commit was halved or doubled.
type book struct {
	db *DB
	id store.LaneID
	n  int64
}

func (b *book) commit(ctx context.Context, l store.Lane, sql bool) error {
	n := int64(l.Position) + 1
	c := &store.Commit{
		Lane: b.id, Fence: fenceOf(l), Position: l.Position + 1, Done: []byte(fmt.Sprint(n)),
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

// TestCommitInTheWayOfOthers: a lock or a statement that takes too long is an
// error that says so, is no fault of the user's function, and changes nothing.
func TestCommitInTheWayOfOthers(t *testing.T) {
	url := migrated(t)
	admin := openAt(t, url)
	id, _ := laneOf(t, admin, "p")
	c := connect(t, admin)
	exec(t, c, makeLedger)
	for _, setting := range []string{"lock_timeout", "statement_timeout"} {
		t.Run(setting, func(t *testing.T) {
			db := openAt(t, url+"&"+setting+"=100ms")
			l, err := readLane(t, db, id)
			if err != nil {
				t.Fatal(err)
			}
			b := &book{db: db, id: id}
			for _, tt := range []struct {
				name, lock string
				sql        bool
			}{
				{"lane", "SELECT FROM fairlead.lanes FOR UPDATE", false},
				{"lane, with SQL", "SELECT FROM fairlead.lanes FOR UPDATE", true},
				{"the user's table", "LOCK TABLE ledger", true},
			} {
				exec(t, c, "BEGIN")
				exec(t, c, tt.lock)
				err := b.commit(t.Context(), l, tt.sql)
				_, users := errors.AsType[*store.UserError](err)
				if !errors.Is(err, ErrTimeout) || users || errors.Is(err, ErrOutcomeUnknown) {
					t.Errorf("%s is locked: Commit = %v, want ErrTimeout, and no UserError", tt.name, err)
				}
				exec(t, c, "ROLLBACK")
				if now, err := readLane(t, db, id); err != nil || now.Position != l.Position || now.Revision != l.Revision {
					t.Errorf("%s: the lane is %+v, %v, want it as before", tt.name, now, err)
				}
			}
			if err := b.commit(t.Context(), l, true); err != nil {
				t.Errorf("Commit when nobody is in the way = %v", err)
			}
			l.Position++
		})
	}
}

// TestDeadlock: a commit that is in a deadlock is tried again, or says that it
// is to be, whoever the other party is.
func TestDeadlock(t *testing.T) {
	db := openTemp(t)
	id, commit := laneOf(t, db, "p")
	if err := commit(func(c *store.Commit) { c.Writes = someWrites(1, 0) }); err != nil {
		t.Fatal(err)
	}
	key := someWrites(1, 0)[0].Key
	other := connect(t, db)
	exec(t, other, makeLedger)
	exec(t, other, "INSERT INTO ledger VALUES ('p', 0, 1)")
	exec(t, other, "SET deadlock_timeout = '1min'") // so that the commit is the victim
	waiting := func() {
		t.Helper()
		c := connect(t, db)
		retried(t, func() error {
			if value[int](t, c, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
				return errors.New("nobody waits")
			}
			return nil
		})
	}
	t.Run("without SQL", func(t *testing.T) {
		exec(t, other, "BEGIN")
		exec(t, other, "SELECT FROM fairlead.documents WHERE tenant = $1 AND id = $2 FOR UPDATE", key.Tenant, key.ID)
		ended := make(chan error, 1)
		go func() { ended <- commit(func(c *store.Commit) { c.Writes = someWrites(1, 0) }) }()
		waiting()
		exec(t, other, "SELECT FROM fairlead.lanes FOR UPDATE") // gets it when the commit has given up
		exec(t, other, "COMMIT")
		if err := <-ended; err != nil {
			t.Errorf("Commit = %v, want it tried again", err)
		}
	})
	t.Run("with SQL", func(t *testing.T) {
		l, err := readLane(t, db, id)
		if err != nil {
			t.Fatal(err)
		}
		c := &store.Commit{Lane: id, Fence: fenceOf(l), Position: l.Position + 1, SQL: func(ctx context.Context, tx any) error {
			_, err := tx.(pgx.Tx).Exec(ctx, "UPDATE ledger SET times = times + 1")
			return err
		}}
		exec(t, other, "BEGIN")
		exec(t, other, "SELECT FROM ledger FOR UPDATE")
		ended := make(chan error, 1)
		go func() { ended <- db.Commit(t.Context(), c) }()
		waiting()
		exec(t, other, "SELECT FROM fairlead.lanes FOR UPDATE")
		exec(t, other, "COMMIT")
		err = <-ended
		if _, users := errors.AsType[*store.UserError](err); !errors.Is(err, ErrRetry) || users {
			t.Errorf("Commit = %v, want ErrRetry, and no UserError: its events are not to be parked", err)
		}
		if err := db.Commit(t.Context(), c); err != nil {
			t.Errorf("the same commit again = %v", err)
		}
	})
}

// TestUserEndsTheTransaction: what a user's function must not do.
func TestUserEndsTheTransaction(t *testing.T) {
	db := openTemp(t)
	id, _ := laneOf(t, db, "p")
	for _, tt := range []struct {
		name string
		do   func(ctx context.Context, tx pgx.Tx) error
	}{
		{"Commit", func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }},
		{"Rollback", func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }},
		{"ROLLBACK", func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "ROLLBACK"); return err }},
		{"an error that is not returned", func(ctx context.Context, tx pgx.Tx) error { _, _ = tx.Exec(ctx, "SELECT 1/0"); return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := readLane(t, db, id)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Commit(t.Context(), &store.Commit{
				Lane: id, Fence: fenceOf(l), Position: l.Position + 1, Writes: someWrites(1, 0),
				SQL: func(ctx context.Context, tx any) error { return tt.do(ctx, tx.(pgx.Tx)) },
			})
			if _, users := errors.AsType[*store.UserError](err); !users || !errors.Is(err, ErrTransaction) {
				t.Errorf("Commit = %v, want a UserError with ErrTransaction", err)
			}
			if now, err := readLane(t, db, id); err != nil || now.Position != l.Position {
				t.Errorf("the lane is at %v, %v, want it as before", now.Position, err)
			}
		})
	}
}

// TestDocumentThatCannotBeStored: the error names the document, of many.
func TestDocumentThatCannotBeStored(t *testing.T) {
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	for _, tt := range []struct {
		name string
		doc  store.Document
	}{
		{"no JSON", store.Document{Key: store.Key{Tenant: "O'Neil", ID: "x"}, Data: []byte(`{"a":`)}},
		{"nothing", store.Document{Key: store.Key{Tenant: "a", ID: "x"}}},
		{"NUL itself", store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: []byte("\"\x00\"")}},
		{"no UTF-8", store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: []byte("\"\xff\"")}},
		{"NUL in its id", store.Document{Key: store.Key{Tenant: "a", ID: "x\x00y"}, Data: []byte("1")}},
		{"tenant that is no UTF-8", store.Document{Key: store.Key{Tenant: "\xff", ID: "x"}, Data: []byte("1")}},
		{"nested too deeply", store.Document{Key: store.Key{Tenant: "a", ID: "x"}, Data: []byte(strings.Repeat("[", 9000) + strings.Repeat("]", 9000))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := commit(func(c *store.Commit) { c.Writes = append(someWrites(20, 0), store.Write{Document: tt.doc}) })
			fault, ok := errors.AsType[*DocumentError](err)
			switch {
			case tt.name == "nested too deeply" && err == nil: // this server has the stack for it
			case !ok || fault.Tenant != tt.doc.Tenant || fault.ID != tt.doc.ID:
				t.Errorf("Commit = %v, want a DocumentError of %q of tenant %q", err, tt.doc.ID, tt.doc.Tenant)
			}
		})
	}
	if err := commit(func(c *store.Commit) { c.Writes = someWrites(20, 0) }); err != nil {
		t.Errorf("the commit without such a document = %v", err)
	}
}

// TestReadModelView: what SQL sees is the live build, as jsonb, whatever is in it.
func TestReadModelView(t *testing.T) {
	db := openTemp(t)
	_, commit := laneOf(t, db, "orders")
	docs := map[string]string{
		"1": `{"status":"shipped","total":12.50}`,
		"2": `{"status":"open","note":"a\u0000b\u0000\u0000"}`,
		"3": `{"status":"open","note":"a\\u0000"}`,
		"4": `{"status":"open","note":"\\\u0000"}`,
	}
	err := commit(func(c *store.Commit) {
		for id, doc := range docs {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: store.Key{Tenant: "a", ID: id}, Version: 7, Position: 9, Data: []byte(doc)}})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, db)
	exec(t, c, "CREATE VIEW orders AS SELECT tenant, id, doc->>'status' AS status, doc->>'note' AS note, doc FROM fairlead.read_model WHERE collection = 'orders'")
	if got := value[string](t, c, "SELECT string_agg(id, ' ' ORDER BY id) FROM orders WHERE doc @> '{\"status\": \"open\"}'"); got != "2 3 4" {
		t.Errorf("open orders are %s, want 2 3 4", got)
	}
	for id, want := range map[string]string{"2": "a\ufffdb\ufffd\ufffd", "3": `a\u0000`, "4": "\\\ufffd"} {
		if got := value[string](t, c, "SELECT note FROM orders WHERE id = $1", id); got != want {
			t.Errorf("note of %s = %q, want %q", id, got, want)
		}
		d, err := db.Get(t.Context(), "orders", "a", id)
		if err != nil || string(d.Data) != docs[id] {
			t.Errorf("Get(%s) = %s, %v, want what was written", id, d.Data, err)
		}
	}
	plan := explain(t, c, "SELECT * FROM orders WHERE tenant = 'a' AND id = '1'")
	if !strings.Contains(plan, "documents_pkey") {
		t.Errorf("a look into the view of one's own does not use the key:\n%s", plan)
	}
	// An index of the user's own.
	exec(t, c, "CREATE INDEX ON fairlead.documents (tenant, (fairlead.as_jsonb(doc)->>'status'))")
	exec(t, c, "SET enable_seqscan = off")
	if plan := explain(t, c, "SELECT id FROM orders WHERE tenant = 'a' AND status = 'open'"); !strings.Contains(plan, "as_jsonb") {
		t.Errorf("a user's index is not used:\n%s", plan)
	}
}

func explain(t testing.TB, c *pgx.Conn, query string, args ...any) string {
	t.Helper()
	rows, err := c.Query(t.Context(), "EXPLAIN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// TestLoadLooksUpEachKey: however many keys, and whatever the planner knows.
func TestLoadLooksUpEachKey(t *testing.T) {
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	c := connect(t, db)
	keys := someWrites(5000, 0)
	tenants, ids := make([]string, len(keys)), make([]string, len(keys))
	for i, w := range keys {
		tenants[i], ids[i] = w.Tenant, w.ID
	}
	for round := range 3 {
		for _, generic := range []string{"auto", "force_generic_plan"} {
			exec(t, c, "SELECT set_config('plan_cache_mode', $1, false)", generic)
			plan := explain(t, c, db.q(loadDocuments), "p", int64(1), tenants, ids)
			if strings.Contains(plan, "Seq Scan on documents") || !strings.Contains(plan, "documents_pkey") {
				t.Errorf("round %d, %s: plan of Load:\n%s", round, generic, plan)
			}
		}
		if err := commit(func(c *store.Commit) { c.Writes = someWrites(20000, 20000*round) }); err != nil {
			t.Fatal(err)
		}
		exec(t, c, "ANALYZE fairlead.documents")
	}
}

// TestLargeDocuments: 50 MB come back as they went.
func TestLargeDocuments(t *testing.T) {
	db := openTemp(t)
	_, commit := laneOf(t, db, "p")
	data, err := json.Marshal(strings.Repeat("0123456789abcdef", 50<<20/16))
	if err != nil {
		t.Fatal(err)
	}
	keys := []store.Key{{Tenant: "a", ID: "1"}, {Tenant: "a", ID: "2"}, {Tenant: "a", ID: "3"}}
	err = commit(func(c *store.Commit) {
		for i, k := range keys {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: k, Data: data[:len(data):len(data)]}})
			if i == 2 {
				c.Writes[i].Data = []byte(`"small"`)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	docs, err := db.Load(t.Context(), store.Build{Processor: "p", Number: 1}, keys)
	if err != nil || len(docs) != len(keys) {
		t.Fatalf("Load has %d documents, %v", len(docs), err)
	}
	for _, d := range docs {
		if d.ID != "3" && !bytes.Equal(d.Data, data) {
			t.Errorf("document %s came back as %d bytes, want %d, as they were", d.ID, len(d.Data), len(data))
		}
	}
}
