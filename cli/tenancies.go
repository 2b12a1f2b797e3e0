package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/spf13/cobra"
)

// openTenants opens the tenants of the layout that the file of --config has.
func (p *program) openTenants(ctx context.Context, command string) (*kafka.Tenants, error) {
	k := p.file.Kafka
	if k == nil || k.Layout == nil {
		return nil, Usagef("%s is about topics of tenants: the file of --config needs kafka.layout", command)
	}
	l, err := newLayout(k.Layout, nobody)
	if err != nil {
		return nil, err
	}
	return kafka.OpenTenants(ctx, kafka.Config{Brokers: k.Brokers, Layout: l, Directory: k.Directory, Options: connection(k), Logger: p.logger(false)})
}

func (p *program) addTenantCommand() *cobra.Command {
	var o kafka.AddTenant
	c := &cobra.Command{
		Use:   "add TENANT",
		Short: "Make what a new tenant needs on Kafka",
		Long: `Make what a new tenant needs on Kafka by the layout in the file of --config: its
topic, or the shared one if that is not there yet. A tenant whose name would be no
topic's, or has the separator of keys in it, is refused. Consumers find it by
themselves. A tenant that is there stays as it is.`,
		Example: `  $NAME tenants add acme --config fairlead.yaml
  $NAME tenants add acme --own --partitions 6 --replication 3`,
		Args: between(1, 1),
	}
	p.named(c)
	c.Flags().BoolVar(&o.Own, "own", false, "a topic of its own, where the layout has a shared one too")
	c.Flags().IntVar(&o.Partitions, "partitions", 1, "of the topic, if it is made: `N`")
	c.Flags().IntVar(&o.Replication, "replication", 0, "copies of each partition; default: the broker's")
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.Partitions < 1 || o.Replication < 0 {
			return Usagef("--partitions %d, --replication %d: they must be positive", o.Partitions, o.Replication)
		}
		t, err := p.openTenants(c.Context(), c.CommandPath())
		if err != nil {
			return err
		}
		defer func() { _ = t.Close() }()
		switch err := t.Add(c.Context(), args[0], o); {
		case errors.Is(err, layout.ErrTenant):
			return fmt.Errorf("%w: give it another id as it signs up", err)
		case err != nil:
			return err
		}
		return p.done(action{Done: "added", Tenant: args[0]}, "tenant %q is added", args[0])
	}
	return c
}

func (p *program) removeTenantCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "remove TENANT",
		Short: "Delete a tenant's topic or records, and its read models",
		Long: `Delete the topic of a tenant or, in a shared topic, write a tombstone for each of
its keys, and delete what all processors have made of it: documents, dead letters,
lanes. Stop its producers first: what they write afterwards to a shared topic is a
new tenant's of that name. Consumers may run. Tables of batch projectors stay as
they are. It may be repeated, and then ends what was begun.`,
		Example: `  $NAME tenants remove acme --config fairlead.yaml --db shop.db --yes`,
		Args:    between(1, 1),
	}
	p.named(c)
	c.Flags().BoolVar(&yes, "yes", false, "delete it: needed, because it cannot be undone")
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		if !yes {
			return Usagef("%s cannot be undone: add --yes", c.CommandPath())
		}
		t, err := p.openTenants(ctx, c.CommandPath())
		if err != nil {
			return err
		}
		defer func() { _ = t.Close() }()
		r, err := t.Remove(ctx, args[0])
		if err != nil {
			return err
		}
		documents, err := p.admin(db).RemoveTenant(ctx, args[0], r.UpTo)
		if err != nil {
			return fmt.Errorf("its records are gone, its read models are not: repeat the command: %w", explain(err))
		}
		if p.JSON {
			if r.Topics == nil {
				r.Topics = []string{}
			}
			return p.writeJSON(map[string]any{"done": "removed", "tenant": args[0], "topics": r.Topics, "tombstones": r.Tombstones, "documents": documents})
		}
		text := fmt.Sprintf("tenant %q is removed: %d documents, %d tombstones", args[0], documents, r.Tombstones)
		if len(r.Topics) > 0 {
			text += ", topic " + strings.Join(r.Topics, ", ")
		}
		return p.done(nil, "%s", text)
	})
}
