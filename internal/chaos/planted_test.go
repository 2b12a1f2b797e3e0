package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// unfence takes the comparison out of the fence.
const unfence = `DO $$ BEGIN EXECUTE replace(pg_get_functiondef('fairlead.fence'::regproc),
	'AND epoch = expect_epoch AND position = expect_position AND revision = expect_revision', ''); END $$`

// TestChaosFindsABrokenFence: a checker that finds nothing proves nothing. Without
// the fence, processes that come back after their lease commit what they had in hand.
func TestChaosFindsABrokenFence(t *testing.T) { untilFound(t, withoutFence) }

// untilFound runs f until it has found something. Whether a process is frozen with a
// batch in hand is chance.
func untilFound(t *testing.T, f func(t *testing.T) bool) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short runs without servers")
	}
	for n := range 8 {
		found := false
		t.Run(fmt.Sprint(n), func(t *testing.T) { found = f(t) })
		if found || t.Failed() {
			return
		}
	}
	t.Error("nothing is found, want what the fence keeps from happening")
}

func withoutFence(t *testing.T) bool {
	t.Helper()
	const workers = 3
	f := newFleet(t, 1, workers)
	before := "SELECT pg_get_functiondef('fairlead.fence'::regproc) LIKE '%expect_revision;%'"
	for _, sql := range []string{"DO $$ BEGIN ASSERT (" + before + "); END $$", unfence, "DO $$ BEGIN ASSERT NOT (" + before + "); END $$"} {
		statements(t, f.server.URL, []string{sql})
	}
	var all []fault
	for i := range 5 {
		d := lease + 1500*time.Millisecond
		all = append(all, fault{at: time.Duration(1+3*i) * time.Second, say: fmt.Sprintf("stop w%d for %v", i%workers, d), do: func(ctx context.Context, f *fleet) {
			p := f.workers[i%workers]
			p.busy.Lock()
			defer p.busy.Unlock()
			p.freeze(ctx, d)
		}})
	}
	f.chaos(t, 0, all)
	for _, p := range f.all() {
		p.busy.Lock()
		p.leave()
		p.busy.Unlock()
	}
	// The checks of what was done need no end: without the fence there may be none.
	c, err := pgx.Connect(t.Context(), f.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	var bad findings
	if _, err := committed(t.Context(), onServer(c), &bad); err != nil {
		t.Fatal(err)
	}
	t.Logf("found: %.3000v", bad.err())
	return bad.kinds["commits"] > 0
}
