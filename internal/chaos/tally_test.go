package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// The kinds of faults, as the list at the end of a run has them. All of them are in
// each run: the first faults of a schedule are one of each, in an order of its own.
const (
	killed          = "worker killed"
	stopped         = "worker stopped for longer than its lease"
	left            = "worker left and came back"
	cut             = "connections cut"
	slowed          = "network slow"
	swallowed       = "network a black hole"
	halved          = "connections half-open"
	serverFast      = "server restarted"
	serverCrashed   = "server stopped at once"
	serverKilled    = "server killed"
	appenderKilled  = "appender killed"
	brokerKilled    = "broker killed"
	brokerRestarted = "broker restarted"
	clock           = "clock shifted, and back beyond"
	poisoned        = "poison"
)

type weight struct {
	kind string
	of   int
}

// weighted are the kinds with how often they come, of a hundred.
var weighted = []weight{
	{killed, 15},
	{stopped, 12},
	{left, 12},
	{cut, 9},
	{slowed, 7},
	{swallowed, 9},
	{halved, 7},
	{serverFast, 1},
	{serverCrashed, 1},
	{serverKilled, 1},
	{appenderKilled, 5},
	{clock, 8},
	{poisoned, 13},
}

// What operators do, in the same list.
const (
	detached      = "tenant detached"
	merged        = "tenant merged"
	paused        = "tenant paused"
	resumed       = "tenant resumed"
	allPaused     = "processor paused"
	tenantRebuilt = "rebuild of a tenant begun"
	allRebuilt    = "rebuild begun"
	dedicated     = "tenant moved to the dedicated pool"
	shared        = "tenant moved back from the pool"
	toSplit       = "split of a partition asked for"
	toMerge       = "merge of two partitions asked for"
)

var operations = []string{detached, merged, paused, resumed, allPaused, tenantRebuilt, allRebuilt, dedicated, shared, toSplit, toMerge}

// wholeList is how long a run must be to have all of the list in it.
const wholeList = 90 * time.Second

// done counts what was done to the fleet, once it was.
func (f *fleet) done(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tally[kind]++
}

// happened prints what happened to the fleet, and reports what was to and did not.
// That it did is said by those to whom it happened, where they can: the triggers on
// the rows, and the processes that tell the outside system what time it is.
func (f *fleet) happened(ctx context.Context, witnessed []witnessed, length time.Duration, bad *findings) error {
	f.mu.Lock()
	kinds := slices.Clone(f.plan.operate)
	for _, w := range f.plan.kinds {
		kinds = append(kinds, w.kind)
	}
	counts := map[string]int{}
	for _, k := range kinds {
		counts[k] = f.tally[k]
	}
	f.mu.Unlock()
	if !clockShifts {
		delete(counts, clock)
		f.note("clocks are not shifted on this platform")
	}
	for _, q := range witnessed {
		n := 0
		var one int64
		if err := q.w.each(ctx, q.query, []any{&one}, func() { n += int(one) }); err != nil {
			return fmt.Errorf("%s: %w", q.kind, err)
		}
		counts[q.kind] = n
	}
	var list []string
	for k, n := range counts {
		list = append(list, fmt.Sprintf("%6d  %s", n, k))
		if n == 0 && length >= wholeList {
			bad.add("faults", "%s: never, in %v", k, length)
		}
	}
	slices.SortFunc(list, func(a, b string) int { return strings.Compare(a[8:], b[8:]) })
	f.note("what happened:\n%s", strings.Join(list, "\n"))
	return nil
}

// A witnessed is what somebody to whom it happened can count.
type witnessed struct {
	kind, query string
	w           witness
}

// ofOperators are what comes of what operators do.
func ofOperators(inside witness) []witnessed {
	return []witnessed{
		{"partitions split", "SELECT count(*) FROM chaos.cuts WHERE now > was AND lane LIKE '% '", inside},
		{"partitions merged", "SELECT count(*) FROM chaos.cuts WHERE now < was AND lane LIKE '% '", inside},
		{"rebuilds switched to", "SELECT count(*) FROM chaos.switches", inside},
		{"commits of dedicated tenants by the pool's workers", "SELECT count(*) FROM chaos.commits WHERE worker LIKE 'chaos-w0-%'", inside},
	}
}

func (f *fleet) witnessed(c, out *pgx.Conn) []witnessed {
	inside, outside := onServer(c), onServer(out)
	all := append(ofOperators(inside), []witnessed{
		{"take-overs from another process", "SELECT count(*) FROM chaos.takeovers", inside},
		{"clocks seen hours ahead", "SELECT count(*) FROM clocks WHERE off > interval '30 min'", outside},
		{"clocks seen hours behind", "SELECT count(*) FROM clocks WHERE off < interval '-30 min'", outside},
		{"effects by processes whose clock was hours off", "SELECT count(*) FROM effects WHERE abs(extract(epoch FROM off)) > 1800", outside},
	}...)
	if !clockShifts {
		all = slices.DeleteFunc(all, func(x witnessed) bool { return x.w == outside })
	}
	return all
}
