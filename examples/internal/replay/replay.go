// Package replay is what the larger examples have in common: it imports a file
// of events into a database while processors work on it, and writes CSV files.
package replay

import (
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// A Job is a program: what it runs on a file of events, and what it writes then.
type Job struct {
	Name       string
	Processors []fairlead.Processor
	Outputs    []Output
}

// An Output is a CSV file that a program writes if its flag names one.
type Output struct {
	Flag, About string
	Header      []string
	Rows        func(ctx context.Context, db *sqlite.DB, put func(row ...string) error) error
}

// Main is the main function of a job.
func (j Job) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := j.Run(ctx, os.Args[1:]); err != nil {
		log.Fatal(j.Name, ": ", err)
	}
}

// Run does the job that the flags in args say.
func (j Job) Run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(j.Name, flag.ContinueOnError)
	events := flags.String("events", "", "`file` of events as JSON Lines, plain, gzip or zstd; needed")
	path := flags.String("db", "", "database `file`; default: a temporary one")
	files := make([]*string, len(j.Outputs))
	for i, o := range j.Outputs {
		files[i] = flags.String(o.Flag, "", "write "+o.About+" to this CSV `file`")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *events == "" || flags.NArg() > 0 {
		return fmt.Errorf("-events is needed, and nothing but flags: %q", args)
	}
	return j.replay(ctx, *events, *path, func(db *sqlite.DB) error {
		for i, o := range j.Outputs {
			if *files[i] == "" {
				continue
			}
			err := writeCSV(*files[i], o.Header, func(put func(row ...string) error) error { return o.Rows(ctx, db, put) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// replay imports the events and waits until every processor has applied all of
// them; then export is called. It can be repeated on the same database: what is
// there already is not imported again.
//
// An event that could not be applied is an error: half an answer is none.
func (j Job) replay(ctx context.Context, events, path string, export func(db *sqlite.DB) error) (err error) {
	if path == "" {
		dir, err := os.MkdirTemp("", "fairlead-example-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		path = filepath.Join(dir, "events.db")
	}
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	consumer, err := fairlead.New(fairlead.Config{Log: db, Store: db, Logger: logger})
	if err != nil {
		return err
	}
	if err := consumer.Add(ctx, j.Processors...); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(running) }()
	defer func() {
		stop()
		if e := <-ended; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}()

	start := time.Now()
	n, err := load(ctx, db, events)
	if err != nil {
		return err
	}
	imported := time.Since(start)
	admin := fairlead.Admin{Log: db, Store: db}
	if err := caughtUp(ctx, admin); err != nil {
		return err
	}
	total := time.Since(start)
	fmt.Fprintf(os.Stderr, "%d events: imported in %.1f s, applied after %.1f s (%.0f events/s)\n",
		n, imported.Seconds(), total.Seconds(), float64(n)/total.Seconds())
	if err := noDeadLetters(ctx, admin); err != nil {
		return err
	}
	return export(db)
}

// load imports the file and returns how many events it has.
func load(ctx context.Context, db *sqlite.DB, events string) (int64, error) {
	f, err := os.Open(events)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	im := importer.Importer{Log: db}
	err = im.Import(ctx, events, f)
	return im.Counts.Appended + im.Counts.Present, err
}

// caughtUp returns when no lane has anything left to read. A program that waits
// for what it has just appended uses Consumer.WaitFor; here it is the whole log.
func caughtUp(ctx context.Context, admin fairlead.Admin) error {
	for {
		lanes, err := admin.Lanes(ctx, "")
		if err != nil {
			return err
		}
		behind := int64(0)
		for _, l := range lanes {
			if l.State != store.Running {
				return fmt.Errorf("lane %v is %s: %s", l.LaneID, l.State, l.Reason)
			}
			behind += l.Behind
		}
		if behind == 0 {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func noDeadLetters(ctx context.Context, admin fairlead.Admin) error {
	letters, err := admin.DeadLetters(ctx, fairlead.LetterFilter{Limit: 1})
	if err != nil || len(letters) == 0 {
		return err
	}
	l := letters[0]
	return fmt.Errorf("event %s of tenant %q cannot be applied by %s: %s", l.Event.ID, l.Tenant, l.Processor, l.Error)
}

// Documents calls f for each document of a projection, by tenant and id.
func Documents[S any](ctx context.Context, r store.Reader, p *fairlead.Projection[S], f func(fairlead.Document[S]) error) error {
	const page = 1000
	for tenant := ""; ; {
		tenants, err := r.Tenants(ctx, p.Name(), tenant, page)
		if err != nil {
			return err
		}
		if len(tenants) == 0 {
			return nil
		}
		for _, tenant = range tenants {
			for after := ""; ; {
				docs, err := fairlead.List(ctx, r, p, tenant, after, page)
				if err != nil {
					return err
				}
				for _, d := range docs {
					if err := f(d); err != nil {
						return err
					}
					after = d.ID
				}
				if len(docs) < page {
					break
				}
			}
		}
	}
}

// writeCSV creates a file with a header and the rows that rows puts.
func writeCSV(path string, header []string, rows func(put func(row ...string) error) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := csv.NewWriter(f)
	if err := w.Write(header); err != nil {
		return err
	}
	if err := rows(func(row ...string) error { return w.Write(row) }); err != nil {
		return err
	}
	w.Flush()
	return w.Error()
}

// Number is n as CSV has it.
func Number(n int64) string { return strconv.FormatInt(n, 10) }
