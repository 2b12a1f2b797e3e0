package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/spf13/cobra"
)

func (p *program) planCommand() *cobra.Command {
	var d layout.Demand
	var size string
	c := &cobra.Command{
		Use:   "plan",
		Short: "From tenants, topics and rates to Kafka partitions, memory and a layout",
		Long: `Work out what tenants need of a Kafka cluster, for each layout: a topic per tenant,
topics that all share, or a mixture, with topics of their own for large tenants.
Every figure comes with its arithmetic. No cluster is asked.`,
		Example: `  $NAME plan --tenants 2000 --brokers 6 --rate 5000
  $NAME plan --tenants 100 --topics 3 --partitions 3 --replication 3 --broker-size large
  $NAME plan --tenants 2000 --large 5 --large-share 0.6 --rate 20000 --handler-ms 4`,
		Args: between(0, 0),
	}
	p.named(c)
	sizes := slices.SortedFunc(maps.Keys(layout.BrokerSizes), func(x, y string) int { return layout.BrokerSizes[x] - layout.BrokerSizes[y] })
	f, std := c.Flags(), (layout.Demand{}).Defaults()
	f.IntVar(&d.Tenants, "tenants", 0, "how many tenants there are, or are to be")
	f.IntVar(&d.Large, "large", 0, "how many of them are large")
	f.Float64Var(&d.LargeShare, "large-share", 0, "share of all events that the large ones have, 0 to 1")
	f.IntVar(&d.Topics, "topics", std.Topics, "topics of a tenant")
	f.IntVar(&d.Partitions, "partitions", std.Partitions, "partitions of a tenant's own topic")
	f.IntVar(&d.Replication, "replication", std.Replication, "copies of each partition")
	f.IntVar(&d.Brokers, "brokers", 0, "brokers; default: as many as copies")
	f.StringVar(&size, "broker-size", "large", "partitions that a broker should have, copies counted: a number, or "+strings.Join(sizes, ", "))
	f.Float64Var(&d.Rate, "rate", 0, "events per second of all tenants at their peak; default: one of each tenant")
	f.IntVar(&d.EventBytes, "event-bytes", std.EventBytes, "bytes of an event with key and headers, compressed")
	f.Float64Var(&d.HandlerMS, "handler-ms", std.HandlerMS, "milliseconds of a worker for an event")
	f.IntVar(&d.Workers, "workers", std.Workers, "events that a process handles at once")
	f.Float64Var(&d.Retention, "retention", std.Retention, "hours that events are kept")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if !c.Flags().Changed("tenants") {
			return Usagef("%s needs --tenants: see %s --help", c.CommandPath(), c.CommandPath())
		}
		n, known := layout.BrokerSizes[size]
		if !known {
			var err error
			if n, err = strconv.Atoi(size); err != nil || n < 1 {
				return Usagef("--broker-size %q is neither a number of partitions nor one of %s", size, strings.Join(sizes, ", "))
			}
		}
		for _, name := range []string{"topics", "partitions", "replication", "brokers", "event-bytes", "workers", "handler-ms", "retention", "rate"} {
			if x := c.Flags().Lookup(name); x.Changed && (x.Value.String() == "0" || strings.HasPrefix(x.Value.String(), "-")) {
				return Usagef("--%s %s: it must be positive", name, x.Value)
			}
		}
		d.PerBroker = n
		planned, err := layout.Plan(d)
		if err != nil {
			return Usagef("%w", err)
		}
		if p.JSON {
			return p.writeJSON(planned)
		}
		return p.writePlan(&planned)
	}
	return c
}

func (p *program) writePlan(planned *layout.Planned) error {
	w := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	steps := func(title string, steps []layout.Step) {
		fmt.Fprintf(w, "%s\n", title)
		for _, s := range steps {
			fmt.Fprintf(w, "  %s\t%s\t= %s\n", s.What, s.How, s.Is)
		}
	}
	steps(fmt.Sprintf("%d tenants", planned.Demand.Tenants), planned.Common)
	for _, o := range planned.Options {
		fits := ""
		if !o.Fits {
			fits = ": DOES NOT FIT"
		}
		steps(fmt.Sprintf("\n%s%s", o.Kind, fits), o.Steps)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if planned.Recommended == "" {
		_, err := fmt.Fprintf(p.Stdout, "\nRecommended: none: %s\n", planned.Because)
		return err
	}
	_, err := fmt.Fprintf(p.Stdout, "\nRecommended: %s, because %s\n", planned.Recommended, planned.Because)
	return err
}
