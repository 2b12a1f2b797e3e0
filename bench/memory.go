package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// A tally is the document of the benchmark.
type tally struct {
	Count int64  `json:"count"`
	Sum   int64  `json:"sum"`
	Note  string `json:"note"`
}

type amount struct {
	Amount int64  `json:"amount"`
	Note   string `json:"note"`
}

var tallies = projection.New("tallies", projection.On("Counted", func(t *tally, e projection.Event[amount]) error {
	t.Count++
	t.Sum += e.Data.Amount
	t.Note = e.Data.Note
	return nil
}))

// A crowd is a backlog of many tenants: each document gets the same number of
// events. Documents are busy for a while and then never again, as orders are:
// blockOf of them at a time, in an order that has no two events of one document
// close together.
type crowd struct{ tenants, documents, each int }

const blockOf = 50_000

func (c crowd) events() int { return c.documents * c.each }

// document returns to which document the i-th event belongs.
func (c crowd) document(i int) int {
	block := min(blockOf, c.documents)
	n, j := i/(block*c.each), i%(block*c.each)
	return n*block + j*7919%block // 7919 is a prime: each document once in block events
}

func (c crowd) tenant(document int) string {
	return fmt.Sprintf("tenant-%06d", document*31%c.tenants)
}
func (c crowd) name(document int) string { return fmt.Sprintf("tally-%07d", document) }
func (c crowd) amount(i int) int64       { return int64(i % 997) }

// fill makes the database of a crowd.
func (c crowd) fill(ctx context.Context, path string) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	const batch = 2000
	appends := make([]eventlog.StreamAppend, 0, batch)
	for i := range c.events() {
		d := c.document(i)
		appends = append(appends, eventlog.StreamAppend{Tenant: c.tenant(d), Stream: c.name(d), Events: []eventlog.NewEvent{{
			Type: "Counted", Data: fmt.Appendf(nil, `{"amount":%d,"note":"a note of about so many bytes as one finds"}`, c.amount(i)),
		}}})
		if len(appends) == batch || i == c.events()-1 {
			if _, err := db.Append(ctx, appends...); err != nil {
				return errors.Join(err, db.Close())
			}
			appends = appends[:0]
		}
	}
	return db.Close()
}

// check compares all documents with what they must be.
func (c crowd) check(path string) error {
	sums := make([]int64, c.documents)
	for i := range c.events() {
		sums[c.document(i)] += c.amount(i)
	}
	left := c.documents
	err := eachDocument(path, tallies.Name(), func(k store.Key, got foldedDoc) error {
		var t tally
		var d int
		if _, err := fmt.Sscanf(k.ID, "tally-%d", &d); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(got.data), &t); err != nil {
			return err
		}
		if k.Tenant != c.tenant(d) || t.Count != int64(c.each) || t.Sum != sums[d] || got.version != int64(c.each) {
			return fmt.Errorf("wrong result: document %q of %q: %+v, version %d, want count %d, sum %d", k.ID, k.Tenant, t, got.version, c.each, sums[d])
		}
		left--
		return nil
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("wrong result: %d of %d documents are missing", left, c.documents)
	}
	return err
}

func runMemory(ctx context.Context, b *bench) error {
	c, runs := crowd{tenants: 100_000, documents: 1_000_000, each: 5}, 3
	if b.quick {
		c, runs = crowd{tenants: 20_000, documents: 100_000, each: 2}, 1
	}
	if err := b.catchUpMemory(ctx, c, runs); err != nil {
		return err
	}
	return b.idleTenants(ctx)
}

