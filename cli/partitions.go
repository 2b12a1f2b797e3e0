package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/spf13/cobra"
)

// partitionJSON is a partition of a processor in JSON.
type partitionJSON struct {
	Partition int         `json:"partition"`
	Of        int         `json:"of"`
	Want      int         `json:"want,omitempty"` // what of is to become
	State     store.State `json:"state"`
	Position  int64       `json:"position"`
	Behind    int64       `json:"behind"`
	AtMost    bool        `json:"behind_at_most,omitempty"` // as of lanes
	Tenants   int         `json:"tenant_lanes"`
	Waits     string      `json:"waits_for,omitempty"` // why what is wanted is not done yet
	Reason    string      `json:"reason,omitempty"`
}

func (p *program) partitionsCommand() *cobra.Command {
	list := &cobra.Command{
		Use:   "list PROCESSOR",
		Short: "Show the partitions of a processor",
		Long: `Show the partitions of a processor: number I OF N has the keys whose hash modulo
N is I. TO BE says what was asked for and is not done yet, and for what it waits.`,
		Example: `  $NAME partitions list orders`,
		Args:    between(1, 1),
	}
	p.named(list)
	p.onDatabase(list, Read, func(ctx context.Context, db Database, args []string) error {
		rows, err := p.partitions(ctx, db, args[0])
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(map[string]any{"partitions": rows})
		}
		t := newTable(p.Stdout, "PARTITION", "STATE", "POSITION", "BEHIND", "TENANT LANES", "TO BE", "REASON")
		for _, r := range rows {
			want := ""
			switch {
			case r.Want > r.Of:
				want = "split"
			case r.Want > 0:
				want = fmt.Sprintf("merged into %d of %d", r.Partition%r.Want, r.Want)
			}
			if r.Waits != "" {
				want += ": " + r.Waits
			}
			t.row(fmt.Sprintf("%d of %d", r.Partition, r.Of), string(r.State), r.Position, behind(r.Behind, r.AtMost), r.Tenants, want, short(r.Reason, 200))
		}
		return t.flush()
	})

	split := p.onPartition(&cobra.Command{
		Use:   "split PROCESSOR [PARTITION]",
		Short: "Split one partition in two, or each",
		Long: `Split one partition of a processor in two, or each, so that more processes can
share the work. A running consumer does it at once; other lanes do not stop.`,
		Example: `  $NAME partitions split orders
  $NAME partitions split orders 3`,
		Args: between(1, 2),
	}, func(ctx context.Context, a fairlead.Admin, processor string, partition int) error {
		if err := a.SplitPartition(ctx, processor, partition); err != nil {
			return err
		}
		return p.done(cut("splitting", processor, partition), "%s is split by its consumers; partitions list shows how far that is", share(processor, partition))
	})
	merge := p.onPartition(&cobra.Command{
		Use:   "merge PROCESSOR PARTITION",
		Short: "Merge a partition with its other half",
		Long: `Merge a partition with the one that it was split from, or that was split from
it. A running consumer does it when both are near each other, and no tenant of
them has a lane of its own; partitions list shows for what it waits.`,
		Example: `  $NAME partitions merge orders 3`,
		Args:    between(2, 2),
	}, func(ctx context.Context, a fairlead.Admin, processor string, partition int) error {
		if err := a.MergePartition(ctx, processor, partition); err != nil {
			return err
		}
		return p.done(cut("merging", processor, partition), "%s is merged by its consumers; partitions list shows how far that is", share(processor, partition))
	})
	cancel := p.onPartition(&cobra.Command{
		Use:     "cancel PROCESSOR",
		Short:   "Take back splits and merges that are not done yet",
		Long:    "Take back the splits and merges of a processor's partitions that are not done yet.",
		Example: `  $NAME partitions cancel orders`,
		Args:    between(1, 1),
	}, func(ctx context.Context, a fairlead.Admin, processor string, _ int) error {
		n, err := a.CancelPartitions(ctx, processor)
		if err != nil {
			return err
		}
		return p.done(map[string]any{"done": "cancelled", "processor": processor, "partitions": n}, "processor %q: %d partitions stay as they are", processor, n)
	})
	return group(&cobra.Command{
		Use:   "partitions",
		Short: "Show, split and merge the partitions of a processor",
		Long: `Show, split and merge the partitions of a processor while it runs. Each is the
share of one lane: as many processes can share the work as there are partitions.`,
	}, list, split, merge, cancel)
}

// onPartition is a command PROCESSOR [PARTITION]; partition is -1 without.
func (p *program) onPartition(c *cobra.Command, f func(ctx context.Context, a fairlead.Admin, processor string, partition int) error) *cobra.Command {
	p.named(c)
	return p.onDatabase(c, Write, func(ctx context.Context, db Database, args []string) error {
		partition := -1
		if len(args) == 2 {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 0 {
				return Usagef("partition %q is no number from 0: see partitions list", args[1])
			}
			partition = n
		}
		if _, err := p.processors(ctx, db, args[0]); err != nil {
			return err
		}
		return explain(f(ctx, p.admin(db), args[0], partition))
	})
}

// partitions returns the partitions of a processor.
func (p *program) partitions(ctx context.Context, db Database, processor string) ([]partitionJSON, error) {
	ps, err := p.processors(ctx, db, processor)
	if err != nil {
		return nil, err
	}
	lanes, err := p.admin(db).Lanes(ctx, processor)
	if err != nil {
		return nil, err
	}
	rows, at := []partitionJSON{}, map[int]int{}
	for i := range lanes {
		l := &lanes[i]
		if !l.Live {
			continue
		}
		if l.Tenant == "" {
			at[l.Partition] = len(rows)
			rows = append(rows, partitionJSON{
				Partition: l.Partition, Of: l.Of, Want: l.Want, State: l.State, Position: int64(l.Position), Behind: l.Behind, AtMost: l.AtMost, Reason: l.Reason,
			})
			continue
		}
		r := &rows[at[l.Partition]] // a base lane comes before its tenants'
		if r.Tenants++; r.Want > 0 && r.Want < r.Of && r.Waits == "" {
			r.Waits = fmt.Sprintf("tenant %q has a lane of its own", l.Tenant)
			switch {
			case l.State == store.Paused:
				r.Waits += ", paused: resume it"
			case l.Pool != "":
				r.Waits += fmt.Sprintf(", in pool %q: clear its pool", l.Pool)
			case l.Pinned:
				r.Waits += ", pinned: merge it"
			}
		}
	}
	for i := range rows {
		r := &rows[i]
		switch {
		case r.Want == 0 || r.Waits != "":
		case ps[0].Rebuild != 0:
			r.Waits = "the processor is being rebuilt"
		case r.State == store.Paused:
			r.Waits = "it is stopped: resume the processor"
		}
	}
	return rows, nil
}

func cut(what, processor string, partition int) map[string]any {
	m := map[string]any{"done": what, "processor": processor}
	if partition >= 0 {
		m["partition"] = partition
	}
	return m
}

func share(processor string, partition int) string {
	if partition < 0 {
		return fmt.Sprintf("each partition of processor %q", processor)
	}
	return fmt.Sprintf("partition %d of processor %q", partition, processor)
}
