package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	childVariable = "FAIRLEAD_SQLITE_CHILD" // which of children a process is
	fileVariable  = "FAIRLEAD_SQLITE_FILE"
	nameVariable  = "FAIRLEAD_SQLITE_NAME"
)

// children are the main functions of the processes that tests start. What they
// print goes to the test.
var children = map[string]func() error{
	"append": childAppend,
	"work":   childWork,
	"hold":   childHold,
	"fill":   childFill,
	"nobody": childNobody,
}

// A child is another process on the same file.
type child struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr *strings.Builder
}

// startChild starts this test's program once more, as one of children. It is
// killed when the test ends.
func startChild(t *testing.T, main, path, name string, change ...func(*exec.Cmd)) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0]), stderr: new(strings.Builder)}
	c.Env = append(os.Environ(), childVariable+"="+main, fileVariable+"="+path, nameVariable+"="+name)
	c.Stderr = c.stderr
	for _, f := range change {
		f(c.Cmd)
	}
	var err error
	if c.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	return c
}

// line returns the next line that the child prints.
func (c *child) line(t *testing.T) string {
	t.Helper()
	if !c.out.Scan() {
		t.Fatalf("the child has ended: %v, %v %s", c.out.Err(), c.Wait(), c.stderr)
	}
	return c.out.Text()
}

// done waits for a child that ends by itself.
func (c *child) done(t *testing.T) {
	t.Helper()
	if err := c.Wait(); err != nil {
		t.Errorf("child: %v: %s", err, c.stderr)
	}
}

const childAppends = 150

