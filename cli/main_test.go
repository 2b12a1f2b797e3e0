package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asProgram makes the test binary the program that is tested, so that commands
// and consumers run in real processes. mended names a file: while it is there,
// events that say "fail" are applied.
const (
	asProgram = "FAIRLEAD_CLI_TEST_PROGRAM"
	mended    = "FAIRLEAD_CLI_TEST_MENDED"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(cli.Main(shop()))
	}
	os.Exit(m.Run())
}

// A cart is the document of the test's projection.
type cart struct {
	Items int            `json:"items"`
	Last  string         `json:"last"`
	By    map[string]int `json:"by"`
}

type item struct {
	Name string `json:"name"`
	Fail bool   `json:"fail"`
}

var carts = fairlead.NewProjection("carts", fairlead.On("ItemAdded", func(c *cart, e fairlead.Event[item]) error {
	if e.Data.Fail {
		if _, err := os.Stat(os.Getenv(mended)); err != nil {
			return errors.New("told to fail")
		}
	}
	if c.By == nil {
		c.By = map[string]int{}
	}
	c.Items++
	c.By[e.Data.Name]++
	c.Last = e.Data.Name
	return nil
}))

type total struct {
	Items int `json:"items"`
}

var totals = fairlead.NewProjection("totals", fairlead.On("ItemAdded", func(t *total, _ fairlead.Event[item]) error {
	t.Items++
	return nil
}).By(func(e fairlead.Event[item]) string { return e.Type })).AcrossTenants()

func shop() cli.App {
	return cli.App{
		Name: "shop", Version: "v1.2.3",
		Processors: []fairlead.Processor{fairlead.Project(carts), fairlead.Project(totals)},
		Commands: []cli.Command{{
			Use: "greet [NAME]", Short: "Greet", Args: 1,
			Flags: func(fs *flag.FlagSet) { fs.String("word", "hello", "the `WORD`") },
			Run: func(_ context.Context, env *cli.Env, args []string) error {
				if len(args) == 0 {
					return cli.Usagef("who?")
				}
				_, err := fmt.Fprintf(env.Stdout, "hello %s %t\n", args[0], env.JSON)
				return err
			},
		}},
	}
}

// A ran is what a command has said.
type ran struct {
	status         int
	stdout, stderr string
}

// run runs a command in this process.
func run(t *testing.T, stdin io.Reader, args ...string) ran {
	t.Helper()
	return runApp(t, shop(), stdin, args...)
}

// runApp is run of another program.
func runApp(t *testing.T, app cli.App, stdin io.Reader, args ...string) ran {
	t.Helper()
	var out, errs bytes.Buffer
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	status := cli.Run(t.Context(), app, args, &cli.Env{Stdin: stdin, Stdout: &out, Stderr: &errs})
	return ran{status, out.String(), errs.String()}
}

// ok runs a command that must succeed and returns its stdout.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, nil, args...)
	if r.status != cli.OK {
		t.Fatalf("%q: exit status %d: %s%s", args, r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// object runs a command with --json and returns its object.
func object(t *testing.T, args ...string) map[string]any {
	t.Helper()
	var v map[string]any
	out := ok(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("%q: %v: not one line with an object: %s", args, err, out)
	}
	return v
}

// rows returns the objects of a field.
func rows(t *testing.T, v map[string]any, field string) []map[string]any {
	t.Helper()
	list, isList := v[field].([]any)
	if !isList {
		t.Fatalf("%q is no list in %v", field, v)
	}
	objects := make([]map[string]any, len(list))
	for i := range list {
		objects[i] = list[i].(map[string]any)
	}
	return objects
}

// consumer runs the program's consumer in a process of its own until the test
// ends, and returns the file that mends the projection once it is there.
func consumer(t *testing.T, db string, flags ...string) (mend string) {
	t.Helper()
	mend = filepath.Join(t.TempDir(), "mended")
	cmd := program(t, append([]string{"run", "--db", db, "--lease", "1s"}, flags...)...)
	cmd.Env = append(cmd.Env, mended+"="+mend)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the consumer ended with %v: %s", err, log.String())
		}
	})
	return mend
}

// program returns the program as a process.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// eventually waits until f returns "", and fails with what it says.
func eventually(t *testing.T, f func() string) {
	t.Helper()
	why := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if why = f(); why == "" {
			return
		}
	}
	t.Fatal(why)
}

// event is a line of a file.
func event(tenant, stream string, version int, name string, fail bool) string {
	return fmt.Sprintf(`{"tenant":%q,"stream":%q,"version":%d,"type":"ItemAdded","occurred_at":"2026-01-02T03:04:05Z","data":{"name":%q,"fail":%t}}`+"\n",
		tenant, stream, version, name, fail)
}

// A makeDatabase returns the name of a database with events.
type makeDatabase func(t *testing.T, lines ...string) string

// onEach runs a test on each kind of database.
func onEach(t *testing.T, test func(t *testing.T, database makeDatabase)) {
	t.Run("sqlite", func(t *testing.T) { test(t, database) })
	t.Run("postgres", func(t *testing.T) {
		test(t, func(t *testing.T, lines ...string) string { return filled(t, pgtest.Database(t), lines) })
	})
}

func database(t *testing.T, lines ...string) string {
	t.Helper()
	return filled(t, filepath.Join(t.TempDir(), "shop.db"), lines)
}

func filled(t *testing.T, db string, lines []string) string {
	t.Helper()
	r := run(t, strings.NewReader(strings.Join(lines, "")), "import", "--db", db, "-")
	if r.status != cli.OK {
		t.Fatalf("import: %s", r.stderr)
	}
	return db
}
