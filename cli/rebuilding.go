package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

func (p *program) rebuildCommand() *cobra.Command {
	var wait, quiet bool
	var options fairlead.RebuildOptions
	start := &cobra.Command{
		Use:   "start",
		Short: "Fold a projection anew from the first event",
		Long: `Fold a projection anew from the first event, or one tenant of it. A running
consumer does the work. The old documents go on being served and kept fresh;
when the new ones have caught up they take their place in one transaction.`,
		Example: `  $NAME rebuild start orders --wait
  $NAME rebuild start orders --tenant acme
  $NAME rebuild start orders --review --limit 2000`,
	}
	rebuildFlags(start, &options)
	start.Flags().BoolVar(&wait, "wait", false, "wait until the new documents are served, or wait for rebuild switch; exit status 1 if it was cancelled")
	start.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress on stderr while waiting")
	p.onProcessor(start, false, func(ctx context.Context, a fairlead.Admin, processor, tenant string) error {
		if err := a.Rebuild(ctx, processor, tenant, options); err != nil {
			return err
		}
		proc, err := one(ctx, a, processor)
		if err != nil {
			return err
		}
		if !wait {
			return p.done(action{Done: "rebuilding", Processor: processor, Tenant: tenant, Build: proc.Rebuild},
				"%s is being rebuilt by its consumers; status shows how far it is", whom(processor, tenant))
		}
		if err := p.waitForRebuild(ctx, a, proc, quiet); err != nil {
			return err
		}
		what := "is rebuilt"
		if options.Review {
			what = "is rebuilt, and served when you say rebuild switch"
		}
		return p.done(action{Done: "rebuilt", Processor: processor, Tenant: tenant, Build: proc.Rebuild}, "%s %s", whom(processor, tenant), what)
	})

	cancel := &cobra.Command{
		Use:     "cancel PROCESSOR",
		Short:   "Give up a rebuild",
		Long:    "Give up a rebuild: the old documents stay, the new ones are deleted.",
		Example: `  $NAME rebuild cancel orders`,
		Args:    between(1, 1),
	}
	p.named(cancel)
	p.onDatabase(cancel, Write, func(ctx context.Context, db Database, args []string) error {
		if _, err := p.processors(ctx, db, args[0]); err != nil {
			return err
		}
		if err := p.admin(db).CancelRebuild(ctx, args[0]); err != nil {
			return explain(err)
		}
		return p.done(action{Done: "cancelled", Processor: args[0]}, "the rebuild of processor %q is cancelled", args[0])
	})
	return group(&cobra.Command{
		Use:   "rebuild",
		Short: "Fold a projection, or one tenant of it, anew",
		Long:  "Fold a projection, or one tenant of it, anew while the old documents are served.",
	}, append(p.buildCommands(), start, cancel)...)
}

// one returns the row of a processor.
func one(ctx context.Context, a fairlead.Admin, name string) (store.Processor, error) {
	ps, err := a.Processors(ctx)
	if err != nil {
		return store.Processor{}, err
	}
	i := slices.IndexFunc(ps, func(p store.Processor) bool { return p.Name == name })
	if i < 0 {
		return store.Processor{}, fmt.Errorf("processor %q was dropped", name)
	}
	return ps[i], nil
}

// waitForRebuild waits until the build that proc is making is served.
func (p *program) waitForRebuild(ctx context.Context, a fairlead.Admin, proc store.Processor, quiet bool) error {
	if proc.Rebuild == 0 { // it was over before it was looked at
		return nil
	}
	pr := p.progress(quiet)
	defer pr.end()
	for {
		now, err := one(ctx, a, proc.Name)
		if err != nil {
			return err
		}
		if now.Rebuild != proc.Rebuild {
			if slices.Contains(now.Retired, proc.Rebuild) || (proc.RebuildTenant == "" && now.Live != proc.Rebuild) {
				return fmt.Errorf("the rebuild of %s was cancelled", whom(proc.Name, proc.RebuildTenant))
			}
			return nil
		}
		if now.Builds.Making.Review {
			lanes, err := a.Lanes(ctx, proc.Name)
			if err != nil {
				return err
			}
			if strings.HasPrefix(fairlead.RebuildWaits(now, lanes), "an operator") {
				return nil
			}
		}
		pr.say(func() string {
			at, head, owned, err := rebuildAt(ctx, a, proc)
			switch {
			case err != nil:
				return err.Error()
			case !owned:
				return "no consumer works on the rebuild: is one running?"
			}
			return fmt.Sprintf("rebuilt up to %v of %v", at, head)
		})
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w while waiting: the rebuild goes on, see status", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// rebuildAt returns how far the slowest lane of a rebuild is.
func rebuildAt(ctx context.Context, a fairlead.Admin, proc store.Processor) (at, head event.Position, owned bool, err error) {
	if head, err = a.Log.Head(ctx, 0); err != nil {
		return 0, 0, false, err
	}
	err = a.Store.View(ctx, func(tx store.Tx) error {
		lanes, err := tx.Lanes(proc.Name)
		at = head
		for _, l := range lanes {
			if l.Number == proc.Rebuild {
				at = min(at, l.Position)
				owned = owned || l.Owner != ""
			}
		}
		return err
	})
	return at, head, owned, err
}