// childAppend appends by exact versions to a stream that all children share, and
// to one of its own.
func childAppend() error {
	db, err := Open(os.Getenv(fileVariable), Options{LockWait: time.Minute})
	if err != nil {
		return err
	}
	defer db.Close()
	name := os.Getenv(nameVariable)
	for i := range childAppends {
		own := one(name, "own", 1+i%3)
		if _, err := db.Append(context.Background(), own); err != nil {
			return err
		}
		for {
			shared := eventlog.StreamRef{Tenant: "shared", Stream: "s"}
			v, err := db.Versions(context.Background(), shared)
			if err != nil {
				return err
			}
			a := one(shared.Tenant, shared.Stream, 1)
			a.Expected = eventlog.ExactVersion(v[0])
			a.Events[0].Type = "by-" + name
			_, err = db.Append(context.Background(), a)
			if err == nil {
				break
			}
			if !errors.Is(err, eventlog.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

// TestProcesses: three processes and this one append to one file at once.
func TestProcesses(t *testing.T) {
	db := openTemp(t, Options{LockWait: time.Minute})
	var all []*child
	for i := range 3 {
		all = append(all, startChild(t, "append", db.path, fmt.Sprint(i)))
	}
	// A reader tails the log meanwhile.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var tail sync.WaitGroup
	var seen event.Position
	tail.Go(func() {
		for ctx.Err() == nil {
			page, err := db.Read(ctx, eventlog.ReadRequest{After: seen})
			if err != nil && ctx.Err() == nil {
				t.Errorf("Read = %v", err)
				return
			}
			for i, e := range page.Events {
				if e.Position != seen+event.Position(i)+1 {
					t.Errorf("the tail saw %v behind %v", e.Position, seen+event.Position(i))
				}
			}
			seen = max(seen, page.Next)
			_ = db.Wait(ctx, 0, seen)
		}
	})
	for range childAppends {
		mustAppend(t, db, one("here", "own", 1))
	}
	for _, c := range all {
		c.done(t)
	}
	want := 0
	for i := range childAppends {
		want += 3*(1+i%3+1) + 1
	}
	waitFor(t, func() bool { return headOf(t, db) == event.Position(want) })
	if got := len(checkLog(t, db)); got != want {
		t.Errorf("the log has %d events, want %d", got, want)
	}
	cancel()
	tail.Wait()
	by := map[string]int{}
	for _, e := range readAll(t, db, eventlog.Filter{Tenants: []string{"shared"}}) {
		by[e.Type]++
	}
	for i := range 3 {
		if n := by[fmt.Sprintf("by-%d", i)]; n != childAppends {
			t.Errorf("process %d has %d events in the shared stream, want %d", i, n, childAppends)
		}
	}
	integrity(t, db.path)
}

// childWork appends and runs a lane, one event after the other, until it is
// killed. It prints what it was told is committed. The lane counts its events in
// a document and in a table of its own, so a commit that is half done shows.
func childWork() error {
	db, err := Open(os.Getenv(fileVariable), Options{LockWait: time.Minute})
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, name := context.Background(), os.Getenv(nameVariable)
	var lane store.Lane
	err = db.Update(ctx, func(tx store.Tx) (err error) { // take over
		if lane, err = tx.Lane(testLane); err != nil {
			return err
		}
		lane.Epoch++
		return tx.PutLane(lane)
	})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		a := one("a", fmt.Sprintf("s%d", i%17), 1+i%5)
		for j := range a.Events {
			a.Events[j].ID = fmt.Sprintf("%s-%d-%d", name, i, j)
		}
		token, err := db.Append(ctx, a)
		if err != nil {
			return err
		}
		fmt.Println("appended", int64(token.Position), a.Events[0].ID)
		page, err := db.Read(ctx, eventlog.ReadRequest{After: lane.Position, MaxEvents: 3})
		if err != nil {
			return err
		}
		counted := int64(0)
		if d, err := db.Load(ctx, testLane.Build, []store.Key{{Tenant: "a", ID: "count"}}); err != nil {
			return err
		} else if len(d) == 1 {
			if counted, err = strconv.ParseInt(string(d[0].Data), 10, 64); err != nil {
				return err
			}
		}
		counted += int64(len(page.Events))
		c := &store.Commit{
			Lane: testLane, Fence: store.Fence{Epoch: lane.Epoch, Position: lane.Position, Revision: lane.Revision}, Position: page.Next,
			Writes: []store.Write{{Document: store.Document{Key: store.Key{Tenant: "a", ID: "count"}, Data: strconv.AppendInt(nil, counted, 10)}}},
			SQL: func(_ context.Context, tx any) error {
				_, err := tx.(*Tx).Exec("UPDATE own SET n = n + ?", len(page.Events))
				return err
			},
		}
		if err := db.Commit(ctx, c); err != nil {
			return err
		}
		lane.Position = page.Next
		fmt.Println("committed", int64(page.Next))
	}
}

// TestKilled kills a process again and again in the middle of its work.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	setup(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	sql(t, path, "CREATE TABLE own(n INTEGER)", "INSERT INTO own VALUES(0)")
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	ids := map[string]bool{}
	total := 0
	for round := range 12 {
		c := startChild(t, "work", path, fmt.Sprint(round))
		c.line(t) // it works
		timer := time.AfterFunc(time.Duration(r.IntN(120_000))*time.Microsecond, func() { _ = c.Process.Kill() })
		appended, committed := event.Beginning, event.Beginning
		for c.out.Scan() {
			f := strings.Fields(c.out.Text())
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if f[0] == "appended" {
				appended, ids[f[2]] = event.Position(n), true
			} else {
				committed = event.Position(n)
			}
		}
		timer.Stop()
		_ = c.Wait()
		if c.stderr.Len() > 0 {
			t.Fatalf("round %d: child: %s", round, c.stderr)
		}

		integrity(t, path)
		db := openAt(t, path)
		all := checkLog(t, db)
		total = len(all)
		if event.Position(total) < appended {
			t.Errorf("round %d: the log ends at %d, %v was acknowledged", round, total, appended)
		}
		byID := map[string]bool{}
		for _, e := range all {
			byID[e.ID] = true
		}
		for id := range ids {
			if !byID[id] {
				t.Errorf("round %d: event %s is gone, which was acknowledged", round, id)
			}
		}
		lane := laneNow(t, db)
		if lane.Position < committed {
			t.Errorf("round %d: the lane is at %v, %v was acknowledged", round, lane.Position, committed)
		}
		doc, err := db.Get(t.Context(), "c", "a", "count")
		if want := fmt.Sprint(int64(lane.Position)); lane.Position > 0 && (err != nil || string(doc.Data) != want) {
			t.Errorf("round %d: the document counts %s, %v, the lane is at %s", round, doc.Data, err, want)
		}
		if got := sql(t, path, "SELECT n FROM own")[0]; got != fmt.Sprint(int64(lane.Position)) {
			t.Errorf("round %d: the own table counts %s, the lane is at %v", round, got, lane.Position)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if total < 50 {
		t.Errorf("only %d events in all rounds: nothing was tested", total)
	}
}

// childHold holds the write lock until its input ends.
func childHold() error {
	db, err := Open(os.Getenv(fileVariable))
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Update(context.Background(), func(store.Tx) error {
		fmt.Println("locked")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
}

// TestLocked: another process holds the write lock longer than we wait, and
// then shorter.
func TestLocked(t *testing.T) {
	db := openTemp(t, Options{LockWait: 150 * time.Millisecond})
	setup(t, db)
	mustAppend(t, db, one("a", "s", 1))
	c := startChild(t, "hold", db.path, "")
	c.line(t)
	for name, f := range map[string]func() error{
		"Append": func() error { _, err := db.Append(t.Context(), one("a", "s", 1)); return err },
		"Commit": func() error { return db.Commit(t.Context(), next(t, db, "1", `{}`)) },
		"Update": func() error { return db.Update(t.Context(), func(store.Tx) error { return nil }) },
	} {
		start := time.Now()
		err := checkUnchanged(t, db, f)
		locked, ok := errors.AsType[*LockedError](err)
		if !ok || !errors.Is(err, ErrLocked) {
			t.Errorf("%s = %v, want a LockedError", name, err)
			continue
		}
		if locked.Path != db.path || locked.Waited < 150*time.Millisecond || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %+v after %v, want the file and at least 150ms", name, locked, time.Since(start))
		}
		if !strings.Contains(err.Error(), db.path) {
			t.Errorf("%s: %q does not name the file", name, err)
		}
	}
	// The context ends before the wait does.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := db.Update(ctx, func(store.Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Update = %v, want %v", err, context.DeadlineExceeded)
	}
	// Reading goes on.
	if got := len(readAll(t, db, eventlog.Filter{})); got != 1 {
		t.Errorf("%d events, want 1", got)
	}
	// Opening does not need the lock of an old file; but writing waits for it.
	patient := openAt(t, db.path, Options{LockWait: time.Minute})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := patient.Append(context.Background(), one("a", "s", 1)); err != nil {
			t.Errorf("Append that waits = %v", err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	_ = c.in.Close()
	c.done(t)
	wg.Wait()
	checkLog(t, db)
}
