package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/spf13/cobra"
)

func (p *program) importCommand() *cobra.Command {
	var skipBad string
	var quiet bool
	c := &cobra.Command{
		Use:   "import FILE...",
		Short: "Append the events of files to the log",
		Long: `Append the events of JSON Lines files to the log; "-" is stdin. Files in gzip
or zstd are recognised. The database is made where there is none.

A line is an object with the fields
  tenant, stream   who the event belongs to, and its ordered unit there
  version          1, 2, 3, ... in that stream, without gaps
  type             what happened
  occurred_at      when, in RFC 3339: 2026-01-31T12:00:00Z
  data             the payload, any JSON (or data_base64, what is not JSON)
  id, metadata     optional: a unique id; an object of strings

Import again what was broken off: events that are there already are passed over
by their version. One of another type (or id) at a version is a conflict, and
counts as a bad line.

A bad line ends the import: nothing is imported of its block of at most 2,000
lines, and of what follows. With --skip-bad it is written to a file, with the
reason, and the import goes on; later lines of its stream are bad then too.`,
		Example: `  $NAME import --db shop.db events.jsonl.gz
  zcat events.jsonl.gz | $NAME import --db shop.db -
  $NAME import --db shop.db --skip-bad bad.jsonl events.jsonl`,
		Args: between(1, 1<<20),
	}
	p.named(c)
	c.Flags().StringVar(&skipBad, "skip-bad", "", "write bad lines with their reasons to `FILE`, and go on")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress on stderr")
	return p.onDatabase(c, Create, func(ctx context.Context, db Database, files []string) (err error) {
		if err := p.onlyDatabase("import"); err != nil {
			return err
		}
		im := importer.Importer{Log: db}
		if skipBad != "" {
			bad, err := newBadLines(skipBad)
			if err != nil {
				return err
			}
			defer func() {
				if e := bad.close(); err == nil {
					err = e
				}
			}()
			im.Bad = bad.add
		}
		start, name := time.Now(), ""
		pr := p.progress(quiet)
		im.Progress = func(n importer.Counts) {
			pr.say(func() string {
				return fmt.Sprintf("%s: %s lines, %s/s", printable(name), thousands(n.Lines), thousands(int64(float64(n.Lines)/time.Since(start).Seconds())))
			})
		}
		for _, name = range files {
			if err = p.importFile(ctx, &im, name); err != nil {
				break
			}
		}
		pr.end()
		if err != nil {
			if fault, ok := errors.AsType[*importer.Fault](err); ok {
				err = fmt.Errorf("%w\nNothing of its block of lines and after it was imported; before that %s events were, %s were there already. "+
					"Mend the line and import again, or collect such lines with --skip-bad FILE", fault, thousands(im.Counts.Appended), thousands(im.Counts.Present))
			} else if ctx.Err() != nil {
				err = fmt.Errorf("%w after %s lines: import again to go on from there", ctx.Err(), thousands(im.Counts.Lines))
			}
			return err
		}
		return p.imported(im.Counts, time.Since(start), skipBad)
	})
}

func (p *program) importFile(ctx context.Context, im *importer.Importer, name string) error {
	if name == "-" {
		return im.Import(ctx, "stdin", interruptible(ctx, p.Stdin))
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return im.Import(ctx, name, f)
}

func (p *program) imported(n importer.Counts, took time.Duration, skipBad string) error {
	rate := float64(n.Lines) / took.Seconds()
	result := struct {
		importer.Counts
		Seconds float64 `json:"seconds"`
		Rate    float64 `json:"lines_per_second"`
	}{n, took.Seconds(), rate}
	bad := ""
	if n.Bad > 0 {
		bad = fmt.Sprintf(", %s bad lines in %s", thousands(n.Bad), skipBad)
	}
	return p.done(result, "%s events imported, %s were there already%s: %s lines in %s, %s/s",
		thousands(n.Appended), thousands(n.Present), bad, thousands(n.Lines), duration(took), thousands(int64(rate)))
}

// badLines is the file that bad lines are collected in. It is added to: what
// an import before has collected stays.
type badLines struct {
	name string
	f    *os.File
	buf  []byte
}

func newBadLines(name string) (*badLines, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("file for bad lines: %w", err)
	}
	return &badLines{name: name, f: f}, nil
}

