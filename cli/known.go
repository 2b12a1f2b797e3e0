package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

// named puts the program's name into the texts of a command.
func (p *program) named(c *cobra.Command) {
	c.Long = strings.ReplaceAll(c.Long, "$NAME", p.app.Name)
	c.Example = strings.ReplaceAll(c.Example, "$NAME", p.app.Name)
}

// processors returns the processors that a command is about: the one called
// name, or all with "".
func (p *program) processors(ctx context.Context, db Database, name string) ([]store.Processor, error) {
	ps, err := p.admin(db).Processors(ctx)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return ps, nil
	}
	names := make([]string, len(ps))
	for i, proc := range ps {
		if proc.Name == name {
			return ps[i : i+1], nil
		}
		names[i] = proc.Name
	}
	return nil, unknown("processor", name, "processors", names)
}

func unknown(what, name, plural string, there []string) error {
	if len(there) == 0 {
		return fmt.Errorf("there is no %s %q: the database has no %s yet, they come with the first run of a consumer", what, name, plural)
	}
	return fmt.Errorf("there is no %s %q: the database has %s", what, name, strings.Join(there, ", "))
}

// collection returns the live build behind a collection.
func (p *program) collection(ctx context.Context, db Database, name string) (store.Processor, error) {
	ps, err := p.admin(db).Processors(ctx)
	if err != nil {
		return store.Processor{}, err
	}
	var names []string
	for _, proc := range ps {
		if proc.Collection == name && name != "" {
			return proc, nil
		}
		if proc.Collection != "" {
			names = append(names, proc.Collection)
		}
	}
	return store.Processor{}, unknown("collection", name, "collections", names)
}

// seen returns an error unless the log has an event of tenant: a name that is
// misspelt must not pass for a tenant without documents.
func (p *program) seen(ctx context.Context, db Database, tenant string) error {
	if err := event.CheckTenant(tenant); err != nil {
		return err
	}
	parts, err := p.log(db).Partitions(ctx)
	if err != nil {
		return err
	}
	counter, ok := p.log(db).(eventlog.Counter)
	if !ok {
		return nil
	}
	f := eventlog.Filter{Tenants: []string{tenant}}
	for part := range parts {
		n, _, err := counter.Count(ctx, part, f, event.Beginning, event.Unbounded, 1)
		if n > 0 || err != nil {
			return err
		}
	}
	return fmt.Errorf("there is no tenant %q: the log has no event of it", tenant)
}

// explain leaves out what an error of the administration says to programs only.
func explain(err error) error {
	for _, sentinel := range []error{fairlead.ErrState, fairlead.ErrUnknown} {
		if errors.Is(err, sentinel) {
			return errors.New(strings.TrimSuffix(err.Error(), ": "+sentinel.Error()))
		}
	}
	return err
}
