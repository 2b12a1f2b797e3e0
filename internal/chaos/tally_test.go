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
	killed         = "worker killed"
	stopped        = "worker stopped for longer than its lease"
	left           = "worker left and came back"
	cut            = "connections cut"
	slowed         = "network slow"
	swallowed      = "network a black hole"
	halved         = "connections half-open"
	serverFast     = "server restarted"
	serverCrashed  = "server stopped at once"
	serverKilled   = "server killed"
	appenderKilled = "appender killed"
	clock          = "clock shifted, and back beyond"
	poisoned       = "poison"
)

// weighted are the kinds with how often they come, of a hundred.
var weighted = []struct {
	kind string
	of   int
}{
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
func (f *fleet) happened(ctx context.Context, c, out *pgx.Conn, length time.Duration, bad *findings) error {
	f.mu.Lock()
	kinds := operations
	for _, w := range weighted {
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
	for _, q := range []struct {
		kind, query string
		c           *pgx.Conn
	}{
		{"partitions split", "SELECT count(*) FROM chaos.cuts WHERE now > was AND lane LIKE '% '", c},
		{"partitions merged", "SELECT count(*) FROM chaos.cuts WHERE now < was AND lane LIKE '% '", c},
		{"rebuilds switched to", "SELECT count(*) FROM chaos.switches", c},
		{"commits of dedicated tenants by the pool's workers", "SELECT count(*) FROM chaos.commits WHERE worker LIKE 'chaos-w0-%'", c},
		{"take-overs from another process", "SELECT count(*) FROM chaos.takeovers", c},
		{"clocks seen hours ahead", "SELECT count(*) FROM clocks WHERE off > interval '30 min'", out},
		{"clocks seen hours behind", "SELECT count(*) FROM clocks WHERE off < interval '-30 min'", out},
		{"effects by processes whose clock was hours off", "SELECT count(*) FROM effects WHERE abs(extract(epoch FROM off)) > 1800", out},
	} {
		if q.c == out && !clockShifts {
			continue
		}
		var n int
		if err := q.c.QueryRow(ctx, q.query).Scan(&n); err != nil {
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
