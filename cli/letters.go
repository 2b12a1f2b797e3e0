package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

// letterJSON is a dead letter in JSON.
type letterJSON struct {
	ID        int64             `json:"id"`
	Processor string            `json:"processor"`
	Build     int64             `json:"build"`
	Partition int               `json:"partition"`
	Tenant    string            `json:"tenant"`
	Key       string            `json:"key"`
	State     store.LetterState `json:"state"`
	Retry     bool              `json:"retry"`
	Reason    string            `json:"reason"`
	Error     string            `json:"error"`
	Attempts  int               `json:"attempts"`
	At        *time.Time        `json:"at"`
	Event     letterEvent       `json:"event"`
}

type letterEvent struct {
	Position   int64             `json:"position"`
	ID         string            `json:"id"`
	Stream     string            `json:"stream"`
	Version    int64             `json:"version"`
	Type       string            `json:"type"`
	Class      string            `json:"class,omitempty"` // of traffic
	OccurredAt *time.Time        `json:"occurred_at"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Data       json.RawMessage   `json:"data,omitempty"`
	Bytes      []byte            `json:"data_base64,omitempty"` // where it is not JSON
	Withheld   int64             `json:"withheld_bytes,omitempty"`
}

func letterOf(l *store.DeadLetter) letterJSON {
	e := letterEvent{
		Position: int64(l.Event.Position), ID: l.Event.ID, Stream: l.Event.Stream, Version: l.Event.Version,
		Type: l.Event.Type, Class: l.Event.Class, OccurredAt: stamp(l.Event.OccurredAt), Metadata: l.Event.Metadata, Withheld: l.Event.Withheld,
	}
	if json.Valid(l.Event.Data) {
		e.Data = l.Event.Data
	} else {
		e.Bytes = l.Event.Data
	}
	return letterJSON{
		ID: l.ID, Processor: l.Processor, Build: l.Number, Partition: l.Partition, Tenant: l.Tenant, Key: l.Key,
		State: l.State, Retry: l.Retry, Reason: l.Reason, Error: l.Error, Attempts: l.Attempts, At: stamp(l.At), Event: e,
	}
}

// letterFilter adds the flags that select dead letters.
type letterFilter struct {
	processor, tenant, key, state string
	hasKey                        func() bool
}

func (f *letterFilter) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.processor, "processor", "", "only of this `PROCESSOR`")
	c.Flags().StringVar(&f.tenant, "tenant", "", "only of this `TENANT`")
	c.Flags().StringVar(&f.key, "key", "", "only of this ordering `KEY`: for projections the document's id")
	c.Flags().StringVar(&f.state, "state", "", "only in this `STATE`: poison (its handler failed), waiting (behind one of those), skipped")
	f.hasKey = func() bool { return c.Flags().Changed("key") }
}

func (p *program) letterFilter(ctx context.Context, db Database, f *letterFilter) (store.LetterFilter, error) {
	lf := store.LetterFilter{Tenant: f.tenant, State: store.LetterState(f.state)}
	switch lf.State {
	case "", store.Poison, store.Waiting, store.Skipped:
	default:
		return lf, Usagef("--state %q is none of poison, waiting, skipped", f.state)
	}
	if f.hasKey() {
		lf.Key = &f.key
	}
	if f.processor != "" {
		if _, err := p.processors(ctx, db, f.processor); err != nil {
			return lf, err
		}
		lf.Processor = f.processor
	}
	return lf, nil
}

func (p *program) lettersCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "dead-letters",
		Aliases: []string{"letters"},
		Short:   "List, retry, skip and export events that could not be applied",
		Long: `An event that cannot be applied is parked here with its reason, and all later
ones of its ordering key wait behind it, in order, while everything else flows.`,
	}, p.listLetters(), p.retryLetters(), p.skipLetter(), p.exportLetters())
}

func (p *program) listLetters() *cobra.Command {
	var f letterFilter
	var after int64
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List dead letters",
		Example: `  $NAME dead-letters list --processor orders --state poison`,
		Args:    between(0, 0),
	}
	p.named(c)
	f.flags(c)
	c.Flags().Int64Var(&after, "after", 0, "only with an `ID` above this one")
	c.Flags().IntVar(&limit, "limit", 100, "at most `N`; 0: all")
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, _ []string) error {
		lf, err := p.letterFilter(ctx, db, &f)
		if err != nil {
			return err
		}
		lf.AfterID, lf.Limit = after, limit
		letters, err := p.admin(db).DeadLetters(ctx, lf)
		if err != nil {
			return err
		}
		if p.JSON {
			rows := make([]letterJSON, len(letters))
			for i := range letters {
				rows[i] = letterOf(&letters[i])
			}
			return p.writeJSON(map[string]any{"dead_letters": rows})
		}
		t := newTable(p.Stdout, "ID", "PROCESSOR", "TENANT", "KEY", "STATE", "RETRY", "REASON", "EVENT", "AT", "ERROR")
		for i := range letters {
			l := &letters[i]
			t.row(strconv.FormatInt(l.ID, 10), l.Processor, l.Tenant, l.Key, string(l.State), l.Retry, l.Reason,
				fmt.Sprintf("%s@%d %s", l.Event.Stream, l.Event.Version, l.Event.Type), l.At, short(l.Error, 80))
		}
		return t.flush()
	})
}

func (p *program) retryLetters() *cobra.Command {
	var tenant, key string
	var all bool
	c := &cobra.Command{
		Use:   "retry PROCESSOR (--tenant TENANT [--key KEY] | --all)",
		Short: "Apply dead letters again, in order",
		Long: `Ask for the dead letters of an ordering key to be applied, in order; of all keys
of a tenant without --key; of all tenants with --all. A running consumer does
it. When the last one of a key is applied, the key flows again; one that fails
parks it again.`,
		Example: `  $NAME dead-letters retry orders --tenant acme --key order-17
  $NAME dead-letters retry orders --all`,
		Args:                  between(1, 1),
		DisableFlagsInUseLine: true,
	}
	p.named(c)
	c.Flags().StringVar(&tenant, "tenant", "", "of this `TENANT`")
	c.Flags().StringVar(&key, "key", "", "of this ordering `KEY`; needs --tenant")
	c.Flags().BoolVar(&all, "all", false, "of all tenants")
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		if all == (tenant != "") || (key != "" && tenant == "") {
			return Usagef("%s needs either --tenant TENANT, and --key KEY if only that one is meant, or --all", c.CommandPath())
		}
		if _, err := p.processors(ctx, db, args[0]); err != nil {
			return err
		}
		n, err := p.admin(db).Retry(ctx, args[0], tenant, key)
		if err != nil {
			return explain(err)
		}
		return p.done(action{Done: "retrying", Processor: args[0], Tenant: tenant, Key: key, Letters: &n},
			"%s dead letters of %s will be applied by its consumer", thousands(int64(n)), whom(args[0], tenant))
	})
}

func (p *program) skipLetter() *cobra.Command {
	c := &cobra.Command{
		Use:   "skip ID",
		Short: "Give up one dead letter, and retry those behind it",
		Long: `Give up one dead letter: it stays recorded as skipped, its event is not applied,
and what waited behind it is retried in order.`,
		Example: `  $NAME dead-letters skip 17`,
		Args:    between(1, 1),
	}
	p.named(c)
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || id < 1 {
			return Usagef("%q is no id of a dead letter: dead-letters list shows them", args[0])
		}
		if err := p.admin(db).Skip(ctx, id); err != nil {
			return explain(err)
		}
		return p.done(action{Done: "skipped", ID: id}, "dead letter %d is skipped", id)
	})
}

func (p *program) exportLetters() *cobra.Command {
	var f letterFilter
	var out string
	var quiet bool
	c := &cobra.Command{
		Use:     "export",
		Short:   "Write dead letters as JSON Lines, with their events",
		Example: `  $NAME dead-letters export --processor orders --out letters.jsonl`,
		Args:    between(0, 0),
	}
	p.named(c)
	f.flags(c)
	c.Flags().StringVarP(&out, "out", "o", "", "write to `FILE`; the endings .gz and .zst compress")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no summary on stderr")
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, _ []string) error {
		lf, err := p.letterFilter(ctx, db, &f)
		if err != nil {
			return err
		}
		o, err := create(out, p.Stdout)
		if err != nil {
			return err
		}
		start := time.Now()
		n, err := writeLetters(ctx, p.admin(db), lf, o)
		if err = o.finish(err); err != nil {
			return err
		}
		return p.exported(n, "dead_letters", time.Since(start), quiet)
	})
}

func writeLetters(ctx context.Context, a fairlead.Admin, lf store.LetterFilter, o *output) (n int64, err error) {
	enc := json.NewEncoder(o)
	enc.SetEscapeHTML(false)
	for lf.Limit = 200; ; {
		letters, err := a.DeadLetters(ctx, lf)
		if err != nil {
			return n, err
		}
		for i := range letters {
			if err := enc.Encode(letterOf(&letters[i])); err != nil {
				return n, fmt.Errorf("write dead letter %d: %w", letters[i].ID, err)
			}
			n++
		}
		if len(letters) < lf.Limit {
			return n, nil
		}
		lf.AfterID = letters[len(letters)-1].ID
	}
}
