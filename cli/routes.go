package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/ops"
	"github.com/spf13/cobra"
)

// routes are those of the file's ledger.
func (p *program) routes(db Database) *ops.Routes {
	r := p.topic.id.Router
	token := ""
	if c := p.file.Consumer; c != nil {
		token = c.RoutesToken
	}
	return &ops.Routes{Token: token, Ledger: p.topic.ledger, Log: p.topic.LedgerLog(), Service: r.Service(), Names: r.Names(), Class: r.TestClass(), Store: db, Bind: p.topic.Bind}
}

// onRoutes is onDatabase for a command that needs a ledger.
func (p *program) onRoutes(c *cobra.Command, f func(ctx context.Context, r *ops.Routes, args []string) error) *cobra.Command {
	p.named(c)
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, args []string) error {
		if p.topic == nil || p.topic.ledger == nil {
			return errors.New("there is no route ledger: give a file with --config, or " + EnvConfig + ", in which consumer.ledger names one")
		}
		err := f(ctx, p.routes(db), args)
		if e, ok := errors.AsType[*ops.RouteError](err); ok && e.Status == 400 {
			return Usagef("%w", err)
		}
		return err
	})
}

func (p *program) routesCommand() *cobra.Command {
	var all bool
	c := group(&cobra.Command{
		Use:   "routes",
		Short: "Show sandboxes and routes to them; name, show, remove and close them",
		Long: `Tests in production: which sandboxes are registered in the route ledger of the file
(consumer.ledger), and routes with names. WAITING are events that the baseline
keeps until the sandbox has processed them, or is gone.`,
		Example: `  $NAME routes --config shop.yaml
  $NAME routes --all --json`,
	}, p.setRoute(), p.showRoute(), p.removeRoute(), p.closeHost())
	c.Flags().BoolVar(&all, "all", false, "those that are closed too")
	list := p.onRoutes(c, func(ctx context.Context, r *ops.Routes, _ []string) error {
		status, err := r.Status(ctx, all)
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(status)
		}
		t := newTable(p.Stdout, "HOST", "SERVICE", "NO", "STATE", "POSITIONS", "WAITING", "LEASE", "STORE")
		for _, s := range status.Sandboxes {
			lease := time.Time{}
			if s.State != "closed" {
				lease = s.Lease
			}
			t.row(s.Host, s.Service, s.Generation, s.State, positions(s.Partitions), s.Waiting, lease, s.Store)
		}
		if err := t.flush(); err != nil || len(status.Routes) == 0 {
			return err
		}
		fmt.Fprintln(p.Stdout)
		t = newTable(p.Stdout, "ROUTE", "TO")
		for _, n := range status.Routes {
			t.row(n.Name, routeText(n.Route))
		}
		return t.flush()
	})
	run := list.RunE
	list.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		return run(c, args)
	}
	list.Args = nil
	return list
}

// positions writes intervals as 0:12-40 1:7-.
func positions(all []ops.IntervalJSON) string {
	var out []string
	for _, i := range all {
		switch {
		case i.From == nil:
			out = append(out, fmt.Sprintf("%d:?", i.Partition))
		case i.To == nil:
			out = append(out, fmt.Sprintf("%d:%d-", i.Partition, *i.From))
		default:
			out = append(out, fmt.Sprintf("%d:%d-%d", i.Partition, *i.From, *i.To))
		}
	}
	return strings.Join(out, " ")
}

func routeText(route map[string]string) string {
	var out []string
	for service, host := range route {
		out = append(out, service+"="+host)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

func (p *program) setRoute() *cobra.Command {
	c := &cobra.Command{
		Use:   "set NAME SERVICE=HOST,...",
		Short: "Give a route a name",
		Long: `Give a route a name, or change the route of that name: for each service the host
label of a sandbox. Events that were sent before keep the route that they have, also
those that carry the name as a routing key: what is sent from now on goes by the new
route.`,
		Example: `  $NAME routes set checkout orders=pr-42,mail=pr-42`,
		Args:    between(2, 2),
	}
	return p.onRoutes(c, func(ctx context.Context, r *ops.Routes, args []string) error {
		route := map[string]string{}
		for entry := range strings.SplitSeq(args[1], ",") {
			service, host, ok := strings.Cut(strings.TrimSpace(entry), "=")
			if _, twice := route[service]; !ok || twice {
				return Usagef("%q: a route is SERVICE=HOST,..., each service once", args[1])
			}
			route[service] = host
		}
		n, absent, err := r.Set(ctx, args[0], route)
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(n)
		}
		text := fmt.Sprintf("route %s is %s", n.Name, routeText(n.Route))
		if len(absent) > 0 {
			text += fmt.Sprintf("; no sandbox %s is open now: until there is one, the baseline has what is routed to it", strings.Join(absent, ", "))
		}
		return p.done(nil, "%s", text)
	})
}

func (p *program) showRoute() *cobra.Command {
	c := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show the headers to send for a route",
		Long:    `Show the headers to send for a route, in the names of the file's consumer.headers.`,
		Example: `  $NAME routes show checkout`,
		Args:    between(1, 1),
	}
	return p.onRoutes(c, func(ctx context.Context, r *ops.Routes, args []string) error {
		n, err := r.Show(ctx, args[0])
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(n)
		}
		for _, h := range n.Headers {
			fmt.Fprintln(p.Stdout, printable(h))
		}
		return nil
	})
}

func (p *program) removeRoute() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove the name of a route",
		Long: `Remove the name of a route. Events that were sent with it keep their route. As a
routing key it names no sandbox from now on: what is sent with it is the baseline's.`,
		Example: `  $NAME routes remove checkout`,
		Args:    between(1, 1),
	}
	return p.onRoutes(c, func(ctx context.Context, r *ops.Routes, args []string) error {
		if err := r.Remove(ctx, args[0]); err != nil {
			return err
		}
		return p.done(map[string]string{"done": "removed", "name": args[0]}, "route %s is removed", args[0])
	})
}

func (p *program) closeHost() *cobra.Command {
	c := &cobra.Command{
		Use:   "close HOST",
		Short: "Close a sandbox: what it has not processed is the baseline's",
		Long: `Close the registration of a sandbox, whether it runs or not. What it has not
committed by now is the baseline's, and nothing that it does from now on counts:
its processes end. Started again it registers anew.`,
		Example: `  $NAME routes close pr-42`,
		Args:    between(1, 1),
	}
	return p.onRoutes(c, func(ctx context.Context, r *ops.Routes, args []string) error {
		if err := r.Close(ctx, args[0]); err != nil {
			return err
		}
		return p.done(map[string]string{"done": "closed", "host": args[0]}, "sandbox %s is closed", args[0])
	})
}
