package cli

import (
	"fmt"

	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/spf13/cobra"
)

// stayJSON is where a tenant is, in JSON.
type stayJSON struct {
	Done   string `json:"done,omitempty"`
	Tenant string `json:"tenant"`
	Topic  string `json:"topic"`
	Own    bool   `json:"own"`
	Moves  int64  `json:"moves"`
	Moving bool   `json:"moving"`
	Marked bool   `json:"marked"`
}

func (p *program) moveTenantCommand() *cobra.Command {
	var o kafka.MoveTenant
	var to string
	var status bool
	c := &cobra.Command{
		Use:   "move TENANT",
		Short: "Move a tenant to a topic of its own, or back to the shared one",
		Long: `Move a tenant to a topic of its own, or back to the shared one, while consumers run.
Its producers (kafka.Producer) wait for about half a second; stop others that write
for it, and start them with the new place: what they write to the old one after the
move is parked. What was written before the move is applied before what is written
after it, by each processor for itself; other tenants do not wait for that. A dead
letter that holds up a key of the tenant holds up the tenant after the move: retry or
skip it. The records stay where they are, for rebuilds.
Interrupted, it leaves the tenant's producers waiting: repeat it, or take it back with
the place where the tenant was. --status says where it is.`,
		Example: `  $NAME tenants move acme --to own --partitions 6 --config fairlead.yaml
  $NAME tenants move acme --status`,
		Args: between(1, 1),
	}
	p.named(c)
	c.Flags().StringVar(&to, "to", "", "`PLACE`: own or shared")
	c.Flags().IntVar(&o.Partitions, "partitions", 1, "of the topic, if it is made: `N`")
	c.Flags().IntVar(&o.Replication, "replication", 0, "copies of each partition; default: the broker's")
	c.Flags().BoolVar(&status, "status", false, "change nothing, and say where the tenant is")
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case status && to != "":
			return Usagef("--status changes nothing: leave --to out")
		case !status && to != "own" && to != "shared":
			return Usagef("--to %q: own or shared", to)
		case o.Partitions < 1 || o.Replication < 0:
			return Usagef("--partitions %d, --replication %d: they must be positive", o.Partitions, o.Replication)
		}
		t, err := p.openTenants(c.Context(), c.CommandPath())
		if err != nil {
			return err
		}
		defer func() { _ = t.Close() }()
		if !status {
			o.Own = to == "own"
			if err := t.Move(c.Context(), args[0], o); err != nil {
				return fmt.Errorf("%w: see --status, and repeat the command", err)
			}
		}
		s, err := t.Stay(c.Context(), args[0])
		if err != nil {
			return err
		}
		out := stayJSON{Tenant: args[0], Topic: s.Topic, Own: s.Own, Moves: s.Moves, Moving: s.Moving, Marked: s.Marked}
		if !status {
			out.Done = "moved"
		}
		text := fmt.Sprintf("tenant %q is in topic %s", args[0], s.Topic)
		switch {
		case s.Moving && s.Marked:
			text += ", about to leave it: marked, repeat the command to end the move"
		case s.Moving:
			text += ", about to leave it: repeat the command to end the move"
		}
		return p.done(out, "%s", text)
	}
	return c
}
