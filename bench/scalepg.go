package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

const (
	scaleWait       = 5 * time.Millisecond
	scalePartitions = 16
	scaleLease      = 3 * time.Second
	scaleKeys       = 5000
)

// A scaleSet is some processes, each with so many handlers at once.
type scaleSet struct{ processes, atOnce int }

// allowed is how many events a second the handlers' waits allow.
func (s scaleSet) allowed() float64 { return float64(s.processes*s.atOnce) / scaleWait.Seconds() }

// runScalePostgres works one backlog with 1, 2, 4 and 8 processes, and with 8 whose
// handlers are so many that something else is the limit.
func runScalePostgres(ctx context.Context, b *bench) (err error) {
	s, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	seconds, runs := 3.0, 3
	if b.quick {
		seconds, runs = 1.2, 1
	}
	type figures struct {
		rates, reads []float64
		moves        []int64
		last         scaleRun
	}
	const few, many = 16, 512
	sets := []scaleSet{{1, few}, {2, few}, {4, few}, {8, few}, {8, many}}
	got := make([]figures, len(sets))
	var one float64
	for range runs {
		for i, set := range sets {
			// So many that a run takes about so long, if the processes had the machine
			// for themselves; eight cannot have two cores.
			events := int(seconds * min(set.allowed(), scaleSet{4, few}.allowed()))
			if set.atOnce == many {
				events *= 10
			}
			run, err := b.scale(ctx, s, set, events, false)
			if err != nil {
				return fmt.Errorf("%d processes: %w", set.processes, err)
			}
			got[i].rates = append(got[i].rates, run.perSecond)
			got[i].reads = append(got[i].reads, run.reads)
			got[i].moves = append(got[i].moves, run.moves)
			got[i].last = run
		}
	}
	// The measurement begins when the lanes have their owners. What it costs when they
	// get others while they are worked, the run with a process that joins says.
	joined := scaleSet{4, few}
	events := int(seconds * joined.allowed())
	var joins figures
	for range runs {
		run, err := b.scale(ctx, s, joined, events, true)
		if err != nil {
			return fmt.Errorf("%d processes and one that joins: %w", joined.processes, err)
		}
		joins.reads, joins.moves = append(joins.reads, run.reads), append(joins.moves, run.moves)
	}
	b.add("log_reads_per_event_join", median(joins.reads), "", line{}, "the same with %d processes and one that joins while they work; %s; moves of lanes, by run: %v; %d events; %s", joined.processes, spread(joins.reads), joins.moves, events, s.settings)
	for i, set := range sets {
		f := &got[i]
		rate := median(f.rates)
		if i == 0 {
			one = rate
		}
		cond := fmt.Sprintf("%d processes, reactor of %d partitions, handlers wait %v, %d at once in each process, %d events of %d streams, every event handled once, median of %d interleaved runs; %s",
			set.processes, scalePartitions, scaleWait, set.atOnce, f.last.events, scaleKeys, runs, s.settings)
		b.add("events_per_second", rate, "events/s", line{}, "%.0f %% of what the handlers' waits allow; %s; %s", 100*rate/set.allowed(), spread(f.rates), cond)
		b.add("speedup", rate/one, "x", line{}, "to one process; %s", cond)
		b.add("log_reads_per_event", median(f.reads), "", atMost(1.1), "events that came from the log to any of the processes, to events in it; %s; moves of lanes while they were worked, by run: %v; %s", spread(f.reads), f.moves, cond)
		b.add("processors_busy", f.last.busy, "%", line{}, "of all of the machine; server %.0f %%, consumers %.0f %%; limit: %s; the last run: %s; %s", f.last.serverBusy, f.last.childBusy, f.last.limit(), f.last.database, cond)
	}
	return nil
}

// A scaleRun is what one set of processes came to.
type scaleRun struct {
	events                      int
	perSecond, reads            float64
	moves                       int64   // of lanes, from one process to another
	busy, serverBusy, childBusy float64 // of all processors, %
	waits                       []string
	idle                        bool // no session of the server was waiting on average
	database                    string
}

