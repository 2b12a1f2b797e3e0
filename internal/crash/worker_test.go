// Package crash kills real processes that work on a real database, and
// checks afterwards that nothing was lost, doubled or swapped. It has tests only.
package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
)

// The environment variables by which the test binary knows that it is a worker.
const (
	roleVar = "FAIRLEAD_CRASH_ROLE" // "work": until killed; "finish": until all is applied
	dirVar  = "FAIRLEAD_CRASH_DIR"
	nameVar = "FAIRLEAD_CRASH_DB"
	seedVar = "FAIRLEAD_CRASH_SEED"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := work(role, os.Getenv(dirVar), os.Getenv(nameVar), os.Getenv(seedVar)); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

const (
	tenants = 6
	streams = 5
)

type added struct {
	N int `json:"n"`
}

// A counter is not idempotent: an event applied twice, or out of order, shows.
type counter struct {
	Count int    `json:"count"`
	Fold  uint64 `json:"fold"`
}

func (c *counter) add(n int) {
	c.Count++
	c.Fold = c.Fold*1_000_003 + uint64(n)
}

func counters() *fairlead.Projection[counter] {
	return fairlead.NewProjection("counters", fairlead.On("added", func(c *counter, e fairlead.Event[added]) error {
		c.add(e.Data.N)
		return nil
	}))
}

// totals folds several streams into one document a tenant.
func totals() *fairlead.Projection[counter] {
	return fairlead.NewProjection("totals", fairlead.On("added", func(c *counter, e fairlead.Event[added]) error {
		c.add(e.Data.N)
		return nil
	}).By(func(fairlead.Event[added]) string { return "all" }))
}

// ledger keeps a table of its own, with SQL that counts up.
func ledger(ctx context.Context, tx any, events []event.Event) error {
	if err := execTx(ctx, tx, `CREATE TABLE IF NOT EXISTS ledger (tenant TEXT, stream TEXT, n INTEGER, last INTEGER, PRIMARY KEY (tenant, stream))`); err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		if err := execTx(ctx, tx, `INSERT INTO ledger VALUES ($1, $2, 1, $3)
			ON CONFLICT (tenant, stream) DO UPDATE SET n = ledger.n + 1, last = excluded.last`, e.Tenant, e.Stream, e.Version); err != nil {
			return err
		}
	}
	return nil
}

const reactorConcurrency = 16

