package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/fairlead-dev/fairlead"
	"github.com/spf13/cobra"
)

// An action is what a command that changes something reports in JSON.
type action struct {
	Done      string `json:"done"`
	Processor string `json:"processor,omitempty"`
	Tenant    string `json:"tenant,omitempty"`
	Key       string `json:"key,omitempty"`
	ID        int64  `json:"id,omitempty"`
	Letters   *int   `json:"letters,omitempty"`
	Build     int64  `json:"build,omitempty"`
}

// onProcessor is a command PROCESSOR with the flag --tenant. Where need is true
// the flag must be there.
func (p *program) onProcessor(c *cobra.Command, need bool, f func(ctx context.Context, a fairlead.Admin, processor, tenant string) error) *cobra.Command {
	var tenant string
	var unseen bool
	c.Use += " PROCESSOR"
	if need {
		c.Use += " --tenant TENANT"
		c.DisableFlagsInUseLine = true
	}
	c.Args = between(1, 1)
	p.named(c)
	what := "only this `TENANT`"
	if need {
		what = "the `TENANT`; must be given"
	}
	c.Flags().StringVar(&tenant, "tenant", "", what)
	c.Flags().BoolVar(&unseen, "unseen", false, "also if the log has no event of the tenant yet")
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		if need && tenant == "" {
			return Usagef("%s needs --tenant TENANT", c.CommandPath())
		}
		ps, err := p.processors(ctx, db, args[0])
		if err != nil {
			return err
		}
		if tenant != "" && ps[0].CrossTenant {
			return fmt.Errorf("processor %q folds all tenants into shared documents: it cannot treat one tenant apart", args[0])
		}
		if tenant != "" && !unseen {
			if err := p.seen(ctx, db, tenant); err != nil {
				return fmt.Errorf("%w; --unseen does it all the same", err)
			}
		}
		return explain(f(ctx, p.admin(db), args[0], tenant))
	})
}

// whom names a processor, or a tenant in it.
func whom(processor, tenant string) string {
	if tenant == "" {
		return fmt.Sprintf("processor %q", processor)
	}
	return fmt.Sprintf("tenant %q of processor %q", tenant, processor)
}

func (p *program) pauseCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "pause",
		Short: "Stop a processor, or one tenant in it",
		Long: `Stop a processor, or one tenant in it: that one leaves for a lane of its own,
which stands still. What was committed goes on being served. See resume.`,
		Example: `  $NAME pause orders --tenant acme --reason "being moved"
  $NAME pause orders`,
	}
	c.Flags().StringVar(&reason, "reason", "", "the `REASON` that others will see in lanes, with --tenant")
	return p.onProcessor(c, false, func(ctx context.Context, a fairlead.Admin, processor, tenant string) error {
		if tenant == "" && reason != "" {
			return Usagef("--reason is kept with a lane: it needs --tenant")
		}
		if reason == "" {
			reason = "paused by hand"
		}
		if err := a.Pause(ctx, processor, tenant, reason); err != nil {
			return err
		}
		return p.done(action{Done: "paused", Processor: processor, Tenant: tenant}, "%s is paused", whom(processor, tenant))
	})
}

func (p *program) resumeCommand() *cobra.Command {
	return p.onProcessor(&cobra.Command{
		Use:   "resume",
		Short: "Let a paused processor or tenant go on",
		Long: `Let a processor go on, or one tenant in it, that was paused by hand or stopped
by its poison policy. It goes on where it stopped.`,
		Example: `  $NAME resume orders --tenant acme`,
	}, false, func(ctx context.Context, a fairlead.Admin, processor, tenant string) error {
		if err := a.Resume(ctx, processor, tenant); err != nil {
			return err
		}
		return p.done(action{Done: "resumed", Processor: processor, Tenant: tenant}, "%s is resumed", whom(processor, tenant))
	})
}

