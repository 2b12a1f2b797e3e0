package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

func (p *program) runCommand() *cobra.Command {
	var name, pool, metrics string
	var once, verbose bool
	var memory, slots int
	var lease time.Duration
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the program's processors",
		Long: `Run the program's processors until SIGINT or SIGTERM. Any number of processes may
run them on one database: each lane has one owner among them. The database is
made where there is none. With --once a tenant that is paused is not waited for.`,
		Example: `  $NAME run --db shop.db
  $NAME run --db shop.db --once
  $NAME run --db shop.db --metrics 127.0.0.1:9464`,
		Args: between(0, 0),
	}
	p.named(c)
	c.Flags().StringVar(&name, "name", "", "`NAME` of this process for operators; default: the host's")
	c.Flags().BoolVar(&once, "once", false, "end as soon as all events that are there now are applied")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	c.Flags().IntVar(&memory, "memory", 64, "`MIB` of events and documents kept in memory")
	c.Flags().IntVar(&slots, "slots", 0, "run `N` batches at once; default: the number of CPUs, at least 4")
	c.Flags().StringVar(&pool, "pool", "", "work only the tenants given to this `POOL` (see pool set); default: all others")
	c.Flags().DurationVar(&lease, "lease", 10*time.Second, "after this `TIME` another process takes over from a dead one")
	c.Flags().StringVar(&metrics, "metrics", "", "serve /metrics, for Prometheus, and /healthz on `HOST:PORT`")
	return p.onDatabase(c, Create, func(ctx context.Context, db Database, _ []string) error {
		unless := func(flag string, set bool, take func()) {
			if set && !c.Flags().Changed(flag) {
				take()
			}
		}
		unless("name", p.file.Name != "", func() { name = p.file.Name })
		unless("pool", p.file.Pool != "", func() { pool = p.file.Pool })
		unless("metrics", p.file.Metrics != "", func() { metrics = p.file.Metrics })
		unless("slots", p.file.Slots != 0, func() { slots = p.file.Slots })
		unless("lease", p.file.Lease != 0, func() { lease = time.Duration(p.file.Lease) })
		bytes := memory << 20
		unless("memory", p.file.Memory != 0, func() { bytes = int(p.file.Memory) })
		if len(p.app.Processors) == 0 {
			return fmt.Errorf("%s has no processors to run: they are Go code, so write a program that calls cli.Main "+
				"with its own, and has all of these commands (see package github.com/fairlead-dev/fairlead/cli)", p.app.Name)
		}
		cfg := fairlead.Config{
			Log: p.log(db), Store: db, Name: name, Logger: p.logger(verbose), Memory: bytes, Slots: slots, Lease: lease, Pool: pool,
		}
		consumer, err := fairlead.New(cfg)
		if err != nil {
			return err
		}
		for _, proc := range p.app.Processors {
			if p.topic != nil {
				if proc, err = p.topic.beginning(ctx, db, proc); err != nil {
					return err
				}
			}
			if err := consumer.Add(ctx, proc); err != nil {
				return err
			}
		}
		letters, closeLetters, err := p.letters(ctx, cfg)
		if err != nil {
			return err
		}
		defer closeLetters()
		stop, err := p.serveMetrics(ctx, metrics, db, consumer)
		if err != nil {
			return err
		}
		defer stop()
		return p.routed(ctx, db, lease, p.logger(verbose), func(ctx context.Context) error {
			if !once {
				return ended(ctx, runBoth(ctx, consumer, letters))
			}
			return p.runOnce(ctx, db, consumer, letters, pool)
		})
	})
}

// ended makes of the end that was asked for no error.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// runBoth runs a consumer and what publishes its dead letters, nil if nothing does. It
// returns when both have ended, with the error of the one that ended first.
func runBoth(ctx context.Context, consumer *fairlead.Consumer, letters *fairlead.LetterForwarder) error {
	if letters == nil {
		return consumer.Run(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(letters.Run(ctx))
	}()
	cancel(consumer.Run(ctx))
	<-ended
	return context.Cause(ctx)
}

// runOnce runs consumer until its processors have applied all that is in the log, and
// what became dead letters meanwhile was published.
func (p *program) runOnce(ctx context.Context, db Database, consumer *fairlead.Consumer, letters *fairlead.LetterForwarder, pool string) error {
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	result := make(chan error, 1)
	go func() {
		result <- runBoth(runCtx, consumer, letters)
		stop() // it may have failed: then nobody need wait any longer
	}()
	var err error
	for _, proc := range p.app.Processors {
		if err == nil {
			err = caughtUp(runCtx, p.log(db), db, consumer, proc.Name(), pool)
		}
	}
	if err == nil && letters != nil {
		err = letters.Wait(runCtx)
	}
	stop()
	if ran := ended(runCtx, <-result); ran != nil {
		return ran
	}
	return err
}

// caughtUp waits until a processor has applied all that is in the log now and
// that is the work of a pool's processes.
func caughtUp(ctx context.Context, log eventlog.Log, db Database, consumer *fairlead.Consumer, processor, pool string) error {
	parts, err := log.Partitions(ctx)
	if err != nil {
		return err
	}
	var heads []eventlog.Token
	for part := range parts {
		head, err := log.Head(ctx, part)
		if err != nil {
			return err
		}
		if head != event.Beginning {
			heads = append(heads, eventlog.Token{Partition: part, Position: head})
		}
	}
	var waited []string
	for {
		tenants, err := apart(ctx, db, processor, pool)
		if err != nil {
			return err
		}
		tenants = slices.DeleteFunc(tenants, func(t string) bool { return slices.Contains(waited, t) })
		if len(tenants) == 0 {
			return nil
		}
		for _, to := range heads {
			to.Tenants = tenants
			if err := consumer.WaitFor(ctx, processor, to); err != nil {
				return err
			}
		}
		// While the base lanes came to the heads tenants may have left them.
		waited = append(waited, tenants...)
	}
}

// apart returns the tenants in lanes of their own that are a pool's and not paused; ""
// stands for the base lanes.
func apart(ctx context.Context, db Database, processor, pool string) (tenants []string, err error) {
	err = db.View(ctx, func(tx store.Tx) error {
		proc, err := tx.Processor(processor)
		if err != nil {
			return err
		}
		if proc.Paused {
			return fmt.Errorf("processor %q is paused: resume it first", processor)
		}
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		lanes, err := tx.Lanes(processor)
		tenants = nil
		if pool == "" {
			tenants = []string{""}
		}
		for _, l := range lanes {
			if l.Tenant != "" && l.State != store.Paused && pools[l.Tenant] == pool && !slices.Contains(tenants, l.Tenant) {
				tenants = append(tenants, l.Tenant)
			}
		}
		return err
	})
	return tenants, err
}

// logger writes to stderr.
func (p *program) logger(verbose bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if p.JSON {
		return slog.New(slog.NewJSONHandler(p.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(p.Stderr, o))
}
