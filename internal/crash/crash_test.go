package crash

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// start runs this test binary as a worker.
func start(t *testing.T, role, dir, name string, seed uint64) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, dirVar+"="+dir, nameVar+"="+name, seedVar+"="+strconv.FormatUint(seed, 10))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestKilledWorkersLoseAndDoubleNothing kills processes at random moments, over
// and over, while they append, project, react, and move tenants between lanes:
// in every other round two that share the database. The seed is printed;
// FAIRLEAD_CRASH_ROUNDS sets the number of rounds.
func TestKilledWorkersLoseAndDoubleNothing(t *testing.T) {
	rounds := 12
	if v := os.Getenv("FAIRLEAD_CRASH_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	if testing.Short() {
		rounds = 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, rounds)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, d := range databases {
		t.Run(d.name, func(t *testing.T) {
			dir := t.TempDir()
			name, crash := d.make(t, dir)
			crashes := kill(t, rng, rounds, dir, name, crash)
			verify(t, dir, name, rounds, crashes)
		})
	}
}

// leastEvents is how many a round must have for the test to prove anything.
const leastEvents = 100

// kill returns how many rounds there were: on a slow machine, where workers are hardly up
// when they are killed, up to three times as many as are asked for.
func kill(t *testing.T, rng *rand.Rand, rounds int, dir, name string, crash func() error) (round int) {
	t.Helper()
	var ended []*exec.Cmd
	for ; round < rounds || round < 3*rounds && appended(t, name) < leastEvents*rounds; round++ {
		for range 1 + round%2 {
			w := start(t, "work", dir, name, rng.Uint64())
			life := time.Duration(200+rng.IntN(2000)) * time.Millisecond
			defer time.AfterFunc(life, func() { _ = w.Process.Kill() }).Stop()
			defer func() { _ = w.Process.Kill() }()
			ended = append(ended, w)
		}
		if crash != nil && round%3 != 0 { // while they work, and they go on
			select {
			case <-time.After(time.Duration(rng.IntN(1000)) * time.Millisecond):
			case <-t.Context().Done():
			}
			if err := crash(); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range ended {
			_ = w.Wait() // killed
		}
		ended = ended[:0]
	}
	if err := start(t, "finish", dir, name, 0).Wait(); err != nil {
		t.Fatalf("the last worker: %v", err)
	}
	return round
}

// appended returns how many events there are.
func appended(t *testing.T, name string) int {
	t.Helper()
	db, err := open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return len(logged(t, db))
}

// logged reads the whole log.
func logged(t *testing.T, log eventlog.Log) (all []event.Event) {
	t.Helper()
	for after := (eventlog.ReadRequest{MaxEvents: 10_000}); ; {
		page, err := log.Read(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Events...)
		if page.Next >= page.Head {
			return all
		}
		after.After = page.Next
	}
}

// verify folds the log once more, without Fairlead, and compares.
func verify(t *testing.T, dir, name string, rounds, crashes int) {
	t.Helper()
	ctx := t.Context()
	db, err := open(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	wantStream, wantTenant := map[[2]string]*counter{}, map[string]*counter{}
	events := logged(t, db)
	for i := range events {
		e := &events[i]
		k := [2]string{e.Tenant, e.Stream}
		if wantStream[k] == nil {
			wantStream[k] = &counter{}
		}
		if wantTenant[e.Tenant] == nil {
			wantTenant[e.Tenant] = &counter{}
		}
		p, err := payload(e)
		if err != nil {
			t.Fatal(err)
		}
		wantStream[k].add(p.N)
		wantTenant[e.Tenant].add(p.N)
		if int64(wantStream[k].Count) != e.Version {
			t.Errorf("stream %v: version %d in place %d", k, e.Version, wantStream[k].Count)
		}
	}
	for k, want := range wantStream {
		got, err := fairlead.Get(ctx, db, counters(), k[0], k[1])
		if err != nil {
			t.Error(err)
		} else if got.State != *want || got.Version != int64(want.Count) {
			t.Errorf("counter %v = %+v at version %d, the log has %+v", k, got.State, got.Version, *want)
		}
	}
	for tenant, want := range wantTenant {
		got, err := fairlead.Get(ctx, db, totals(), tenant, "all")
		if err != nil {
			t.Error(err)
		} else if got.State != *want {
			t.Errorf("total of %s = %+v, the log has %+v", tenant, got.State, *want)
		}
	}
	verifyLedger(t, db, name, wantStream)
	again := verifyMail(t, filepath.Join(dir, "mail"), wantStream)
	t.Logf("%d events, %d streams; the reactor was handed %d events again in %d crashes", len(events), len(wantStream), again, crashes)
	if len(events) < leastEvents*rounds {
		t.Errorf("only %d events: the workers did too little to prove anything", len(events))
	}
}

func verifyLedger(t *testing.T, db cli.Database, name string, want map[[2]string]*counter) {
	t.Helper()
	rows, err := ledgerRows(t.Context(), db, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		k := [2]string{r.tenant, r.stream}
		if w := want[k]; w == nil || r.n != int64(w.Count) || r.last != int64(w.Count) {
			t.Errorf("ledger of %v: n %d, last version %d; the log has %+v", k, r.n, r.last, w)
		}
	}
	if len(rows) != len(want) {
		t.Errorf("ledger has %d rows, want %d", len(rows), len(want))
	}
}

// verifyMail checks that the reactor saw every event at least once, in order by
// stream but for repetitions after a crash, which go back a bounded way.
func verifyMail(t *testing.T, path string, want map[[2]string]*counter) (again int) {
	t.Helper()
	all, err := deliveries(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[2]string]int64{}
	for _, d := range all {
		k := [2]string{d.tenant, d.stream}
		switch {
		case d.version == seen[k]+1:
			seen[k]++
		case d.version <= seen[k]:
			again++
		default:
			t.Fatalf("reactor: stream %v: version %d after %d: skipped", k, d.version, seen[k])
		}
	}
	for k, w := range want {
		if seen[k] != int64(w.Count) {
			t.Errorf("reactor: stream %v seen up to version %d of %d", k, seen[k], w.Count)
		}
	}
	return again
}