func (p *program) detachCommand() *cobra.Command {
	return p.onProcessor(&cobra.Command{
		Use:   "detach",
		Short: "Give a tenant a lane of its own in a processor",
		Long: `Give a tenant a lane of its own in a processor, until merge. Its backlog then
delays nobody, and nobody's delays it. Nothing is applied twice or left out.`,
		Example: `  $NAME detach orders --tenant acme`,
	}, true, func(ctx context.Context, a fairlead.Admin, processor, tenant string) error {
		if err := a.Detach(ctx, processor, tenant); err != nil {
			return err
		}
		return p.done(action{Done: "detached", Processor: processor, Tenant: tenant}, "%s has a lane of its own", whom(processor, tenant))
	})
}

func (p *program) mergeCommand() *cobra.Command {
	return p.onProcessor(&cobra.Command{
		Use:   "merge",
		Short: "Let a tenant go back to the lane it shares with others",
		Long: `Let a tenant go back to the lane it shares with others. A consumer does it as
soon as the tenant's lane has caught up.`,
		Example: `  $NAME merge orders --tenant acme`,
	}, true, func(ctx context.Context, a fairlead.Admin, processor, tenant string) error {
		if err := a.Merge(ctx, processor, tenant); err != nil {
			return err
		}
		return p.done(action{Done: "merging", Processor: processor, Tenant: tenant}, "%s merges as soon as it has caught up", whom(processor, tenant))
	})
}

func (p *program) weightCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "weight [TENANT WEIGHT]",
		Short: "Show or set the tenants' shares of worker time",
		Long: `Set a tenant's share of worker time against others, whose weight is 1: from
0.01 to 100. It counts at once. Without arguments: the weights that were set.`,
		Example: `  $NAME weight acme 4
  $NAME weight acme 1`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return Usagef("%s: give a tenant and its weight, or nothing", c.CommandPath())
			}
			return between(0, 2)(c, args)
		},
	}
	p.named(c)
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		if len(args) == 2 {
			w, err := strconv.ParseFloat(args[1], 64)
			if err != nil {
				return Usagef("weight %q is no number", args[1])
			}
			if err := p.admin(db).SetWeight(ctx, args[0], w); err != nil {
				return err
			}
			return p.done(map[string]any{"done": "weight", "tenant": args[0], "weight": w}, "tenant %q has the weight %v", args[0], w)
		}
		weights, err := p.admin(db).Weights(ctx)
		if err != nil {
			return err
		}
		type row struct {
			Tenant string  `json:"tenant"`
			Weight float64 `json:"weight"`
		}
		rows := []row{}
		for _, t := range slices.Sorted(maps.Keys(weights)) {
			rows = append(rows, row{t, weights[t]})
		}
		if p.JSON {
			return p.writeJSON(map[string]any{"weights": rows})
		}
		t := newTable(p.Stdout, "TENANT", "WEIGHT")
		for _, r := range rows {
			t.row(r.Tenant, r.Weight)
		}
		return t.flush()
	})
}

func (p *program) dropCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "drop PROCESSOR --yes",
		Short: "Delete a processor with all its documents",
		Long: `Delete a processor with all its documents, lanes and dead letters. Events stay.
No consumer should have it: it would make it anew from the first event.`,
		Example:               `  $NAME drop orders --yes`,
		Args:                  between(1, 1),
		DisableFlagsInUseLine: true,
	}
	p.named(c)
	c.Flags().BoolVar(&yes, "yes", false, "really do it; must be given")
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		if _, err := p.processors(ctx, db, args[0]); err != nil {
			return err
		}
		if !yes {
			return Usagef("%s deletes all documents of processor %q: add --yes if that is meant", c.CommandPath(), args[0])
		}
		if err := p.admin(db).Drop(ctx, args[0]); err != nil {
			return explain(err)
		}
		return p.done(action{Done: "dropped", Processor: args[0]}, "processor %q is gone", args[0])
	})
}