// limit names what the run could not have more of.
func (r scaleRun) limit() string {
	switch {
	case r.busy > 85:
		return "the processors"
	case !r.idle:
		return "the database: " + strings.Join(r.waits, ", ")
	}
	return "the handlers' waits"
}

// A scaleReport is what a process says at its end.
type scaleReport struct {
	Handled, Read int64
	First, Last   int64 // Unix nanoseconds: when its first handler began and its last ended
	Processor     float64
}

// scale runs one set of processes; joins: and one that comes while they work.
func (b *bench) scale(ctx context.Context, s *pgServer, set scaleSet, events int, joins bool) (r scaleRun, err error) {
	r.events = events
	url, err := s.empty(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.drop(ctx, url)) }()
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	children := make([]*scaleChild, set.processes)
	for i := range children {
		if children[i], err = startScaleChild(ctx, url, set.atOnce); err != nil {
			return r, err
		}
		defer children[i].kill()
	}
	if err := sharedOut(ctx, db, set.processes); err != nil {
		return r, err
	}
	// The backlog comes when the lanes have their owners: what is read again because
	// lanes move at the start would say nothing of partitions. No handler begins yet.
	var batch []eventlog.StreamAppend
	for i := range events {
		k := i % scaleKeys
		batch = append(batch, eventlog.StreamAppend{Tenant: fmt.Sprintf("tenant-%02d", k%50), Stream: fmt.Sprintf("stream-%05d", k),
			Events: []eventlog.NewEvent{{Type: "Happened", Data: []byte(`{"n":1}`)}}})
		if len(batch) == 1000 || i == events-1 {
			if _, err := db.Append(ctx, batch...); err != nil {
				return r, err
			}
			batch = batch[:0]
		}
	}
	if err := pgExec(ctx, url, "VACUUM ANALYZE"); err != nil {
		return r, err
	}
	epochs, err := laneEpochs(ctx, db)
	if err != nil {
		return r, err
	}
	before, err := sample(ctx, url)
	if err != nil {
		return r, err
	}
	wctx, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watched := make(chan waitCounts, 1)
	go func() { watched <- watchWaits(wctx, url) }()
	for _, c := range children {
		if err := c.say("go"); err != nil {
			return r, err
		}
	}
	deadline := time.Now().Add(90 * time.Second)
	for handled := int64(0); handled < int64(events); {
		handled = 0
		for _, c := range children {
			handled += c.handled.Load()
		}
		if joins && handled > int64(events)/20 {
			joins = false
			c, err := startScaleChild(ctx, url, set.atOnce)
			if err != nil {
				return r, err
			}
			defer c.kill()
			if children = append(children, c); c.say("go") != nil {
				return r, errors.New("the process that joins has ended")
			}
		}
		if time.Now().After(deadline) {
			return r, fmt.Errorf("wrong result: %d of %d events are handled after 90 s", handled, events)
		}
		if err := rest(ctx, 10*time.Millisecond); err != nil {
			return r, err
		}
	}
	after, err := sample(ctx, url)
	if err != nil {
		return r, err
	}
	now, err := laneEpochs(ctx, db)
	if err != nil {
		return r, err
	}
	r.moves = now - epochs
	stopWatching()
	waits := <-watched
	var first, last, handled, read int64
	for _, c := range children {
		report, err := c.end()
		if err != nil {
			return r, err
		}
		handled += report.Handled
		read += report.Read
		if first == 0 || report.First != 0 && report.First < first {
			first = report.First
		}
		last = max(last, report.Last)
		r.childBusy += report.Processor
	}
	if handled != int64(events) {
		return r, fmt.Errorf("wrong result: %d handlers for %d events", handled, events)
	}
	r.perSecond = float64(events) / (time.Duration(last - first).Seconds())
	r.reads = float64(read) / float64(events)
	r.fill(before, after, waits)
	return r, nil
}