func (b *badLines) add(f importer.Fault) (err error) {
	if b.buf, err = f.AppendLine(b.buf[:0]); err == nil {
		_, err = b.f.Write(b.buf)
	}
	if err != nil {
		return fmt.Errorf("file for bad lines: %w", err)
	}
	return nil
}

func (b *badLines) close() error {
	if err := b.f.Close(); err != nil {
		return fmt.Errorf("file for bad lines %s: %w", b.name, err)
	}
	return nil
}

func (p *program) exportCommand() *cobra.Command {
	var s importer.Selection
	var from, to, out string
	var quiet bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the events of the log as JSON Lines",
		Long: `Write the events of the log as JSON Lines, in the order of the log, in the form
that import reads: to stdout, or to a file that gets its name when it is
complete. What is cut out of the middle of streams (--type, --from) cannot be
imported elsewhere, because its versions have gaps.`,
		Example: `  $NAME export --db shop.db --out events.jsonl.zst
  $NAME export --db shop.db --tenant acme --from 2026-01-01 --to 2026-02-01 | jq .data`,
		Args: between(0, 0),
	}
	p.named(c)
	c.Flags().StringArrayVar(&s.Tenants, "tenant", nil, "only this `TENANT`; may be repeated")
	c.Flags().StringArrayVar(&s.Types, "type", nil, "only this event `TYPE`; may be repeated")
	c.Flags().StringArrayVar(&s.Classes, "class", nil, "only this traffic `CLASS`, '' for events without one; may be repeated")
	c.Flags().StringVar(&from, "from", "", "only what occurred at this `TIME` or later: 2026-01-31 or 2026-01-31T12:00:00Z")
	c.Flags().StringVar(&to, "to", "", "only what occurred before this `TIME`")
	c.Flags().StringVarP(&out, "out", "o", "", "write to `FILE`; the endings .gz and .zst compress")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress and no summary on stderr")
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, _ []string) error {
		err := p.onlyDatabase("export")
		if err != nil {
			return err
		}
		if s.From, err = parseTime("from", from); err != nil {
			return err
		}
		if s.To, err = parseTime("to", to); err != nil {
			return err
		}
		for _, t := range s.Tenants {
			if err := p.seen(ctx, db, t); err != nil {
				return err
			}
		}
		o, err := create(out, p.Stdout)
		if err != nil {
			return err
		}
		start := time.Now()
		pr := p.progress(quiet)
		n, err := importer.Export(ctx, db, o, s, func(n int64) {
			pr.say(func() string {
				return fmt.Sprintf("%s events, %s/s", thousands(n), thousands(int64(float64(n)/time.Since(start).Seconds())))
			})
		})
		pr.end()
		if err = o.finish(err); err != nil {
			return err
		}
		return p.exported(n, "events", time.Since(start), quiet)
	})
}

// exported says on stderr how much was written, because stdout may hold it.
func (p *program) exported(n int64, what string, took time.Duration, quiet bool) error {
	if quiet {
		return nil
	}
	if p.JSON {
		_, err := fmt.Fprintf(p.Stderr, `{"%s":%d,"seconds":%.3f}`+"\n", what, n, took.Seconds())
		return err
	}
	_, err := fmt.Fprintf(p.Stderr, "%s %s exported in %s\n", thousands(n), what, duration(took))
	return err
}

func parseTime(name, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, Usagef("--%s %q is no time: write it like 2026-01-31 or 2026-01-31T12:00:00Z (UTC where no zone is given)", name, s)
}
