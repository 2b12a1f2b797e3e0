package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/fairlead-dev/fairlead"
	"github.com/spf13/cobra"
)

func rebuildFlags(c *cobra.Command, o *fairlead.RebuildOptions) {
	c.Flags().BoolVar(&o.Review, "review", false, "catch up, stay fresh, and switch when rebuild switch says so")
	c.Flags().Int64Var(&o.Limit, "limit", 0, "the most `EVENTS` a second; 0: no limit but that live lanes go first")
	c.Flags().DurationVar(&o.Keep, "keep", fairlead.KeepDefault, "for how `LONG` the old documents are kept after the switch; -1s: not at all")
}

// onBuilds is a command PROCESSOR [MORE] of rebuild.
func (p *program) onBuilds(c *cobra.Command, mode Mode, arguments int, f func(ctx context.Context, a fairlead.Admin, args []string) error) *cobra.Command {
	c.Args = between(arguments, arguments)
	p.named(c)
	return p.onDatabase(c, mode, func(ctx context.Context, db Database, args []string) error {
		if _, err := p.processors(ctx, db, args[0]); err != nil {
			return err
		}
		return explain(f(ctx, p.admin(db), args))
	})
}

// buildCommands are those on a build that is being made, or was kept.
func (p *program) buildCommands() []*cobra.Command {
	said := func(done, format string) func(args []string) error {
		return func(args []string) error {
			return p.done(action{Done: done, Processor: args[0]}, format, args[0])
		}
	}
	act := func(c *cobra.Command, f func(fairlead.Admin, context.Context, string) error, say func([]string) error) *cobra.Command {
		return p.onBuilds(c, Write, 1, func(ctx context.Context, a fairlead.Admin, args []string) error {
			if err := f(a, ctx, args[0]); err != nil {
				return err
			}
			return say(args)
		})
	}
	var options fairlead.RebuildOptions
	back := &cobra.Command{
		Use:   "back PROCESSOR",
		Short: "Go back to the documents before the last switch",
		Long: `Go back to the documents before the last switch: they go on from where they
were, catch up and take the place of the present ones, which are kept then.
Consumers with the version of the projection that made them do the work.`,
		Example: `  $NAME rebuild back orders`,
	}
	rebuildFlags(back, &options)
	return []*cobra.Command{
		act(&cobra.Command{
			Use:     "switch PROCESSOR",
			Short:   "Serve the new documents of a rebuild that waits for it",
			Long:    "Serve the new documents of a rebuild that was started with --review, as soon as\nthey have caught up.",
			Example: `  $NAME rebuild switch orders`,
		}, fairlead.Admin.SwitchRebuild, said("approved", "processor %q switches to its new documents as soon as they have caught up")),
		act(back, func(a fairlead.Admin, ctx context.Context, name string) error { return a.GoBack(ctx, name, options) },
			said("back", "processor %q goes back to the documents before the last switch; status shows how far it is")),
		act(&cobra.Command{
			Use:     "forget PROCESSOR",
			Short:   "Delete the documents before the last switch",
			Long:    "Delete the documents before the last switch, which are kept for rebuild back.",
			Example: `  $NAME rebuild forget orders`,
		}, fairlead.Admin.ForgetKept, said("forgotten", "processor %q keeps no documents of before any more")),
		p.onBuilds(&cobra.Command{
			Use:     "limit PROCESSOR EVENTS",
			Short:   "Limit a rebuild to so many events a second",
			Long:    "Limit a rebuild to so many events a second in all consumers together, while it\nruns; 0: to none. Live lanes go first in any case.",
			Example: `  $NAME rebuild limit orders 2000`,
		}, Write, 2, func(ctx context.Context, a fairlead.Admin, args []string) error {
			limit, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return Usagef("limit %q is no number of events", args[1])
			}
			if err := a.LimitRebuild(ctx, args[0], limit); err != nil {
				return err
			}
			return p.done(map[string]any{"done": "limited", "processor": args[0], "limit": limit}, "the rebuild of processor %q has the limit %d", args[0], limit)
		}),
		p.reportCommand(),
	}
}

func (p *program) reportCommand() *cobra.Command {
	var tenant string
	var o fairlead.CompareOptions
	c := &cobra.Command{
		Use:   "report PROCESSOR",
		Short: "Compare the new documents of a rebuild with the old",
		Long: `Compare the documents that a rebuild has made with those that are served; where
there is no rebuild, those that are served with those before the last switch.
JSON is compared as JSON. Documents are in motion where one side has applied an
event that the other has not come to. All documents of both are read.`,
		Example: `  $NAME rebuild report orders
  $NAME rebuild report orders --tenant acme --json`,
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only this `TENANT`")
	c.Flags().IntVar(&o.Samples, "samples", 20, "how many differing `DOCUMENTS` are shown")
	c.Flags().IntVar(&o.Tenants, "tenants", 20, "how many `TENANTS` with differences are shown")
	c.Flags().IntVar(&o.Fields, "fields", 10, "how many `FIELDS` of a document are shown")
	return p.onBuilds(c, Read, 1, func(ctx context.Context, a fairlead.Admin, args []string) error {
		r, err := a.CompareRebuild(ctx, args[0], tenant, o)
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(r)
		}
		return p.writeReport(r)
	})
}

func (p *program) writeReport(r *fairlead.Comparison) error {
	of := ""
	if r.Tenant != "" {
		of = fmt.Sprintf(" of tenant %q", r.Tenant)
	}
	fmt.Fprintf(p.Stdout, "processor %q%s: old is build %d (version %q), new is build %d (version %q)\n\n",
		r.Processor, of, r.Old.Build, r.Old.Version, r.New.Build, r.New.Version)
	t := newTable(p.Stdout, "TENANT", "EQUAL", "DIFFERENT", "ONLY OLD", "ONLY NEW", "IN MOTION")
	t.row("(all)", r.Equal, r.Different, r.OnlyOld, r.OnlyNew, r.InMotion)
	for _, x := range r.Tenants {
		t.row(x.Tenant, x.Equal, x.Different, x.OnlyOld, x.OnlyNew, x.InMotion)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if r.Old.Parked+r.New.Parked > 0 {
		fmt.Fprintf(p.Stdout, "\nparked keys: %d in the old build, %d in the new one\n", r.Old.Parked, r.New.Parked)
	}
	if len(r.Samples) == 0 {
		return nil
	}
	fmt.Fprintln(p.Stdout)
	t = newTable(p.Stdout, "TENANT", "DOCUMENT", "WHAT", "FIELD", "OLD", "NEW")
	for _, x := range r.Samples {
		if len(x.Fields) == 0 {
			t.row(x.Tenant, x.ID, string(x.Kind), "", "", "")
		}
		for _, f := range x.Fields {
			t.row(x.Tenant, x.ID, string(x.Kind), f.Path, f.Old, f.New)
		}
		if x.More > 0 {
			t.row(x.Tenant, x.ID, string(x.Kind), fmt.Sprintf("and %d more", x.More), "", "")
		}
	}
	return t.flush()
}
