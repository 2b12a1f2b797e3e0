package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-dev/fairlead/store"
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

// switched is what is to come of rebuilds.
const switched = "rebuilds switched to"

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
		n, err := q.count(ctx)
		if err != nil {
			return err
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
	of          string // the kind of faults that it comes of; "": of what operators do, or of all
}

// witnessed are what can be counted in a fleet's store, and in the outside system.
func (f *fleet) witnessed(in witness, out *pgx.Conn) []witnessed {
	terms := witnessed{kind: "terms of lanes", query: "SELECT count(*) FROM (SELECT DISTINCT lane, epoch FROM " + in.table("commits") + ") AS terms", w: in}
	if f.lite != nil {
		return []witnessed{terms}
	}
	all := []witnessed{
		{kind: switched, query: "SELECT count(*) FROM chaos.switches", w: in},
		{kind: "take-overs from another process", query: "SELECT count(*) FROM chaos.takeovers", w: in, of: killed},
	}
	if f.topic != nil {
		return append(all, terms)
	}
	all = append(all, []witnessed{
		{kind: "partitions split", query: "SELECT count(*) FROM chaos.cuts WHERE now > was AND lane LIKE '% '", w: in},
		{kind: "partitions merged", query: "SELECT count(*) FROM chaos.cuts WHERE now < was AND lane LIKE '% '", w: in},
		{kind: "commits of dedicated tenants by the pool's workers", query: "SELECT count(*) FROM chaos.commits WHERE worker LIKE 'chaos-w0-%'", w: in},
	}...)
	if outside := onServer(out); clockShifts {
		all = append(all, []witnessed{
			{"clocks seen hours ahead", "SELECT count(*) FROM clocks WHERE off > interval '30 min'", outside, clock},
			{"clocks seen hours behind", "SELECT count(*) FROM clocks WHERE off < interval '-30 min'", outside, clock},
			{"effects by processes whose clock was hours off", "SELECT count(*) FROM effects WHERE abs(extract(epoch FROM off)) > 1800", outside, clock},
		}...)
	}
	return all
}

// owed returns the kinds of faults that have not been done yet, or of which nothing
// has come; "" stands for what operators do.
func (f *fleet) owed(ctx context.Context) (kinds []string) {
	if slices.ContainsFunc(f.plan.operate, f.never) {
		kinds = append(kinds, "")
	}
	for _, w := range f.plan.kinds {
		if f.never(w.kind) {
			kinds = append(kinds, w.kind)
		}
	}
	w, done, err := f.witnesses(ctx)
	if err != nil {
		return append(kinds, "") // the server is restarted: later
	}
	defer done()
	for _, q := range w.counts {
		if n, err := q.count(ctx); err != nil || n == 0 && (q.kind != switched || !f.makes(ctx)) {
			kinds = append(kinds, q.of)
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// makes reports whether there is a rebuild that ends, at the latest when the load has.
func (f *fleet) makes(ctx context.Context) bool {
	rows, err := f.admin.Processors(ctx)
	return err == nil && slices.ContainsFunc(rows, func(p store.Processor) bool {
		return p.Rebuild != 0 && p.Builds.Making.Claimed && p.Builds.Making.Version != otherVersion
	})
}

func (q witnessed) count(ctx context.Context) (n int, err error) {
	var one int64
	if err := q.w.each(ctx, q.query, []any{&one}, func() { n += int(one) }); err != nil {
		return 0, fmt.Errorf("%s: %w", q.kind, err)
	}
	return n, nil
}
