package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/sqlite"
)

func demoCommand() cli.Command {
	var dir string
	var once bool
	return cli.Command{
		Use:   "demo",
		Short: "Import the orders of 38 shops, project them five ways, check every document",
		Long: `Import the 541,909 order lines of 38 shops, one of which has 91 % of them, and
project them at once into orders, products, customers, months and tenants. Then
every document is compared with the known answers; a difference makes the exit
status 1. Then, without --once, shops go on to place orders and new ones sign
up until SIGINT or SIGTERM, with a line a second about the lanes.

With --dir the state stays there: killed at any moment and started again, the
demo goes on where it was. The file demo.db in it is a database for all other
commands, also while the demo runs. With --json the result is one object, on
the last line of stdout (with --once).

The data: ` + firstParagraph(retail.Attribution()) + `
Licence CC BY 4.0.`,
		Example: `  fairlead demo
  fairlead demo --once --json --dir /tmp/demo
  fairlead status --db /tmp/demo/demo.db`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&dir, "dir", "", "keep the state in `DIR`; default: a temporary one, removed at the end")
			fs.BoolVar(&once, "once", false, "end after the comparison")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) (err error) {
			kept := dir != ""
			if !kept {
				if dir, err = os.MkdirTemp("", "fairlead-demo-"); err != nil {
					return err
				}
				defer func() {
					if e := os.RemoveAll(dir); err == nil {
						err = e
					}
				}()
			} else if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			d := &demo{env: env, once: once, kept: kept}
			return d.run(ctx, filepath.Join(dir, "demo.db"))
		},
	}
}

func firstParagraph(text string) string {
	_, text, _ = strings.Cut(text, "\n\n")
	text, _, _ = strings.Cut(text, "\n\n")
	text, _, _ = strings.Cut(text, "\n")
	return text
}

// objective is what the demo's projections owe their readers.
var objective = slo.Objective{P99: 2 * time.Second, Max: time.Minute}

// maxAhead is how many events the import may be ahead of the slowest projection.
// It bounds the freshness, and the lanes read what is still in memory.
const maxAhead = 20_000

// livePrefix begins the names of the shops of the live simulation. They are
// none of the data set's, so its documents stay what they are.
const livePrefix = "live-"

func isLive(tenant string) bool { return strings.HasPrefix(tenant, livePrefix) }

// errMismatch makes the exit status 1.
var errMismatch = errors.New("documents differ from the known answers")

type demo struct {
	env      *cli.Env
	once     bool
	kept     bool
	db       *sqlite.DB
	consumer *fairlead.Consumer
	watch    *watch
	start    time.Time
	checked  bool // the comparison is done, and found nothing
}

func (d *demo) run(ctx context.Context, path string) (err error) {
	d.start = time.Now()
	if d.db, err = sqlite.Open(path); err != nil {
		return err
	}
	defer func() {
		if e := d.db.Close(); err == nil {
			err = e
		}
	}()
	// A demo that was killed holds its lanes until its lease ends: not for long.
	d.consumer, err = fairlead.New(fairlead.Config{Log: d.db, Store: d.db, Name: "demo", Lease: 2 * time.Second})
	if err != nil {
		return err
	}
	for _, p := range retail.Definitions() {
		if err := d.consumer.Add(ctx, fairlead.Project(p, fairlead.Options{Freshness: objective})); err != nil {
			return err
		}
	}
	d.watch = newWatch(d.db, d.consumer, d.start)

	// The consumer and the watch run until the job is done.
	jobCtx, stop := context.WithCancelCause(ctx)
	consumed, watched := make(chan error, 1), make(chan error, 1)
	go func() {
		err := d.consumer.Run(jobCtx)
		stop(err)
		consumed <- err
	}()
	go func() { watched <- d.watch.run(jobCtx) }()

	err = d.job(jobCtx)
	if cause := context.Cause(jobCtx); err != nil && jobCtx.Err() != nil && ctx.Err() == nil {
		err = cause // the consumer ended by itself
	}
	stop(nil)
	for _, ended := range []error{<-consumed, <-watched} {
		if err == nil && !errors.Is(ended, context.Canceled) {
			err = ended
		}
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		switch {
		case d.checked:
			return nil // this is how the live simulation is meant to end
		case d.kept:
			return fmt.Errorf("%w: the same command goes on where it was", ctx.Err())
		}
		return ctx.Err()
	}
	return err
}

