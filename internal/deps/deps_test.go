package deps

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestImportsGoDown(t *testing.T) {
	touch(t, root(t))
	graph := load(t, "./...")
	for _, fault := range check(graph, floors, coreModules) {
		t.Error(fault)
	}
}

// TestCoreHasNoDriver says by name what TestImportsGoDown says by coreModules,
// and of the standard library too: none of these is linked into a program
// because it imports the core.
func TestCoreHasNoDriver(t *testing.T) {
	touch(t, root(t))
	var core []string
	for _, p := range load(t, "./...") {
		if i := floorOf(floors, p.ImportPath); ours(p.ImportPath) && i >= 0 && floors[i].core {
			core = append(core, p.ImportPath)
		}
	}
	if len(core) < 3 {
		t.Fatalf("core packages: got %q, want event, eventlog, store and others", core)
	}
	for _, p := range load(t, core...) {
		if d := driver(p.ImportPath); d != "" {
			t.Errorf("the core is built with %s, which is of %s", p.ImportPath, d)
		}
	}
}

// TestFormatsComeAlone: who reads Kafka is built with no format, and who reads one
// format not with the library of another.
func TestFormatsComeAlone(t *testing.T) {
	touch(t, root(t))
	const registryClient, avro, compiler, protobuf = "github.com/twmb/franz-go/pkg/sr", "github.com/twmb/avro", "github.com/bufbuild/protocompile", "google.golang.org/protobuf"
	all := []string{registryClient, avro, compiler, protobuf}
	for path, may := range map[string][]string{
		"kafka":                   nil,
		"kafka/layout":            nil,
		"kafka/registry":          {registryClient},
		"kafka/registry/avro":     {registryClient, avro},
		"kafka/registry/protobuf": {registryClient, compiler, protobuf},
		"cli":                     {protobuf}, // by way of the metrics
		"config":                  nil,
	} {
		has := map[string]bool{}
		for _, p := range load(t, "./"+path) {
			for _, m := range all {
				if p.ImportPath == m || strings.HasPrefix(p.ImportPath, m+"/") {
					has[m] = true
				}
			}
		}
		for _, m := range all {
			if has[m] != slices.Contains(may, m) {
				t.Errorf("%s is built with %s: %v, want %v", path, m, has[m], !has[m])
			}
		}
	}
}

func TestDriver(t *testing.T) {
	for path, want := range map[string]string{
		"zombiezen.com/go/sqlite/sqlitex":        "zombiezen.com",
		"modernc.org/sqlite":                     "modernc.org",
		"github.com/jackc/pgx/v5":                "github.com/jackc",
		"github.com/twmb/franz-go/pkg/kgo":       "github.com/twmb",
		"github.com/klauspost/compress/zstd":     "github.com/klauspost",
		"github.com/spf13/cobra":                 "github.com/spf13",
		"database/sql/driver":                    "database/sql",
		"testing":                                "testing",
		"github.com/jackcity/maps":               "",
		"github.com/fairlead-dev/fairlead/store": "",
	} {
		if got := driver(path); got != want {
			t.Errorf("driver(%q) = %q, want %q", path, got, want)
		}
	}
}

// driver returns which of the things that the core must not contain a package
// belongs to, "" where to none.
func driver(path string) string {
	for _, d := range []string{
		"zombiezen.com", "modernc.org", "crawshaw.io", "github.com/mattn", "github.com/ncruces", "github.com/tetratelabs",
		"database/sql", "github.com/jackc", "github.com/lib/pq", "github.com/twmb", "github.com/IBM/sarama",
		"github.com/confluentinc", "github.com/segmentio", "github.com/klauspost", "github.com/opensearch-project",
		"github.com/elastic", "github.com/bufbuild", "google.golang.org", "github.com/prometheus", "github.com/spf13", "github.com/urfave", "testing", "flag",
	} {
		if path == d || strings.HasPrefix(path, d+"/") {
			return d
		}
	}
	return ""
}

// load runs go list on packages of the module and returns them with all that
// they reach.
func load(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	var graph []pkg
	args := append([]string{"list", "-deps", "-json=ImportPath,Standard,Imports,Module"}, patterns...)
	d := json.NewDecoder(bytes.NewReader(goCommand(t, args...)))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("output of go list: %v", err)
		}
		graph = append(graph, p)
	}
	if len(graph) == 0 {
		t.Fatalf("go list %q: no packages", patterns)
	}
	return graph
}

// goCommand runs the go command in the root of the module, without network.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// root returns the folder of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("root of the module: %v", err)
	}
	return dir
}

// touch opens every folder of the module. go test keeps a result until a file
// that the test opened has changed, and it cannot see what go list reads: without
// this a new import would meet an old "ok (cached)".
func touch(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != dir && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatalf("walk the module: %v", err)
	}
}
