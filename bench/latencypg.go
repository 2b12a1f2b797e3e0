package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// runLatencyPostgres measures how soon an event is in its document.
func runLatencyPostgres(ctx context.Context, b *bench) (err error) {
	s, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	unit, rounds, peerTime := 8*time.Second, 3, 10*time.Second
	if b.quick {
		unit, rounds, peerTime = 2*time.Second, 1, 3*time.Second
	}
	template, err := s.empty(ctx)
	if err != nil {
		return err
	}
	type shape struct {
		rate float64
		one  bool // appender and consumer are one process
	}
	shapes := []shape{{20, false}, {60, false}, {500, false}, {2000, false}, {500, true}}
	got := make([]freshFigures, len(shapes))
	for round := range rounds {
		for i, sh := range shapes {
			url, err := s.create(ctx, template)
			if err == nil {
				err = freshnessPG(ctx, url, uint64(round), sh.rate, unit, sh.one, &got[i])
			}
			if err := errors.Join(err, s.drop(ctx, url)); err != nil {
				return fmt.Errorf("%v events/s: %w", sh.rate, err)
			}
		}
	}
	for i, sh := range shapes {
		hold50, hold99 := line{}, line{}
		if sh.rate == 500 {
			hold50, hold99 = atMost(5), atMost(25)
		}
		f := &got[i]
		where := "appended through another connection pool, as another process would"
		if sh.one {
			where = "appended in the consumer's process"
		}
		cond := fmt.Sprintf("%v events/s (Poisson), %s, a document for each of 500 carts of 50 tenants, %d rounds, %d events, every document compared; %s",
			sh.rate, where, rounds, f.events, s.settings)
		b.add("p50", median(f.p50), "ms", hold50, "from the return of the append to the return of the commit with the document, median of the rounds, %s; %s", spread(f.p50), cond)
		b.add("p99", median(f.p99), "ms", hold99, "the same; %s; %s", spread(f.p99), cond)
		b.add("max", ms(f.max), "ms", line{}, "the same, the worst of all rounds; %s", cond)
		b.add("p99_intended", median(f.p99intended), "ms", line{}, "from the time at which the event was to be appended (open loop); %s; %s", spread(f.p99intended), cond)
	}
	for _, e := range b.emmettEditions() {
		for _, rate := range []float64{20, 500} {
			if err := b.freshnessEmmett(ctx, s, e, rate, peerTime); err != nil {
				return err
			}
		}
	}
	return nil
}

type freshFigures struct {
	p50, p99, p99intended []float64
	max                   time.Duration
	events                int
}

// cartIntents makes a Poisson stream of events of 500 carts, and what they come
// to.
func cartIntents(seed uint64, rate float64, length time.Duration) ([]intent, map[store.Key]cart) {
	var times []time.Duration
	poisson(rand.New(rand.NewPCG(seed, 23)), rate, 0, length, func(at time.Duration) { times = append(times, at) })
	events, want := cartEvents(len(times), min(500, len(times)))
	intents := make([]intent, len(times))
	for i, e := range events {
		intents[i] = intent{at: times[i], tenant: e.tenant, stream: e.stream, typ: e.typ, data: e.data}
	}
	return intents, want
}

func freshnessPG(ctx context.Context, url string, seed uint64, rate float64, length time.Duration, one bool, f *freshFigures) error {
	intents, want := cartIntents(seed, rate, length)
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	appender := db
	if !one {
		if appender, err = postgres.Open(ctx, url); err != nil {
			return err
		}
		defer func() { _ = appender.Close() }()
	}
	visible := newVisibleStore(db, intents)
	appended := make([]time.Duration, 0, len(intents))
	err = openLoopVisible(ctx, db, appender, visible, intents, func(n int) {
		now := time.Since(visible.start)
		for range n {
			appended = append(appended, now)
		}
	}, fairlead.Project(carts, fairlead.Options{Freshness: balanceObjective}))
	if err != nil {
		return err
	}
	if err := compareCarts(ctx, db, want); err != nil {
		return err
	}
	late := visible.late(appended)
	f.p50 = append(f.p50, ms(quantile(late, 0.5)))
	f.p99 = append(f.p99, ms(quantile(late, 0.99)))
	f.p99intended = append(f.p99intended, ms(quantile(visible.late(intended(intents)), 0.99)))
	f.max = max(f.max, late[len(late)-1])
	f.events += len(intents)
	return nil
}

