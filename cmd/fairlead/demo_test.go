package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/retail"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// build builds the program. It is the real one, without the race detector, under
// which half a million events through five projections take minutes.
func build(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "fairlead")
	if runtime.GOOS == "windows" {
		exe += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return exe
}

// demoOnce runs demo --once --json to its end and returns its last line.
func demoOnce(t *testing.T, exe, dir string, wantStatus int) result {
	t.Helper()
	cmd := exec.Command(exe, "demo", "--once", "--json", "--dir", dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != wantStatus {
		t.Fatalf("demo: %v, want exit status %d: %s", err, wantStatus, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var r result
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatalf("last line %q: %v", lines[len(lines)-1], err)
	}
	return r
}

// check compares a result with what the data set has.
func check(t *testing.T, r result, mismatches int) {
	t.Helper()
	if r.Events != retail.EventCount || r.Tenants != retail.TenantCount || r.Mismatches != mismatches {
		t.Errorf("got %d events, %d tenants, %d mismatches, want %d, %d and %d", r.Events, r.Tenants, r.Mismatches, retail.EventCount, retail.TenantCount, mismatches)
	}
	if r.Seconds <= 0 || r.PeakRSS <= 0 {
		t.Errorf("got %v seconds and %d bytes, want more than nothing", r.Seconds, r.PeakRSS)
	}
	want := map[string]int{"orders": 25_900, "products": 19_839, "customers": 4_380, "months": 314, "tenants": 38}
	if len(r.Projections) != len(want) {
		t.Fatalf("projections: got %v, want %d", r.Projections, len(want))
	}
	for _, p := range r.Projections {
		if p.Documents+p.Mismatches != want[p.Name] {
			t.Errorf("%s: got %d documents and %d mismatches, want %d", p.Name, p.Documents, p.Mismatches, want[p.Name])
		}
	}
}

// TestKilledDemoEndsRight kills the demo at random moments, lets it go on each
// time, and then uses what it has made.
func TestKilledDemoEndsRight(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	exe, dir := build(t), filepath.Join(t.TempDir(), "state")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range rounds {
		cmd := exec.Command(exe, "demo", "--once", "--dir", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From the making of the file to well into the import.
		after := time.Duration(rng.Float64() * 5 * float64(time.Second))
		time.Sleep(after)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		t.Logf("round %d: killed after %v at position %d", i, after.Round(time.Millisecond), position(t, dir))
	}
	check(t, demoOnce(t, exe, dir, 0), 0)

	t.Run("live until a signal", func(t *testing.T) { liveUntilSignal(t, exe, dir) })
	t.Run("started again after live", func(t *testing.T) { check(t, demoOnce(t, exe, dir, 0), 0) })
	t.Run("a document that is gone", func(t *testing.T) {
		db, err := sqlite.Open(filepath.Join(dir, "demo.db"))
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(t.Context(), func(tx store.Tx) error {
			n, err := tx.DeleteDocuments(store.Build{Processor: "months", Number: 1}, "cyprus", 1)
			if err == nil && n != 1 {
				err = fmt.Errorf("deleted %d documents, want 1", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		check(t, demoOnce(t, exe, dir, 1), 1)
	})
}

// position returns how far the log of a killed demo has got.
func position(t *testing.T, dir string) int64 {
	t.Helper()
	path := filepath.Join(dir, "demo.db")
	if _, err := os.Stat(path); err != nil {
		return 0 // killed before that
	}
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	head, err := db.Head(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return int64(head)
}

// liveUntilSignal runs the demo into its live part and ends it with SIGTERM.
func liveUntilSignal(t *testing.T, exe, dir string) {
	cmd := exec.Command(exe, "demo", "--dir", dir)
	lines, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	cmd.Stderr = lines
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	said := func() string {
		b, err := os.ReadFile(lines.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	live := func() bool {
		_, after, found := strings.Cut(said(), "Live: ")
		return found && strings.Count(after, "P99") >= 2*5 // two lines about five projections
	}
	for end := time.Now().Add(3 * time.Minute); !live() && time.Now().Before(end); {
		select {
		case err := <-ended:
			t.Fatalf("the demo ended with %v: %s", err, said())
		case <-time.After(100 * time.Millisecond):
		}
	}
	out, err := exec.Command(exe, "status", "--json", "--db", filepath.Join(dir, "demo.db")).Output()
	var status struct {
		Heads      []int64
		Processors []struct{ State string }
	}
	if err != nil || json.Unmarshal(out, &status) != nil || len(status.Processors) != 5 || status.Heads[0] <= retail.EventCount {
		t.Errorf("status beside the live demo: got %s, %v, want 5 processors and more events", out, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after SIGTERM the demo ended with %v, want exit status 0: %s", err, said())
		}
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		t.Errorf("the demo does not end within 30 s of SIGTERM: %s", said())
	}
}

func TestDemoHelp(t *testing.T) {
	var out bytes.Buffer
	status := cli.Run(t.Context(), app(), []string{"demo", "--help"}, &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	for _, want := range []string{"--once", "--dir DIR", "Chen, D. (2015)", "CC BY 4.0"} {
		if status != cli.OK || !strings.Contains(out.String(), want) {
			t.Errorf("demo --help: exit status %d, no %q in\n%s", status, want, out.String())
		}
	}
}

func TestWorstLagsAreSorted(t *testing.T) {
	w := newWatch(nil, nil, time.Now())
	w.lags = map[string]lag{"b": {"b", 1, "x"}, "a": {"a", 1, "x"}, "c": {"c", 2, "y"}}
	got := w.worst()
	if len(got) != 3 || got[0].Tenant != "c" || got[1].Tenant != "a" || got[2].Tenant != "b" {
		t.Errorf("worst: got %v, want c, a, b", got)
	}
}

func TestMeasureTakesTheOldestOfEachTenant(t *testing.T) {
	start := time.Now()
	w := newWatch(nil, nil, start)
	w.appends = []appended{
		{10, []string{"a", "b"}, start},
		{20, []string{"a", "c"}, start.Add(time.Second)},
	}
	w.lanes = map[string]*laneView{"orders": {base: 10, own: nil}, "months": {base: 20, own: nil}}
	w.lanes["orders"].own = map[string]event.Position{"b": 5}
	w.measure(start.Add(3 * time.Second))
	for tenant, want := range map[string]float64{"a": 2, "b": 3, "c": 2} {
		if got := w.lags[tenant]; got.Seconds != want || got.Projection != "orders" {
			t.Errorf("lag of %s: got %+v, want %v s in orders", tenant, got, want)
		}
	}
	if len(w.appends) != 2 {
		t.Errorf("forgot what lane b has not applied: %v", w.appends)
	}
	w.lanes["orders"] = &laneView{base: 20}
	w.measure(start.Add(9 * time.Second))
	if len(w.appends) != 0 || w.lags["a"].Seconds != 2 {
		t.Errorf("after all is applied: %v left, lag of a %v, want none and 2", w.appends, w.lags["a"].Seconds)
	}
}
