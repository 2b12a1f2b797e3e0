package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/fairlead-dev/fairlead/examples/internal/answers"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
)

// few are tenants for a comparison that takes seconds under the race detector too; more
// are added without it.
var few = []string{
	"anishathalye-porcupine", "buraksezer-consistent", "linkedin-burrow", "message-db-message-db", "oklog-run", "synadia-io-orbit-go",
	"thefabric-io-eventsourcing", "threedotslabs-watermill-kafka", "threedotslabs-watermill-sql",
}

var more = []string{"dpkp-kafka-python", "eventuous-eventuous", "kubernetes-enhancements", "rqlite-rqlite", "twmb-franz-go", "upspin-upspin"}

// names returns a prefix of topics, which are deleted when the test ends.
func names(t *testing.T) string {
	t.Helper()
	prefix, admin := kafkatest.Name(t), kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		topics, err := admin.ListTopics(ctx)
		if err != nil {
			return
		}
		for _, name := range topics.Names() {
			if strings.HasPrefix(name, prefix+".") {
				_, _ = admin.DeleteTopic(ctx, name)
			}
		}
	})
	return prefix
}

// results runs the program on a file of events.
func results(t *testing.T, kind, events string) (bills, tenants answers.Table) {
	t.Helper()
	prefix, dir := names(t), t.TempDir()
	b, u := filepath.Join(dir, "bills.csv"), filepath.Join(dir, "tenants.csv")
	args := []string{"-brokers", strings.Join(kafkatest.Brokers(t), ","), "-prefix", prefix, "-layout", kind, "-db", filepath.Join(dir, "billing.db"), "-bills", b, "-tenants", u}
	if err := run(t.Context(), append(args, "-events", events)); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), args); err != nil { // nothing is billed twice
		t.Fatal(err)
	}
	if again, err := os.ReadFile(b); err != nil || string(again) != string(first) {
		t.Errorf("the second time:\n%s\nthe first time:\n%s", again, first)
	}
	return answers.Read(t, b), answers.Read(t, u)
}

var kinds = []string{"shared", "own"}

// TestKnownTenants compares what tenants store with the trees of the repositories, and
// their bills with those that a loop over the file makes.
func TestKnownTenants(t *testing.T) {
	dir := answers.Dir(t, "asset-store")
	if dir == "" {
		return
	}
	these := few
	if !answers.Race && !testing.Short() {
		these = slices.Concat(few, more)
	}
	events := answers.Of(t, filepath.Join(dir, "events.jsonl.gz"), these)
	known := answers.Read(t, filepath.Join(dir, "expected_tenants.csv.gz"))
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			bills, tenants := results(t, kind, events)
			answers.Equal(t, "tenants", tenants, known.Of(t, these))
			answers.Equal(t, "bills", bills, loop(t, events))
			last := map[string]string{} // the last bill has what the tree has
			for _, row := range bills.Rows {
				last[row[0]] = row[3]
			}
			for _, row := range tenants.Rows {
				if last[row[0]] != row[4] {
					t.Errorf("tenant %s: the last bill is for %s bytes, it stores %s", row[0], last[row[0]], row[4])
				}
			}
		})
	}
}

// loop bills a file with a loop, and nothing of Fairlead.
func loop(t *testing.T, path string) answers.Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	type bill struct{ jobs, stored int64 }
	made, sizes, stored := map[[2]string]*bill{}, map[[2]string]int64{}, map[string]int64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e struct {
			Tenant, Stream, Type string
			OccurredAt           string `json:"occurred_at"`
			Data                 struct{ Size int64 }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		k, asset := [2]string{e.Tenant, e.OccurredAt[:7]}, [2]string{e.Tenant, e.Stream}
		stored[e.Tenant] += e.Data.Size - sizes[asset] // of a deletion, nothing
		sizes[asset] = e.Data.Size
		if made[k] == nil {
			made[k] = &bill{}
		}
		made[k].jobs++
		made[k].stored = stored[e.Tenant]
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	out := answers.Table{Header: []string{"tenant", "month", "jobs", "stored_bytes", "cents"}}
	for k, b := range made {
		n := func(x int64) string { return strconv.FormatInt(x, 10) }
		out.Rows = append(out.Rows, []string{k[0], k[1], n(b.jobs), n(b.stored), n(cents(b.jobs, b.stored))})
	}
	slices.SortFunc(out.Rows, slices.Compare)
	return out
}

const madeUp = `{"tenant":"red","stream":"README.md","version":1,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:00Z","data":{"size":1000000,"change":1}}
{"tenant":"blue","stream":"README.md","version":1,"type":"AssetUploaded","occurred_at":"2026-01-31T23:59:59Z","data":{"size":7,"change":2}}
{"tenant":"red","stream":"logo.png","version":1,"type":"AssetUploaded","occurred_at":"2026-01-31T23:59:59Z","data":{"size":2000000,"change":2}}
{"tenant":"red","stream":"README.md","version":2,"type":"AssetDeleted","occurred_at":"2026-02-01T00:00:00Z","data":{"change":3}}
{"tenant":"red","stream":"logo.png","version":2,"type":"AssetReplaced","occurred_at":"2026-04-01T00:00:00Z","data":{"size":5,"change":4}}
`

func TestMadeUpBills(t *testing.T) {
	for _, kind := range kinds {
		bills, _ := results(t, kind, answers.File(t, "events.jsonl", madeUp))
		answers.Equal(t, kind, bills, answers.Table{Header: []string{"tenant", "month", "jobs", "stored_bytes", "cents"}, Rows: [][]string{
			{"blue", "2026-01", "1", "7", "2"},
			{"red", "2026-01", "2", "3000000", "10"},
			{"red", "2026-02", "1", "2000000", "7"},
			{"red", "2026-04", "1", "5", "2"},
		}})
	}
}

// A tenant's jobs that come out of order are no bill.
func TestJobsOutOfOrder(t *testing.T) {
	lines := strings.SplitAfter(madeUp, "\n")
	slices.Reverse(lines)
	events := answers.File(t, "events.jsonl", strings.Join(lines, ""))
	err := run(t.Context(), []string{"-brokers", strings.Join(kafkatest.Brokers(t), ","), "-prefix", names(t), "-events", events})
	if err == nil || !strings.Contains(err.Error(), "cannot be billed") {
		t.Errorf("%v", err)
	}
}

func Example_cents() {
	fmt.Println(cents(1, 1), cents(1000, 1<<20), cents(25_001, 0))
	// Output: 2 43 1001
}
