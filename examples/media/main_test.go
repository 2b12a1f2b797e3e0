package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/examples/internal/answers"
	"github.com/fairlead-dev/fairlead/examples/internal/assets"
	"github.com/fairlead-dev/fairlead/projection/projectiontest"
)

// results runs the program on a file of events.
func results(t *testing.T, events string) (existing, tenants answers.Table) {
	t.Helper()
	dir := t.TempDir()
	a, u := filepath.Join(dir, "assets.csv"), filepath.Join(dir, "tenants.csv")
	if err := job.Run(t.Context(), []string{"-events", events, "-assets", a, "-tenants", u}); err != nil {
		t.Fatal(err)
	}
	return answers.Read(t, a), answers.Read(t, u)
}

// small are tenants for a comparison that takes seconds under the race detector
// too. All have a README.md, which is another asset for each.
var small = []string{
	"anishathalye-porcupine", "buraksezer-consistent", "linkedin-burrow", "message-db-message-db", "oklog-run", "synadia-io-orbit-go",
	"thefabric-io-eventsourcing", "threedotslabs-watermill-kafka", "threedotslabs-watermill-sql",
}

// TestKnownAssets compares with the trees of the repositories themselves.
func TestKnownAssets(t *testing.T) {
	dir := answers.Dir(t, "asset-store")
	if dir == "" {
		return
	}
	events := filepath.Join(dir, "events.jsonl.gz")
	wantAssets := answers.Read(t, filepath.Join(dir, "expected_assets.csv.gz"))
	wantTenants := answers.Read(t, filepath.Join(dir, "expected_tenants.csv.gz"))
	if answers.Race || testing.Short() {
		events = answers.Of(t, events, small)
		wantAssets, wantTenants = wantAssets.Of(t, small), wantTenants.Of(t, small)
	}
	existing, tenants := results(t, events)
	answers.Equal(t, "assets", existing, wantAssets)
	answers.Equal(t, "tenants", tenants, wantTenants)
}

const madeUp = `{"tenant":"red","stream":"README.md","version":1,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:00Z","data":{"size":100,"change":1}}
{"tenant":"blue","stream":"README.md","version":1,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:01Z","data":{"size":7,"change":2}}
{"tenant":"red","stream":"logo.png","version":1,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:02Z","data":{"size":0,"change":1}}
{"tenant":"red","stream":"README.md","version":2,"type":"AssetDeleted","occurred_at":"2026-01-02T00:00:03Z","data":{"change":2}}
{"tenant":"red","stream":"README.md","version":3,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:04Z","data":{"size":30,"change":4}}
{"tenant":"red","stream":"README.md","version":4,"type":"AssetReplaced","occurred_at":"2026-01-02T00:00:05Z","data":{"size":20,"change":5}}
{"tenant":"red","stream":"old.txt","version":1,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:06Z","data":{"size":5,"change":5}}
{"tenant":"red","stream":"old.txt","version":2,"type":"AssetDeleted","occurred_at":"2026-01-02T00:00:07Z","data":{"change":6}}
{"tenant":"green","stream":"gone","version":1,"type":"AssetUploaded","occurred_at":"2026-01-02T00:00:08Z","data":{"size":5,"change":1}}
{"tenant":"green","stream":"gone","version":2,"type":"AssetDeleted","occurred_at":"2026-01-02T00:00:08Z","data":{"change":2}}
`

func TestMadeUpAssets(t *testing.T) {
	existing, tenants := results(t, answers.File(t, "events.jsonl", madeUp))
	answers.Equal(t, "assets", existing, answers.Table{Header: []string{"tenant", "stream", "version", "size"}, Rows: [][]string{
		{"blue", "README.md", "1", "7"},
		{"red", "README.md", "4", "20"},
		{"red", "logo.png", "1", "0"},
	}})
	answers.Equal(t, "tenants", tenants, answers.Table{Header: []string{"tenant", "events", "streams", "live_assets", "live_bytes", "changes"}, Rows: [][]string{
		{"red", "7", "3", "2", "20", "6"},
		{"green", "2", "1", "0", "0", "2"},
		{"blue", "1", "1", "1", "7", "2"},
	}})
}

// TestAgain runs the program twice on one database: nothing counts twice.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	events, db, out := answers.File(t, "events.jsonl", madeUp), filepath.Join(dir, "media.db"), filepath.Join(dir, "tenants.csv")
	var first []byte
	for i := range 2 {
		if err := job.Run(t.Context(), []string{"-events", events, "-db", db, "-tenants", out}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got
		} else if string(got) != string(first) {
			t.Errorf("the second time:\n%s\nthe first time:\n%s", got, first)
		}
	}
}

func TestAssets(t *testing.T) {
	projectiontest.For(t, assets.Assets).
		Given("red", "README.md", "AssetUploaded", assets.Stored{Size: 9, Change: 1}).
		Given("blue", "README.md", "AssetUploaded", assets.Stored{Size: 7, Change: 1}).
		Given("red", "README.md", "AssetDeleted", assets.Deleted{Change: 2}).
		ExpectNone("red", "README.md").
		Expect("blue", "README.md", assets.Asset{Size: 7}).
		Given("red", "README.md", "AssetUploaded", assets.Stored{Size: 4, Change: 3}).
		Expect("red", "README.md", assets.Asset{Size: 4})
}