// emmettSeen tells of every commit of a document of Emmett's: how many events it
// has. It costs Emmett a notification for each.
const emmettSeen = `CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_notify('seen', NEW._id || ' ' || (NEW.data->>'changes')); RETURN NULL; END $$;
	CREATE TRIGGER seen AFTER INSERT OR UPDATE ON carts FOR EACH ROW EXECUTE FUNCTION seen()`

// An emmettAppender appends as Emmett's event store does: by its function.
type emmettAppender struct{ c *pgx.Conn }

func (a emmettAppender) Append(ctx context.Context, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	b := &pgx.Batch{}
	for i := range appends {
		e := &appends[i].Events[0]
		b.Queue("SELECT success FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[$1::jsonb], ARRAY['{}'::jsonb], ARRAY['1'], ARRAY[$2::text], ARRAY['E'], $3, 'cart', NULL, 'emt:default')",
			string(e.Data), e.Type, appends[i].Stream).QueryRow(func(r pgx.Row) error {
			var ok bool
			if err := r.Scan(&ok); err != nil || !ok {
				return fmt.Errorf("an append to Emmett: %t, %w", ok, err)
			}
			return nil
		})
	}
	return eventlog.Token{}, a.c.SendBatch(ctx, b).Close()
}

func (emmettAppender) Versions(context.Context, ...eventlog.StreamRef) ([]int64, error) {
	return nil, errors.ErrUnsupported
}

// freshnessEmmett measures the same of Emmett's consumer. What is not visible
// some time after the last append counts with what it has waited by then.
func (b *bench) freshnessEmmett(ctx context.Context, s *pgServer, e emmettEdition, rate float64, length time.Duration) (err error) {
	url, err := s.create(ctx, "")
	if err == nil {
		err = e.fill(ctx, url, nil)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.drop(ctx, url)) }()
	intents, want := cartIntents(0, rate, length)
	run := emmettRun{100, "pongo"}
	cmd := e.command(ctx, "follow", url, fmt.Sprint(run.batch), run.kind)
	cmd.Env = append(cmd.Env, "EMMETT_PULL_MS=10")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = in.Close()
		stop := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer stop.Stop()
		_ = cmd.Wait()
	}()
	lines := bufio.NewReader(out)
	for said := ""; said != "ready\n"; {
		if said, err = lines.ReadString('\n'); err != nil {
			return fmt.Errorf("%s: %w", e.version, err)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // ends with the process
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	// The consumer makes its table with its first event, of a cart of no interest.
	first := eventlog.StreamAppend{Stream: "first", Events: []eventlog.NewEvent{{Type: "CartOpened", Data: []byte(`{"customer":"c"}`)}}}
	if _, err := (emmettAppender{c}).Append(ctx, first); err != nil {
		return err
	}
	for try := 0; ; try++ {
		if err := pgExec(ctx, url, emmettSeen); err == nil {
			break
		} else if try == 100 {
			return err
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if err := rest(ctx, time.Second); err != nil { // it is at the end of its log
		return err
	}
	listener, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close(ctx) }()
	if _, err := listener.Exec(ctx, "LISTEN seen"); err != nil {
		return err
	}
	visible := newVisibleStore(nil, intents)
	tenants := map[string]string{}
	for k := range want {
		tenants[k.ID] = k.Tenant
	}
	visible.start = time.Now()
	lctx, cancel := context.WithCancel(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for {
			n, err := listener.WaitForNotification(lctx)
			if err != nil {
				return
			}
			id, changes, _ := strings.Cut(n.Payload, " ")
			version, _ := strconv.ParseInt(changes, 10, 64)
			visible.reached(store.Key{Tenant: tenants[id], ID: id}, version)
		}
	}()
	defer func() { cancel(); <-heard }()
	appended := make([]time.Duration, 0, len(intents))
	err = openLoop(ctx, emmettAppender{c}, visible.start, intents, func(n int) {
		now := time.Since(visible.start)
		for range n {
			appended = append(appended, now)
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-visible.all:
	case <-time.After(length / 2):
	}
	late := visible.late(appended)
	visible.mu.Lock()
	left := visible.left
	visible.mu.Unlock()
	slices.Sort(late)
	cond := fmt.Sprintf("%s, %v, pulling every 10 ms, %v events/s (Poisson) for %v, appended by its own function, from the return of the append to the notification of the commit with the document; %d of %d events not visible %v after the last; %s",
		e.version, run, rate, length, left, len(intents), length/2, s.settings)
	b.add("p50_emmett_"+e.name, ms(quantile(late, 0.5)), "ms", line{}, "%s", cond)
	b.add("p99_emmett_"+e.name, ms(quantile(late, 0.99)), "ms", line{}, "%s", cond)
	return nil
}