// catchUpMemory measures the peak of a process that works off a backlog.
func (b *bench) catchUpMemory(ctx context.Context, c crowd, runs int) error {
	filled, path := filepath.Join(b.dir, "crowd.db"), filepath.Join(b.dir, "run.db")
	defer removeDB(filled)
	if err := c.fill(ctx, filled); err != nil {
		return err
	}
	var peaks, starts, rates []float64
	for range runs {
		if err := copyFile(path, filled); err != nil {
			return err
		}
		var m childReport
		if err := runChild(ctx, childTask{Do: "catch up", Path: path, Events: c.events()}, &m); err != nil {
			return err
		}
		if err := c.check(path); err != nil {
			return err
		}
		removeDB(path)
		peaks, starts = append(peaks, float64(m.Peak)), append(starts, float64(m.PeakAtStart))
		rates = append(rates, float64(c.events())/m.Seconds)
	}
	cond := fmt.Sprintf("%d events of backlog, %d tenants, %d documents, the default memory budget (64 MiB), log and store in one file, a process of its own, every document compared",
		c.events(), c.tenants, c.documents)
	b.add("peak_rss", slices.Max(peaks), "bytes", atMost(256<<20), "the highest of %d runs, of which %s bytes are there before the consumer starts; %s", runs, number(median(starts)), cond)
	b.add("events_per_second", median(rates), "events/s", line{}, "%d runs; %s", runs, cond)
	return nil
}

// idleTenants measures what 100,000 tenants cost that have nothing to do: two
// processes that hold as many documents, of one tenant and of 100,000.
func (b *bench) idleTenants(ctx context.Context) error {
	const tenants = 100_000
	pairs, window := 5, 5*time.Second
	if b.quick {
		pairs, window = 2, time.Second
	}
	cases := []crowd{{1, tenants, 1}, {tenants, tenants, 1}}
	paths := make([]string, len(cases))
	for i, c := range cases {
		paths[i] = filepath.Join(b.dir, fmt.Sprintf("idle-%d.db", c.tenants))
		if err := c.fill(ctx, paths[i]); err != nil {
			return err
		}
	}
	var bytes, goroutines, reads, looks []float64
	for range pairs {
		var got [2]childReport
		for i, c := range cases {
			path := filepath.Join(b.dir, "idle-run.db")
			if err := copyFile(path, paths[i]); err != nil {
				return err
			}
			if err := runChild(ctx, childTask{Do: "idle", Path: path, Events: c.events(), Window: window}, &got[i]); err != nil {
				return err
			}
			if err := c.check(path); err != nil {
				return err
			}
			removeDB(path)
		}
		one, many := got[0], got[1]
		bytes = append(bytes, float64(many.Heap-one.Heap)/tenants)
		goroutines = append(goroutines, float64(many.Goroutines-one.Goroutines)/tenants)
		reads = append(reads, float64(many.LogCalls-one.LogCalls)/tenants)
		looks = append(looks, float64(many.StoreCalls-one.StoreCalls)/tenants)
	}
	cond := fmt.Sprintf("%d idle tenants against 1, each process with a projection and a reactor that have done %d events on %d documents and then wait, median of %d interleaved runs", tenants, tenants, tenants, pairs)
	b.add("idle_goroutines", median(goroutines), "1/tenant", atMost(0.001), "%s; %s", spread(goroutines), cond)
	b.add("idle_log_calls", median(reads), "1/tenant", atMost(0.001), "calls of the log in %v; %s; %s", window, spread(reads), cond)
	b.add("idle_store_calls", median(looks), "1/tenant", atMost(0.001), "calls of the store in %v: those of the supervisor are the same for any number; %s; %s", window, spread(looks), cond)
	b.add("idle_bytes", median(bytes), "B/tenant", line{"<", 100}, "of live heap and stacks; %s; %s", spread(bytes), cond)
	return nil
}

// childEnv holds the task of a process that this one starts.
const childEnv = "FAIRLEAD_BENCH_CHILD"

type childTask struct {
	Do     string
	Path   string
	Events int
	Window time.Duration
	AtOnce int // handlers of a process
}

type childReport struct {
	Seconds     float64
	Peak        int64 // bytes resident at most
	PeakAtStart int64
	Heap        int64 // bytes of live heap and stacks
	Goroutines  int
	LogCalls    int64
	StoreCalls  int64
}

// runChild runs a task in a process of its own, this program again.
func runChild(ctx context.Context, t childTask, into *childReport) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	task, err := json.Marshal(t)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(task))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("child process: %s: %w", t.Do, err)
	}
	return json.Unmarshal(out.Bytes(), into)
}