// job is the demo, while the consumer runs.
func (d *demo) job(ctx context.Context) error {
	if err := d.load(ctx); err != nil {
		return err
	}
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	d.watch.freeze()
	result, err := d.compare(ctx)
	if err != nil {
		return err
	}
	if err := d.show(result); err != nil {
		return err
	}
	if result.Mismatches > 0 {
		return fmt.Errorf("%d %w", result.Mismatches, errMismatch)
	}
	if d.once {
		return nil
	}
	d.checked = true
	return d.live(ctx)
}

// load imports the data set, as far as it is not there, never far ahead of the
// projections.
func (d *demo) load(ctx context.Context) error {
	r, err := retail.Events()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	stopLines := d.lines(ctx)
	defer stopLines()
	im := importer.Importer{
		Log:      d.db,
		Trust:    true, // the file is this program's own
		Appended: d.watch.appended,
		Progress: func(n importer.Counts) { d.watch.imported.Store(n.Lines) },
		Before: func(ctx context.Context) error {
			for d.watch.ahead() > maxAhead {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(5 * time.Millisecond):
				}
			}
			return nil
		},
	}
	return im.Import(ctx, "retail-orders", r)
}

// stuck is for how long no lane may move before the demo gives up.
const stuck = time.Minute

// catchUp waits until all projections have all events.
func (d *demo) catchUp(ctx context.Context) error {
	stopLines := d.lines(ctx)
	defer stopLines()
	head, err := d.db.Head(ctx, 0)
	if err != nil {
		return err
	}
	for _, p := range retail.Definitions() {
		for {
			token := eventlog.Token{Position: head, Tenants: append(d.watch.tenants(), "")}
			wait, cancel := context.WithTimeout(ctx, time.Second)
			err := d.consumer.WaitFor(wait, p.Name(), token)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			if d.watch.still() > stuck {
				return d.standstill(p.Name())
			}
		}
		d.watch.done(p.Name())
	}
	return nil
}

// standstill says why a projection does not move, as far as it is known.
func (d *demo) standstill(name string) error {
	err := fmt.Errorf("projection %q has not moved for %v", name, stuck)
	if st, e := d.consumer.Stats(name); e == nil {
		for id, cause := range st.Errors {
			err = errors.Join(err, fmt.Errorf("lane %v: %w", id, cause))
		}
	}
	return err
}

// compare compares every document of the data set, and counts its events.
func (d *demo) compare(ctx context.Context) (result, error) {
	shops, err := d.shops(ctx)
	if err != nil {
		return result{}, err
	}
	r := result{}
	var f eventlog.Filter
	for _, s := range shops {
		if isLive(s) {
			f.Exclude = append(f.Exclude, s)
		} else {
			r.Tenants++
		}
	}
	if r.Events, _, err = d.db.Count(ctx, 0, f, event.Beginning, event.Unbounded, 1<<40); err != nil {
		return r, err
	}
	for _, p := range retail.Definitions() {
		c, err := retail.Compare(ctx, d.db, p, isLive)
		if err != nil {
			return r, err
		}
		stats, err := d.consumer.Stats(p.Name())
		if err != nil {
			return r, err
		}
		r.add(c, d.watch.rate(p.Name()), stats)
	}
	if r.Events != retail.EventCount {
		r.Mismatches++
		r.examples = append(r.examples, fmt.Sprintf("the log has %d events, want %d", r.Events, retail.EventCount))
	}
	r.Lags = d.watch.worst()
	r.Seconds = time.Since(d.start).Seconds()
	r.PeakRSS = peakRSS()
	return r, nil
}

// shops returns all tenants that have documents.
func (d *demo) shops(ctx context.Context) (shops []string, err error) {
	const page = 1000
	for after := ""; ; after = shops[len(shops)-1] {
		next, err := d.db.Tenants(ctx, retail.Tenants.Name(), after, page)
		if err != nil {
			return nil, err
		}
		shops = append(shops, next...)
		if len(next) < page {
			return shops, nil
		}
	}
}
