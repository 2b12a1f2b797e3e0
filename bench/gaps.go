package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// runGaps measures what rolled-back positions cost: to catch up over many, and to
// find one at the head dead.
func runGaps(ctx context.Context, b *bench) (err error) {
	s, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	n, gaps, runs, repeats := 100_000, 10_000, 7, 100
	if b.quick {
		n, gaps, runs, repeats = 20_000, 2000, 3, 20
	}
	if err := b.gapsCatchUp(ctx, s, n, gaps, runs); err != nil {
		return err
	}
	return b.gapsHead(ctx, s, repeats)
}

func (b *bench) gapsCatchUp(ctx context.Context, s *pgServer, n, gaps, runs int) error {
	events, want := cartEvents(n, 1000)
	tenants := make([]string, cartTenants)
	for i := range tenants {
		tenants[i] = fmt.Sprintf("shop-%02d", i)
	}
	var rates [2][]float64
	var filled [2]string
	for i := range filled {
		var err error
		if filled[i], err = s.fillWithGaps(ctx, events, gaps, i == 1); err != nil {
			return err
		}
	}
	for range runs {
		for i := range filled {
			url, err := s.create(ctx, filled[i])
			if err != nil {
				return err
			}
			took, err := func() (took time.Duration, err error) {
				db, err := postgres.Open(ctx, url)
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, db.Close()) }()
				if took, err = catchUpOn(ctx, db, catchupMemory, tenants, fairlead.Project(carts)); err != nil {
					return 0, err
				}
				return took, compareCarts(ctx, db, want)
			}()
			if err := errors.Join(err, s.drop(ctx, url)); err != nil {
				return err
			}
			rates[i] = append(rates[i], float64(n)/took.Seconds())
		}
	}
	r := ratios(rates[1], rates[0])
	cond := fmt.Sprintf("%d events of 1,000 carts, appended %d at a time, %d positions in between rolled back, nothing known of them before; median of %d interleaved runs, every document compared; %s",
		n, n/gaps, gaps, runs, s.settings)
	b.add("gaps_ratio", median(r), "x", atLeast(0.9), "catch-up over a log with gaps to one without; %s; %s", spread(r), cond)
	b.add("events_per_second_gaps", median(rates[1]), "events/s", line{}, "%s; %s", spread(rates[1]), cond)
	b.add("events_per_second", median(rates[0]), "events/s", line{}, "without gaps; %s; %s", spread(rates[0]), cond)
	for _, url := range filled {
		if err := s.drop(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

// fillWithGaps makes a database in which between so many appends there was one
// more, which was rolled back (broken) or never begun.
func (s *pgServer) fillWithGaps(ctx context.Context, events []cartEvent, gaps int, broken bool) (_ string, err error) {
	url, err := s.create(ctx, "")
	if err != nil {
		return "", err
	}
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close(ctx) }()
	// To wait for the disk ten thousand times is of no use here.
	if _, err := c.Exec(ctx, "SET synchronous_commit = off"); err != nil {
		return "", err
	}
	each := len(events) / gaps
	for ; len(events) > 0; events = events[min(each, len(events)):] {
		var batch []eventlog.StreamAppend
		for _, e := range events[:min(each, len(events))] {
			batch = append(batch, eventlog.StreamAppend{Tenant: e.tenant, Stream: e.stream, Events: []eventlog.NewEvent{{Type: e.typ, Data: e.data}}})
		}
		tx, err := c.Begin(ctx)
		if err != nil {
			return "", err
		}
		if _, err := db.AppendTx(ctx, tx, batch...); err != nil {
			return "", err
		}
		if err := tx.Commit(ctx); err != nil {
			return "", err
		}
		if !broken {
			continue
		}
		if tx, err = c.Begin(ctx); err != nil {
			return "", err
		}
		if _, err := db.AppendTx(ctx, tx, batch[0]); err != nil {
			return "", err
		}
		if err := tx.Rollback(ctx); err != nil {
			return "", err
		}
	}
	if err := addProcessors(ctx, db, fairlead.Project(carts)); err != nil {
		return "", err
	}
	err = db.Close()
	db = nil
	if err != nil {
		return "", err
	}
	if broken {
		var n int64
		err := c.QueryRow(ctx, "SELECT max(position) - count(*) FROM fairlead.events").Scan(&n)
		if err == nil && n < int64(gaps-1) { // the last one is behind the last event
			err = fmt.Errorf("wrong result: %d gaps, want %d", n, gaps-1)
		}
		if err != nil {
			return "", err
		}
	}
	return url, pgExec(ctx, url, "VACUUM ANALYZE")
}

// gapsHead measures from the rollback of an append to the visibility of the event
// behind it, whose append was committed before.
func (b *bench) gapsHead(ctx context.Context, s *pgServer, repeats int) (err error) {
	url, err := s.empty(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.drop(ctx, url)) }()
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	writer, err := postgres.Open(ctx, url) // as another process would
	if err != nil {
		return err
	}
	defer func() { _ = writer.Close() }()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	one := func(stream string) eventlog.StreamAppend {
		return eventlog.StreamAppend{Tenant: "shop-00", Stream: stream, Events: []eventlog.NewEvent{fairlead.MustEvent("CartOpened", cartOpened{"c"})}}
	}
	intents := make([]intent, repeats)
	for i := range intents {
		intents[i] = intent{tenant: "shop-00", stream: fmt.Sprintf("behind-%d", i)}
	}
	visible := newVisibleStore(db, intents)
	c, err := fairlead.New(fairlead.Config{Log: db, Store: visible})
	if err != nil {
		return err
	}
	if err := c.Add(ctx, fairlead.Project(carts)); err != nil {
		return err
	}
	consumer := start(ctx, c)
	defer func() { err = errors.Join(err, consumer.stop()) }()
	if err := consumer.atWork(c, carts.Name()); err != nil {
		return err
	}
	visible.start = time.Now()
	var late []time.Duration
	for i := range repeats {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := writer.AppendTx(ctx, tx, one(fmt.Sprintf("rolled-back-%d", i))); err != nil {
			return err
		}
		if _, err := writer.Append(ctx, one(intents[i].stream)); err != nil {
			return err
		}
		// The reader is to wait for the gap; sometimes for long.
		if err := rest(ctx, time.Duration(20+i%5*60)*time.Millisecond); err != nil {
			return err
		}
		if visible.saw(i) != 0 {
			return errors.New("wrong result: an event is visible before one that may still come before it")
		}
		if err := tx.Rollback(ctx); err != nil {
			return err
		}
		from := time.Since(visible.start)
		for visible.saw(i) == 0 {
			if err := rest(ctx, 200*time.Microsecond); err != nil {
				return err
			}
			if time.Since(visible.start) > from+10*time.Second {
				return errors.New("wrong result: a dead gap is not passed within 10 s")
			}
		}
		late = append(late, max(visible.saw(i)-from, 0))
	}
	slices.Sort(late)
	cond := fmt.Sprintf("from the rollback of an append to the commit of the event behind it, which was appended by another process 20 to 260 ms before; %d times; %s", repeats, s.settings)
	b.add("dead_gap_p50", ms(quantile(late, 0.5)), "ms", line{}, "%s", cond)
	b.add("dead_gap_max", ms(late[len(late)-1]), "ms", atMost(50), "%s", cond)
	return nil
}

// saw returns when an event became visible, 0 where it is not.
func (v *visibleStore) saw(i int) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.visible[i]
}

var _ store.Store = (*visibleStore)(nil)