// work runs all processors on a database, and in the role "work" appends events
// and moves tenants about until it is killed.
func work(role, dir, name, seed string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	db, err := open(ctx, name)
	if err != nil {
		return err
	}
	defer db.Close()
	mail, err := os.OpenFile(filepath.Join(dir, "mail"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer mail.Close()
	c, err := fairlead.New(fairlead.Config{Log: db, Store: db, Name: role, Lease: time.Second})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	err = c.Add(ctx,
		fairlead.Project(counters(), fairlead.Options{Partitions: 2}),
		fairlead.Project(totals()),
		fairlead.ProjectBatch("ledger", ledger),
		fairlead.React("mail", func(_ context.Context, d fairlead.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			_, err := fmt.Fprintf(mail, "%s %s %d %d\n", d.Tenant, d.Stream, d.Version, d.Epoch)
			return err
		}, fairlead.Options{Concurrency: reactorConcurrency}),
	)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	if role == "work" {
		err = disturb(ctx, db, seed)
	} else {
		err = finish(ctx, db)
	}
	cancel()
	if rerr := <-ended; err == nil && !errors.Is(rerr, context.Canceled) {
		err = rerr
	}
	return err
}

var processors = []string{"counters", "totals", "ledger", "mail"}

// disturb appends from four goroutines, and detaches, merges, pauses, resumes
// and rebuilds at random.
func disturb(ctx context.Context, db cli.Database, seed string) error {
	var s uint64
	if _, err := fmt.Sscan(seed, &s); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(s, uint64(w)))
			for ctx.Err() == nil {
				// The first tenant has most of the traffic.
				tenant := min(rng.IntN(tenants), rng.IntN(tenants), rng.IntN(tenants))
				a := eventlog.StreamAppend{Tenant: fmt.Sprintf("tenant-%d", tenant), Stream: fmt.Sprintf("stream-%d", rng.IntN(streams))}
				for range 1 + rng.IntN(20) {
					a.Events = append(a.Events, fairlead.MustEvent("added", added{rng.IntN(1_000_000)}))
				}
				if _, err := db.Append(ctx, a); err != nil && ctx.Err() == nil && !errors.Is(err, postgres.ErrUnreachable) {
					fmt.Fprintln(os.Stderr, "append:", err)
				}
				time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
			}
		})
	}
	admin := fairlead.Admin{Log: db, Store: db}
	rng := rand.New(rand.NewPCG(s, 99))
	for ctx.Err() == nil {
		p, t := processors[rng.IntN(len(processors))], fmt.Sprintf("tenant-%d", rng.IntN(tenants))
		var err error
		switch rng.IntN(7) {
		case 0:
			err = admin.Detach(ctx, p, t)
		case 1, 2:
			err = admin.Merge(ctx, p, t)
		case 3:
			err = admin.Pause(ctx, p, t, "crash test")
		case 4:
			err = admin.Resume(ctx, p, t)
		case 5:
			if rng.IntN(2) == 0 {
				t = ""
			}
			err = admin.Rebuild(ctx, p, t)
		case 6:
			err = admin.GoBack(ctx, p)
		}
		if err != nil && !errors.Is(err, fairlead.ErrUnknown) && !errors.Is(err, fairlead.ErrState) && !errors.Is(err, postgres.ErrUnreachable) && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "operate:", err)
		}
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	}
	wg.Wait()
	return ctx.Err()
}

// finish lets every tenant run and waits until everything is applied.
func finish(ctx context.Context, db cli.Database) (err error) {
	admin := fairlead.Admin{Log: db, Store: db}
	head, err := db.Head(ctx, 0)
	if err != nil {
		return err
	}
	busy := "" // what is waited for
	defer func() {
		if ctx.Err() != nil {
			err = fmt.Errorf("not finished: %s: %w", busy, err)
		}
	}()
	for {
		for _, p := range processors {
			for t := range tenants {
				name := fmt.Sprintf("tenant-%d", t)
				for _, err := range []error{admin.Resume(ctx, p, name), admin.Merge(ctx, p, name)} {
					if err != nil && !errors.Is(err, fairlead.ErrUnknown) {
						return err
					}
				}
			}
		}
		lanes, err := admin.Lanes(ctx, "")
		if err != nil {
			return err
		}
		rows, err := admin.Processors(ctx)
		if err != nil {
			return err
		}
		busy = ""
		for _, l := range lanes {
			if !l.Kept && (l.Position < head || l.Tenant != "" || !l.Live) {
				busy = fmt.Sprintf("lane %v, %s, pinned %t, epoch %d, revision %d, owner %q (alive %t), at %v of %v", l.LaneID, l.State, l.Pinned, l.Epoch, l.Revision, l.Owner, l.Alive, l.Position, head)
			}
		}
		for _, p := range rows {
			if p.Rebuild != 0 {
				busy += fmt.Sprintf("rebuild of %+v", p)
			}
		}
		if busy == "" {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// delivery is a line of the reactor's file.
type delivery struct {
	tenant, stream string
	version        int64
	epoch          int64
}

func deliveries(path string) (all []delivery, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var d delivery
		if _, err := fmt.Sscan(strings.TrimSpace(sc.Text()), &d.tenant, &d.stream, &d.version, &d.epoch); err != nil {
			return nil, fmt.Errorf("line %q: %w", sc.Text(), err)
		}
		all = append(all, d)
	}
	return all, nil
}

func payload(e *event.Event) (p added, err error) {
	err = json.Unmarshal(e.Data, &p)
	return p, err
}
