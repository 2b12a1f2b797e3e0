package deps

import (
	"strings"
	"testing"
)

// TestCheck shows that check can fail: each graph is made up and breaks at most
// one rule.
func TestCheck(t *testing.T) {
	mod := func(path, module string, imports ...string) pkg {
		p := pkg{ImportPath: path, Imports: imports}
		if module == "" {
			p.Standard = true
		} else {
			p.Module = &struct{ Path string }{module}
		}
		return p
	}
	own := func(rel string, imports ...string) pkg {
		for i, path := range imports {
			if rest, ok := strings.CutPrefix(path, "./"); ok {
				imports[i] = module + "/" + rest
			} else if path == "." {
				imports[i] = module
			}
		}
		if rel == "." {
			return mod(module, module, imports...)
		}
		return mod(module+"/"+rel, module, imports...)
	}
	modernc := mod("modernc.org/sqlite", "modernc.org/sqlite", "fmt")
	zombiezen := mod("zombiezen.com/go/sqlite", "zombiezen.com/go/sqlite", "modernc.org/sqlite")

	for _, tt := range []struct {
		name  string
		graph []pkg
		want  []string // one for each fault, in order: words that it has
	}{
		{"everything down", []pkg{
			own("cmd/fairlead", "./cli", "./sqlite", "."),
			own("cli", ".", "./sqlite"),
			own("sqlite", "./store", "./eventlog", "./event", "zombiezen.com/go/sqlite"),
			own(".", "./internal/engine", "./projection"),
			own("internal/engine", "./internal/lane", "./store"),
			own("internal/lane", "./internal/done", "./store"),
			own("internal/done"),
			own("store/memstore", "./store"),
			own("store", "./event", "fmt"), own("eventlog", "./event"), own("projection", "./event"), own("event"),
			mod("fmt", ""), modernc, zombiezen,
		}, nil},
		{"an arrow up", []pkg{own("event", "./store"), own("store")},
			[]string{`event imports github.com/fairlead-dev/fairlead/store: an arrow up, from the floor "ground" to "seams"`}},
		{"the core imports an adapter", []pkg{own(".", "./sqlite"), own("sqlite")},
			[]string{`an arrow up, from the floor "front door" to "adapters"`}},
		{"an adapter imports another", []pkg{own("kafka", "./postgres"), own("postgres")},
			[]string{`packages of the floor "adapters" do not know each other`}},
		{"a folder inside an adapter is no other adapter", []pkg{own("sqlite", "./sqlite/internal/schema"), own("sqlite/internal/schema")}, nil},
		{"an adapter imports the front door", []pkg{own("sqlite", "."), own(".")},
			[]string{"never from the floor"}},
		{"an adapter imports the engine", []pkg{own("sqlite", "./internal/engine"), own("internal/engine")},
			[]string{"it knows the seams"}},
		{"the two seams import each other", []pkg{own("store", "./eventlog"), own("eventlog")},
			[]string{`packages of the floor "seams" do not know each other`}},
		{"below the same folder", []pkg{own("bench", "./bench/load"), own("bench/load")}, nil},
		{"names with a common beginning are not one folder", []pkg{own("examples/bank", "./examples/bankers"), own("examples/bankers")},
			[]string{"do not know each other"}},
		{"parts of the engine may", []pkg{own("internal/dispatch", "./internal/fair"), own("internal/fair")}, nil},
		{"a program is built with a conformance suite", []pkg{own("cmd/fairlead", "./store/storetest"), own("store/storetest", "./store"), own("store")},
			[]string{"an arrow up"}},
		{"a suite is built with an adapter", []pkg{own("store/storetest", "./sqlite"), own("sqlite")},
			[]string{"from the adapter's own test"}},
		{"a package without a floor", []pkg{own("util", "./event"), own("event", "./util")},
			[]string{`package github.com/fairlead-dev/fairlead/util has no floor: add "util" to the floors in internal/deps/floors_test.go`}},
		{"a driver by a detour, with the way to it", []pkg{own(".", "./event"), own("event", "example.org/a"),
			mod("example.org/a", "example.org/a", "zombiezen.com/go/sqlite"), zombiezen, modernc},
			[]string{
				"fairlead is core and reaches the module example.org/a: github.com/fairlead-dev/fairlead -> github.com/fairlead-dev/fairlead/event -> example.org/a",
				"fairlead/event is core and reaches the module example.org/a",
			}},
		{"a driver behind an allowed module", []pkg{own("event", "golang.org/x/sync/errgroup"),
			mod("golang.org/x/sync/errgroup", "golang.org/x/sync", "modernc.org/sqlite"), modernc},
			[]string{"golang.org/x/sync/errgroup -> modernc.org/sqlite"}},
		{"an allowed module", []pkg{own("event", "golang.org/x/sync/errgroup"), mod("golang.org/x/sync/errgroup", "golang.org/x/sync")}, nil},
		{"an adapter may have a driver", []pkg{own("sqlite", "modernc.org/sqlite"), modernc, mod("fmt", "")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := check(tt.graph, floors, coreModules)
			if len(got) != len(tt.want) {
				t.Fatalf("faults: got %d, want %d:\n%s", len(got), len(tt.want), strings.Join(got, "\n"))
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("fault %d:\n got %s\nwant %s", i, got[i], tt.want[i])
				}
			}
		})
	}
}

func TestFloorOf(t *testing.T) {
	for rel, want := range map[string]string{
		".":                      "front door",
		"event":                  "ground",
		"store":                  "seams",
		"store/storetest":        "conformance suites, simulation, checks", // the longer pattern counts
		"store/memstore":         "in memory",
		"eventlog/memlog":        "in memory",
		"sqlite/internal/schema": "adapters",
		"storefront":             "",
		"internal/enginex":       "",
	} {
		path := module
		if rel != "." {
			path += "/" + rel
		}
		got := ""
		if i := floorOf(floors, path); i >= 0 {
			got = floors[i].name
		}
		if got != want {
			t.Errorf("floor of %s = %q, want %q", rel, got, want)
		}
	}
}
