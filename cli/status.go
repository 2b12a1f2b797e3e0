package cli

import (
	"cmp"
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

// processorJSON is a processor in the output of status.
type processorJSON struct {
	Name        string       `json:"name"`
	Kind        string       `json:"kind"`
	Version     string       `json:"version,omitempty"`
	State       string       `json:"state"` // running, paused, stopped, or unowned: no consumer has it
	Documents   int64        `json:"documents"`
	Position    int64        `json:"position"` // of the lane furthest behind
	Behind      int64        `json:"behind"`   // events, among the next million of each lane
	AtMost      bool         `json:"behind_at_most,omitempty"`
	Lag         float64      `json:"lag_seconds"`
	Lanes       int          `json:"lanes"`
	Partitions  int          `json:"partitions"`
	Recut       int          `json:"partitions_to_recut,omitempty"` // that are to be split or merged
	TenantLanes int          `json:"tenant_lanes"`
	Unowned     int          `json:"unowned_lanes"`      // that should be worked and that no live consumer has
	Unserved    []string     `json:"unserved,omitempty"` // why, where no process may work a lane, and what to do
	Parked      int          `json:"parked_keys"`
	Rebuild     *rebuildJSON `json:"rebuild,omitempty"`
	Kept        *keptJSON    `json:"kept,omitempty"`
}

// keptJSON is a build that rebuild back goes back to.
type keptJSON struct {
	Build   int64     `json:"build"`
	Tenant  string    `json:"tenant,omitempty"`
	Version string    `json:"version,omitempty"`
	Until   time.Time `json:"until"`
}

type rebuildJSON struct {
	Build    int64  `json:"build"`
	Tenant   string `json:"tenant,omitempty"`
	Position int64  `json:"position"`
	Version  string `json:"version,omitempty"` // of the code that makes it
	Review   bool   `json:"review,omitempty"`  // an operator says when to switch
	Limit    int64  `json:"limit,omitempty"`   // events a second
	Waits    string `json:"waits_for"`
}

type memberJSON struct {
	ID    string     `json:"id"`
	Host  string     `json:"host"`
	Since *time.Time `json:"since"`
	Alive bool       `json:"alive"`
	Pool  string     `json:"pool,omitempty"`
}

// holderJSON is a transaction that readers wait for.
type holderJSON struct {
	PID         int        `json:"pid,omitempty"`
	Prepared    string     `json:"prepared,omitempty"`
	Application string     `json:"application,omitempty"`
	User        string     `json:"user"`
	State       string     `json:"state,omitempty"`
	Since       *time.Time `json:"since"`
	Age         float64    `json:"age_seconds"`
}

type statusJSON struct {
	Database   string          `json:"database"`
	Heads      []int64         `json:"heads"`   // of the log's partitions
	Holders    []holderJSON    `json:"holders"` // who holds the heads back
	Processors []processorJSON `json:"processors"`
	Members    []memberJSON    `json:"members"`
}

func (p *program) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the processors: their state, documents and lag",
		Long: `Show the log, the processors and the processes that run them. STATE is running;
paused by hand; stopped, with the reason in lanes; or unowned: no consumer has
any of its lanes, or as many as are said. REBUILD says how far it is, and what it
waits for. BEHIND is how many events it has still to look at, LAG the age of the first;
with <= it is at most so many, as some are counted for several lanes (see lanes).
A transaction that has appended events and is still open holds all readers back: then it is named.`,
		Example: `  $NAME status --db shop.db`,
		Args:    between(0, 0),
	}
	p.named(c)
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, _ []string) error {
		s, err := p.status(ctx, db)
		if err != nil {
			return err
		}
		if p.JSON {
			return p.writeJSON(s)
		}
		for i, h := range s.Heads {
			fmt.Fprintf(p.Stdout, "log partition %d: up to position %s\n", i, thousands(h))
		}
		if err := p.writeHolders(s.Holders); err != nil {
			return err
		}
		fmt.Fprintln(p.Stdout)
		if len(s.Processors) == 0 {
			fmt.Fprintln(p.Stdout, "no processors: a program that has some makes them at its first run; if there should be any, check --db and the schema in it")
		}
		t := newTable(p.Stdout, "PROCESSOR", "KIND", "STATE", "DOCUMENTS", "BEHIND", "LAG", "PARTITIONS", "LANES", "OF TENANTS", "PARKED KEYS", "REBUILD")
		for _, r := range s.Processors {
			rebuild := ""
			if r.Rebuild != nil {
				rebuild = "at " + thousands(r.Rebuild.Position)
				if r.Rebuild.Tenant != "" {
					rebuild += " of " + r.Rebuild.Tenant
				}
				rebuild += ", waits for " + r.Rebuild.Waits
			} else if r.Kept != nil {
				rebuild = fmt.Sprintf("build %d kept until %s", r.Kept.Build, r.Kept.Until.Format(time.DateTime))
			}
			state := r.State
			if r.Unowned > 0 && state == "running" {
				state = fmt.Sprintf("%d unowned", r.Unowned)
			}
			t.row(r.Name, r.Kind, state, r.Documents, behind(r.Behind, r.AtMost), seconds(r.Lag), r.Partitions, r.Lanes, r.TenantLanes, r.Parked, rebuild)
		}
		if err := t.flush(); err != nil {
			return err
		}
		fmt.Fprintln(p.Stdout)
		t = newTable(p.Stdout, "CONSUMER", "HOST", "POOL", "SINCE", "ALIVE")
		for _, m := range s.Members {
			var since time.Time
			if m.Since != nil {
				since = *m.Since
			}
			t.row(m.ID, m.Host, m.Pool, since, m.Alive)
		}
		if err := t.flush(); err != nil {
			return err
		}
		for _, r := range s.Processors {
			for _, why := range r.Unserved {
				fmt.Fprintf(p.Stdout, "\nprocessor %s: %s\n", printable(r.Name), printable(why))
			}
		}
		return nil
	})
}