// sharedOut waits until so many processes own lanes, and none moves any more.
func sharedOut(ctx context.Context, db *postgres.DB, n int) error {
	calm, before := 0, ""
	for range 300 {
		owners, all := map[string]int{}, ""
		err := db.View(ctx, func(tx store.Tx) error {
			lanes, err := tx.Lanes("scale")
			owners, all = map[string]int{}, ""
			for _, l := range lanes {
				if l.Tenant == "" {
					owners[l.Owner]++
					all += l.Owner + " "
				}
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(owners) == n && owners[""] == 0 && all == before {
			calm++
		} else {
			calm = 0
		}
		if before = all; calm >= 25 { // longer than scaleLease/2, after which lanes are moved
			return nil
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the lanes are not shared out among %d processes after 30 s", n)
}

// laneEpochs returns the sum of the lanes' epochs: each move raises it by one.
func laneEpochs(ctx context.Context, db *postgres.DB) (sum int64, err error) {
	err = db.View(ctx, func(tx store.Tx) error {
		lanes, err := tx.Lanes("scale")
		sum = 0
		for _, l := range lanes {
			sum += l.Epoch
		}
		return err
	})
	return sum, err
}

// A sampled is what the server and the machine have done so far.
type sampled struct {
	at                         time.Time
	busy, total, server        float64 // seconds of processors
	commits, walBytes, walSync float64
}

func sample(ctx context.Context, url string) (s sampled, err error) {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return s, err
	}
	defer func() { _ = c.Close(ctx) }()
	s.at = time.Now()
	if err := c.QueryRow(ctx, "SELECT (SELECT sum(xact_commit) FROM pg_stat_database)::float8, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8").Scan(&s.commits, &s.walBytes); err != nil {
		return s, err
	}
	if c.QueryRow(ctx, "SELECT wal_sync::float8 FROM pg_stat_wal").Scan(&s.walSync) != nil { // from PostgreSQL 14 to 17
		s.walSync = 0
	}
	var dir string
	if c.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&dir) == nil {
		s.server = serverTime(dir)
	}
	s.busy, s.total = machineTime()
	return s, nil
}

// waitCounts are how often sessions of consumers were seen active, by what they
// waited for.
type waitCounts struct {
	samples int
	by      map[string]int
}

// watchWaits looks at the sessions until ctx ends.
func watchWaits(ctx context.Context, url string) waitCounts {
	w := waitCounts{by: map[string]int{}}
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return w
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	for ctx.Err() == nil {
		rows, err := c.Query(ctx, `SELECT coalesce(wait_event_type || ' ' || wait_event, 'running') FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()`)
		if err != nil {
			break
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			break
		}
		w.samples++
		for _, n := range names {
			w.by[n]++
		}
		if rest(ctx, 20*time.Millisecond) != nil {
			break
		}
	}
	return w
}

// fill says what a run cost.
func (r *scaleRun) fill(a, b sampled, w waitCounts) {
	if total := b.total - a.total; total > 0 {
		r.busy = 100 * (b.busy - a.busy) / total
		r.serverBusy = 100 * (b.server - a.server) / total
		r.childBusy = 100 * r.childBusy / total
	}
	names := make([]string, 0, len(w.by))
	for n := range w.by {
		names = append(names, n)
	}
	slices.SortFunc(names, func(x, y string) int { return w.by[y] - w.by[x] })
	sum := 0
	for i, n := range names {
		if n != "running" {
			sum += w.by[n]
		}
		if i < 4 {
			r.waits = append(r.waits, fmt.Sprintf("%s %.2f", n, float64(w.by[n])/float64(max(w.samples, 1))))
		}
	}
	r.idle = sum < w.samples
	seconds := b.at.Sub(a.at).Seconds()
	r.database = fmt.Sprintf("%s commits/s, %s WAL syncs/s, %s bytes of WAL an event, active sessions on average: %s",
		number((b.commits-a.commits)/seconds), number((b.walSync-a.walSync)/seconds), number((b.walBytes-a.walBytes)/float64(r.events)), strings.Join(r.waits, ", "))
}
