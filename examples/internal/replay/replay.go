// Package replay is what the larger examples have in common: it imports a file
// of events into a database while processors work on it, and writes CSV.
package replay

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// A Job is a file of events and what to do with them.
type Job struct {
	Events     string // JSON Lines: plain, gzip or zstd
	DB         string // the database; "": a temporary one
	Processors []fairlead.Processor
	Log        io.Writer // what is going on, for people
}

// Run imports the events and returns when every processor has applied all of
// them; then export is called. It can be repeated on the same database: what is
// there already is not imported again.
//
// An event that could not be applied is an error: half an answer is none.
func (j Job) Run(ctx context.Context, export func(db *sqlite.DB) error) (err error) {
	path := j.DB
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

	logger := slog.New(slog.NewTextHandler(j.Log, &slog.HandlerOptions{Level: slog.LevelWarn}))
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
	n, err := j.load(ctx, db)
	if err != nil {
		return err
	}
	imported := time.Since(start)
	admin := fairlead.Admin{Log: db, Store: db}
	if err := caughtUp(ctx, admin); err != nil {
		return err
	}
	total := time.Since(start)
	fmt.Fprintf(j.Log, "%d events: imported in %.1f s, applied after %.1f s (%.0f events/s)\n",
		n, imported.Seconds(), total.Seconds(), float64(n)/total.Seconds())
	if err := noDeadLetters(ctx, admin); err != nil {
		return err
	}
	return export(db)
}

// load imports the file and returns how many events it has.
func (j Job) load(ctx context.Context, db *sqlite.DB) (int64, error) {
	f, err := os.Open(j.Events)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	im := importer.Importer{Log: db}
	err = im.Import(ctx, j.Events, f)
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

// WriteCSV creates a file with a header and the rows that rows puts; path ""
// writes nothing.
func WriteCSV(path string, header []string, rows func(put func(row ...string) error) error) (err error) {
	if path == "" {
		return nil
	}
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