// writeHolders says whom readers of the log wait for.
func (p *program) writeHolders(holders []holderJSON) error {
	if len(holders) == 0 {
		return nil
	}
	fmt.Fprintf(p.Stdout, "\nreaders wait for %d open transactions that have appended events:\n", len(holders))
	t := newTable(p.Stdout, "PID", "APPLICATION", "USER", "STATE", "AGE")
	var end []string
	for _, h := range holders {
		pid, state, age := fmt.Sprint(h.PID), h.State, "unknown"
		if h.Prepared != "" {
			pid, state = "prepared", fmt.Sprintf("%q: COMMIT PREPARED or ROLLBACK PREPARED", h.Prepared)
		}
		if h.Since != nil {
			age = seconds(h.Age).Round(time.Second).String()
		}
		t.row(pid, h.Application, h.User, state, age)
		if h.Prepared == "" {
			end = append(end, fmt.Sprintf("SELECT pg_terminate_backend(%d)", h.PID))
		}
	}
	if err := t.flush(); err != nil || len(end) == 0 {
		return err
	}
	_, err := fmt.Fprintf(p.Stdout, "let them commit, or end those that will not: %s\n", strings.Join(end, "; "))
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (p *program) status(ctx context.Context, db Database) (statusJSON, error) {
	s := statusJSON{Database: withoutPassword(p.db), Heads: []int64{}, Holders: []holderJSON{}, Processors: []processorJSON{}, Members: []memberJSON{}}
	parts, err := p.log(db).Partitions(ctx)
	if err != nil {
		return s, err
	}
	for i := range parts {
		h, err := p.log(db).Head(ctx, i)
		if err != nil {
			return s, err
		}
		s.Heads = append(s.Heads, int64(h))
	}
	holders, err := p.admin(db).Holders(ctx)
	if err != nil {
		return s, err
	}
	for _, h := range holders {
		j := holderJSON{PID: h.PID, Prepared: h.Prepared, Application: h.Application, User: h.User, State: h.State, Since: stamp(h.Since)}
		if j.Since != nil {
			j.Age = max(0, time.Since(h.Since).Seconds())
		}
		s.Holders = append(s.Holders, j)
	}
	lanes, err := p.admin(db).Lanes(ctx, "")
	if err != nil {
		return s, err
	}
	err = db.View(ctx, func(tx store.Tx) error {
		s.Processors = s.Processors[:0]
		ps, err := tx.Processors()
		if err != nil {
			return err
		}
		for _, proc := range ps {
			r := summary(proc, lanes)
			if r.Documents, err = tx.CountDocuments(store.Build{Processor: proc.Name, Number: proc.Live}, ""); err != nil {
				return err
			}
			s.Processors = append(s.Processors, r)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	members, err := p.admin(db).Members(ctx)
	for _, m := range members {
		s.Members = append(s.Members, memberJSON{m.ID, m.Host, stamp(m.Since), m.Alive, m.Pool})
	}
	return s, err
}

// summary makes one row of a processor's lanes.
func summary(proc store.Processor, lanes []fairlead.Lane) processorJSON {
	r := processorJSON{Name: proc.Name, Kind: proc.Kind, Version: proc.Version, State: "running"}
	if proc.Rebuild != 0 {
		m := proc.Builds.Making
		r.Rebuild = &rebuildJSON{Build: proc.Rebuild, Tenant: proc.RebuildTenant, Position: -1, Version: m.Version, Review: m.Review, Limit: m.Limit,
			Waits: fairlead.RebuildWaits(proc, lanes)}
	}
	if k := proc.Builds.Kept; k.Number != 0 {
		r.Kept = &keptJSON{k.Number, k.Tenant, k.Version, k.Until}
	}
	lowest, first, unowned, stopped := event.Unbounded, true, true, false
	var lag time.Duration
	for i := range lanes {
		l := &lanes[i]
		if l.Processor != proc.Name {
			continue
		}
		if !l.Live {
			if r.Rebuild != nil && l.Number == proc.Rebuild && (r.Rebuild.Position < 0 || int64(l.Position) < r.Rebuild.Position) {
				r.Rebuild.Position = int64(l.Position)
			}
			if l.Number == proc.Rebuild && !l.Alive && l.State != store.Paused && !proc.Paused {
				r.unserved(l)
			}
			continue
		}
		if first || l.Position < lowest {
			lowest, first = l.Position, false
		}
		r.Lanes++
		if l.Tenant != "" {
			r.TenantLanes++
		} else if r.Partitions++; l.Want != 0 {
			r.Recut++
		}
		if l.Tenant == "" && l.State == store.Paused {
			stopped = true
		}
		unowned = unowned && !l.Alive && l.State != store.Recut
		if !l.Alive && l.State != store.Paused && l.State != store.Recut && !proc.Paused {
			r.Unowned++
			r.unserved(l)
		}
		r.Behind += l.Behind
		r.AtMost = r.AtMost || l.AtMost
		r.Parked += l.Parked
		lag = max(lag, l.Lag)
	}
	if !first {
		r.Position = int64(lowest)
	}
	r.Lag = lag.Seconds()
	switch {
	case proc.Paused:
		r.State = "paused"
	case stopped:
		r.State = "stopped"
	case unowned:
		r.State = "unowned"
	}
	return r
}

// unserved notes why nobody may work a lane, once for all partitions.
func (r *processorJSON) unserved(l *fairlead.Lane) {
	why := l.Unserved
	if why == "" {
		return
	}
	if l.Tenant != "" {
		why = fmt.Sprintf("tenant %q: %s", l.Tenant, why)
	}
	if !slices.Contains(r.Unserved, why) {
		r.Unserved = append(r.Unserved, why)
	}
}

// laneJSON is a lane in JSON.
type laneJSON struct {
	Processor  string          `json:"processor"`
	Build      int64           `json:"build"`
	Live       bool            `json:"live"`           // false: of a rebuild
	Kept       bool            `json:"kept,omitempty"` // of the build before the last switch
	Partition  int             `json:"partition"`
	Of         int             `json:"of"`               // the lane has the keys whose hash modulo this is partition
	Want       int             `json:"want,omitempty"`   // what that is to become
	Tenant     string          `json:"tenant,omitempty"` // none: the base lane
	State      store.State     `json:"state"`
	Reason     string          `json:"reason,omitempty"`
	Pinned     bool            `json:"pinned"`
	Position   int64           `json:"position"`
	Behind     int64           `json:"behind"`
	AtMost     bool            `json:"behind_at_most,omitempty"` // it counts events of other lanes too
	Lag        float64         `json:"lag_seconds"`
	Parked     int             `json:"parked_keys"`
	Owner      string          `json:"owner,omitempty"`
	Alive      bool            `json:"alive"`
	Pool       string          `json:"pool,omitempty"`     // of its tenant
	Unserved   string          `json:"unserved,omitempty"` // why nobody has it
	Epoch      int64           `json:"epoch"`
	Exclusions []exclusionJSON `json:"exclusions,omitempty"`
	AppliedAt  *time.Time      `json:"applied_at"`
	UpdatedAt  *time.Time      `json:"updated_at"`
}

type exclusionJSON struct {
	Tenant string `json:"tenant"`
	Until  *int64 `json:"until"` // null: until further notice
}

func (p *program) lanesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "lanes [PROCESSOR]",
		Short: "Show the lanes: position, lag, owner, state",
		Long: `Show the lanes of a processor, or of all. A lane without a tenant is the base
lane of its partition: of the keys whose hash modulo so many is its number.
EXCLUDES says how many tenants are, or were just now, in lanes of their own. A
build beside the live one is a rebuild in the making, or kept for rebuild back.
BEHIND is how many of the lane's events are among the next million that it is to
read. With <= it counts events of other lanes too: the log cannot count, or which
lane has them only the processor's own code can tell (PartitionBy), or no consumer
of this version or a later one has run yet.`,
		Example: `  $NAME lanes orders --db shop.db`,
		Args:    between(0, 1),
	}
	p.named(c)
	return p.onDatabase(c, Read, func(ctx context.Context, db Database, args []string) error {
		name := ""
		if len(args) == 1 {
			name = args[0]
			if _, err := p.processors(ctx, db, name); err != nil {
				return err
			}
		}
		lanes, err := p.admin(db).Lanes(ctx, name)
		if err != nil {
			return err
		}
		if p.JSON {
			rows := make([]laneJSON, len(lanes))
			for i := range lanes {
				rows[i] = laneOf(&lanes[i])
			}
			return p.writeJSON(map[string]any{"lanes": rows})
		}
		t := newTable(p.Stdout, "LANE", "TENANT", "STATE", "POSITION", "BEHIND", "LAG", "EXCLUDES", "PARKED KEYS", "OWNER", "UPDATED", "REASON")
		for i := range lanes {
			l := &lanes[i]
			name := fmt.Sprintf("%s/%d", l.Processor, l.Partition)
			if l.Of > 1 {
				name += fmt.Sprintf(" of %d", l.Of)
			}
			switch {
			case l.Kept:
				name += fmt.Sprintf(" (build %d, kept)", l.Number)
			case !l.Live:
				name += fmt.Sprintf(" (build %d)", l.Number)
			}
			state := string(l.State)
			if l.Pinned {
				state += ", pinned"
			}
			if l.Pool != "" {
				state += ", pool " + l.Pool
			}
			owner := l.Owner
			if owner != "" && !l.Alive {
				owner += " (dead)"
			}
			t.row(name, l.Tenant, state, int64(l.Position), behind(l.Behind, l.AtMost), l.Lag, len(l.Exclusions), l.Parked, owner, l.UpdatedAt, short(cmp.Or(l.Reason, l.Unserved), 80))
		}
		return t.flush()
	})
}

// behind shows a number of events, with <= where it is an upper bound.
func behind(n int64, atMost bool) string {
	if atMost && n > 0 {
		return "<=" + thousands(n)
	}
	return thousands(n)
}

func laneOf(l *fairlead.Lane) laneJSON {
	j := laneJSON{
		Processor: l.Processor, Build: l.Number, Live: l.Live, Kept: l.Kept, Partition: l.Partition, Of: l.Of, Want: l.Want, Tenant: l.Tenant,
		State: l.State, Reason: l.Reason, Pinned: l.Pinned, Position: int64(l.Position), Behind: l.Behind, AtMost: l.AtMost,
		Lag: l.Lag.Seconds(), Parked: l.Parked, Owner: l.Owner, Alive: l.Alive, Pool: l.Pool, Unserved: l.Unserved, Epoch: l.Epoch,
		AppliedAt: stamp(l.AppliedAt), UpdatedAt: stamp(l.UpdatedAt),
	}
	for _, t := range sortedKeys(l.Exclusions) {
		x := exclusionJSON{Tenant: t}
		if until := int64(l.Exclusions[t]); until != int64(event.Unbounded) {
			x.Until = &until
		}
		j.Exclusions = append(j.Exclusions, x)
	}
	return j
}
