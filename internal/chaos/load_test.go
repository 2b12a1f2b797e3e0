package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	clients = 6 // of an appending process
	pauseMs = 200
)

// load appends from several clients until SIGTERM.
func load() error {
	ctx, stop := untilTold()
	defer stop()
	seed, err := strconv.ParseUint(os.Getenv(seedVar), 10, 64)
	if err != nil {
		return err
	}
	acks, err := os.OpenFile(os.Getenv(acksVar), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer acks.Close()
	url := os.Getenv(urlVar) + "&application_name=" + os.Getenv(sessionVar)
	var db *postgres.DB
	for db == nil && ctx.Err() == nil {
		if db, err = postgres.Open(ctx, url, postgres.Options{MaxConns: clients + 2, Timeout: 10 * time.Second, NoMigrate: true}); err != nil {
			if !passing(err) && ctx.Err() == nil {
				return err
			}
			rest(ctx, 100*time.Millisecond)
		}
	}
	if db == nil {
		return nil
	}
	defer db.Close()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			c := &client{db: db, pool: pool, rng: rng, zipf: zipf(rng), session: os.Getenv(sessionVar)}
			for ctx.Err() == nil {
				c.next(ctx)
				if c.err != nil && !passing(c.err) && ctx.Err() == nil && !gone(c.err) {
					fmt.Fprintln(os.Stderr, "append:", c.err)
				}
				if c.err == nil && c.durable {
					mu.Lock()
					for _, n := range c.ns {
						fmt.Fprintln(acks, n)
					}
					mu.Unlock()
				}
				rest(ctx, time.Duration(rng.IntN(2*pauseMs))*time.Millisecond)
			}
		})
	}
	wg.Wait()
	return nil
}

// gone reports whether an error is one of plain pgx whose connection went.
func gone(err error) bool {
	var connect interface{ SafeToRetry() bool }
	return errors.As(err, &connect) || pgCode(err) != "" && pgCode(err)[:2] == "57" || pgCode(err) == "" // no answer at all
}

func zipf(rng *rand.Rand) *rand.Zipf { return rand.NewZipf(rng, 1.2, 4, tenants-1) }

func tenantName(i uint64) string { return fmt.Sprintf("tenant-%03d", i) }

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// A client appends in one of the ways that programs do.
type client struct {
	db      *postgres.DB
	pool    *pgxpool.Pool
	rng     *rand.Rand
	zipf    *rand.Zipf
	session string
	txs     int

	ns      []uint64 // what was appended
	durable bool     // and is to be there if err is nil
	err     error
}

func (c *client) some() eventlog.StreamAppend {
	a := eventlog.StreamAppend{Tenant: tenantName(c.zipf.Uint64()), Stream: fmt.Sprintf("stream-%d", c.rng.IntN(streams))}
	for range 1 + c.rng.IntN(5) {
		n := c.rng.Uint64() >> 12
		c.ns = append(c.ns, n)
		e := fairlead.MustEvent("added", added{N: n})
		e.ID = fmt.Sprintf("e%d", n)
		a.Events = append(a.Events, e)
	}
	return a
}

func (c *client) next(ctx context.Context) {
	c.ns, c.durable, c.err = nil, true, nil
	switch k := c.rng.IntN(100); {
	case k < 70:
		a := c.some()
		for range 20 { // with the same ids: at most one of them counts
			if _, c.err = c.db.Append(ctx, a); c.err == nil || !passing(c.err) || ctx.Err() != nil {
				return
			}
			rest(ctx, time.Duration(c.rng.IntN(300))*time.Millisecond)
		}
	case k < 80:
		c.transaction(ctx, 0, true)
	case k < 88:
		c.transaction(ctx, 0, false)
	case k < 94:
		c.transaction(ctx, time.Duration(50+c.rng.IntN(1200))*time.Millisecond, c.rng.IntN(3) > 0)
	default:
		c.prepared(ctx)
	}
}

// transaction appends inside a transaction of the caller's, twice, with a savepoint
// that may be rolled back, and waits before it ends it.
func (c *client) transaction(ctx context.Context, wait time.Duration, commit bool) {
	c.err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := c.db.AppendTx(ctx, tx, c.some()); err != nil {
			return err
		}
		kept := len(c.ns)
		inner, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := c.db.AppendTx(ctx, inner, c.some()); err != nil {
			return err
		}
		if c.rng.IntN(3) == 0 {
			c.ns = c.ns[:kept]
			err = inner.Rollback(ctx)
		} else {
			err = inner.Commit(ctx)
		}
		if err != nil {
			return err
		}
		rest(ctx, wait)
		if !commit {
			return errRolledBack
		}
		return nil
	})
	if errors.Is(c.err, errRolledBack) || errors.Is(c.err, postgres.ErrRetry) {
		c.durable, c.err = false, nil
	}
}

var errRolledBack = errors.New("rolled back on purpose")

// prepared leaves a prepared transaction for a while. If the process or the server
// dies meanwhile, who looks after the run ends it.
func (c *client) prepared(ctx context.Context) {
	conn, err := c.pool.Acquire(ctx)
	if c.err = err; err != nil {
		return
	}
	defer conn.Release()
	c.txs++
	name := fmt.Sprintf("%s-%x-%d", c.session, c.rng.Uint32(), c.txs)
	tx, err := conn.Begin(ctx)
	if c.err = err; err != nil {
		return
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, c.err = c.db.AppendTx(ctx, tx, c.some()); c.err != nil {
		return
	}
	if _, c.err = tx.Exec(ctx, "PREPARE TRANSACTION '"+name+"'"); c.err != nil {
		return
	}
	rest(ctx, time.Duration(c.rng.IntN(400))*time.Millisecond)
	end := "COMMIT PREPARED '"
	if c.durable = c.rng.IntN(2) == 0; !c.durable {
		end = "ROLLBACK PREPARED '"
	}
	_, c.err = conn.Exec(context.WithoutCancel(ctx), end+name+"'")
	if pgCode(c.err) == "42704" { // whoever looks after the run has ended it, one way or the other
		c.durable, c.err = false, nil
	}
}
