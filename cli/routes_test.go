package cli_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/cli"
	events "github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRoutes has a baseline and a sandbox, a process each, with a ledger, and looks at
// and changes what the ledger says by commands and over HTTP.
func TestRoutes(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		url := pgtest.Database(t)
		separator := "?"
		if strings.Contains(url, "?") {
			separator = "&"
		}
		testRoutes(t, url, url+separator+"schema=baseline", url+separator+"schema=pr_1")
	})
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		testRoutes(t, filepath.Join(dir, "ledger.db"), filepath.Join(dir, "baseline.db"), filepath.Join(dir, "pr-1.db"))
	})
}

func testRoutes(t *testing.T, ledger, baseline, sandbox string) {
	topic := kafkatest.Topic(t, 1)
	client := kafkatest.Client(t)
	produce := func(what string, n int) {
		t.Helper()
		var records []*kgo.Record
		for i := range n {
			records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "acme:%s%d", what, i%2), Value: fmt.Appendf(nil, `{"name":%q}`, what), Headers: []kgo.RecordHeader{
				{Key: "type", Value: []byte("ItemAdded")}, {Key: "fairlead-class", Value: []byte("test")}, {Key: "fairlead-route", Value: []byte("shop=pr-1")},
			}})
		}
		kafkatest.Produce(t, client, records...)
	}
	config := filepath.Join(t.TempDir(), "shop.yaml")
	text := fmt.Sprintf("database: ${SHOP_DB}\nlease: 2s\nkafka:\n  brokers: [%q]\n  topic: %s\n  keySeparator: \":\"\nconsumer:\n  groupId: %s\n  service: shop\n"+
		"  hostLabelEnv: SHOP_SANDBOX\n  autoOffsetReset: latest\n  ledger: %q\n", strings.Join(kafkatest.Brokers(t), `", "`), topic, strings.ReplaceAll(kafkatest.Name(t), "/", "-"), ledger)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOP_DB", baseline)
	t.Setenv(cli.EnvConfig, config)
	base, from := startProgram(t, "SHOP_DB="+baseline)
	defer stopProgram(t, base)
	routes := func() map[string]any { t.Helper(); return object(t, "routes", "--all") }
	state := func(want string) {
		t.Helper()
		eventually(t, func() string {
			found := rows(t, routes(), "sandboxes")
			if len(found) == 0 || found[len(found)-1]["state"] != want {
				return fmt.Sprintf("sandboxes %v, want the last %s", found, want)
			}
			// What is written before it has begun there is the baseline's.
			parts := rows(t, found[len(found)-1], "partitions")
			if len(parts) != 1 || parts[0]["from"] == nil {
				return fmt.Sprintf("the sandbox %v has not begun", found[len(found)-1])
			}
			return ""
		})
	}
	items := func(db, cart string, want float64) {
		t.Helper()
		eventually(t, func() string {
			r := run(t, nil, "documents", "get", "carts", cart, "--tenant", "acme", "--json", "--db", db)
			var d struct{ Data struct{ Items float64 } }
			if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || d.Data.Items != want {
				return fmt.Sprintf("cart %s: %s%s, want %v items", cart, r.stdout, r.stderr, want)
			}
			return ""
		})
	}
	items2 := func(db, what string, want float64) { t.Helper(); items(db, what+"0", want); items(db, what+"1", want) }
	if out := ok(t, "routes"); strings.Contains(out, "pr-1") {
		t.Errorf("before there is a sandbox:\n%s", out)
	}
	produce("early", 4)
	items2(baseline, "early", 2)
	box, _ := startProgram(t, "SHOP_DB="+sandbox, "SHOP_SANDBOX=pr-1")
	defer func() {
		if t.Failed() {
			_ = box.Process.Kill()
			_ = box.Wait()
			t.Log("the sandbox says:", box.Stderr.(*reader).String())
		}
	}()
	state("open")
	produce("mine", 6)
	items2(sandbox, "mine", 3)
	if out := ok(t, "routes"); !strings.Contains(out, "pr-1") || !strings.Contains(out, " 0:4- ") || !strings.Contains(out, "open") {
		t.Errorf("a sandbox that is there:\n%s", out)
	}
	stopProgram(t, box)
	state("closed")
	produce("late", 4)
	items2(baseline, "late", 2)
	box, _ = startProgram(t, "SHOP_DB="+sandbox, "SHOP_SANDBOX=pr-1")
	state("open")
	ok(t, "routes", "close", "pr-1")
	produce("closed", 4)
	items2(baseline, "closed", 2)
	if err := box.Wait(); err == nil || !strings.Contains(box.Stderr.(*reader).String(), "registration is closed") {
		t.Errorf("a sandbox that was closed ended with %v: %s", err, box.Stderr.(*reader).String())
	}
	if r := run(t, nil, "routes", "close", "pr-1"); r.status != cli.Failed || !strings.Contains(r.stderr, `no sandbox "pr-1"`) {
		t.Errorf("closed again: %+v", r)
	}

	if out := ok(t, "routes", "set", "checkout", "shop=pr-1,mail=pr-2"); !strings.Contains(out, "no sandbox pr-1 is open now") {
		t.Errorf("set: %s", out)
	}
	if out, want := ok(t, "routes", "show", "checkout"), "fairlead-class: test\nfairlead-route: mail=pr-2,shop=pr-1\n"; !strings.HasPrefix(out, want) {
		t.Errorf("show: %q, want %q and the baggage", out, want)
	}
	if r := run(t, nil, "routes", "set", "x/y", "shop=pr-1"); r.status != cli.Misuse || !strings.Contains(r.stderr, "letters, digits") {
		t.Errorf("a name that is none: %+v", r)
	}
	if r := run(t, nil, "routes", "set", "x", "shop"); r.status != cli.Misuse || !strings.Contains(r.stderr, "SERVICE=HOST") {
		t.Errorf("a route that is none: %+v", r)
	}
	if r := run(t, nil, "routes", "show", "nope"); r.status != cli.Failed || !strings.Contains(r.stderr, `there are ["checkout"]`) {
		t.Errorf("a route that is not there: %+v", r)
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/routes", "", 200, `"name":"checkout"`},
		{"GET", "/routes?closed", "", 200, `"state":"closed"`},
		{"GET", "/routes/checkout", "", 200, `fairlead-route: mail=pr-2,shop=pr-1`},
		{"PUT", "/routes/other", `{"shop":"pr-3"}`, 200, `"absent":["pr-3"]`},
		{"PUT", "/routes/other", `{"shop":""}`, 400, `neither may be empty`},
		{"PUT", "/routes/other", `[]`, 400, `send {\"service\": \"host\"}`},
		{"PUT", "/routes/.x", `{"shop":"pr-3"}`, 400, `letters, digits`},
		{"DELETE", "/routes/other", "", 200, `"done":"removed"`},
		{"DELETE", "/routes/other", "", 404, `there is no route`},
		{"GET", "/routes/other", "", 404, `there are [\"checkout\"]`},
		{"DELETE", "/routes/hosts/pr-9", "", 404, `no sandbox`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, from+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || r.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
			t.Errorf("%s %s: %d %s, %v, want %d and %s", tt.method, tt.path, r.StatusCode, body, err, tt.status, tt.says)
		}
	}
	ok(t, "routes", "remove", "checkout")
	if r := run(t, nil, "routes", "remove", "checkout"); r.status != cli.Failed {
		t.Errorf("removed twice: %+v", r)
	}
	t.Setenv(cli.EnvConfig, "")
	if r := run(t, nil, "routes", "--db", baseline); r.status != cli.Failed || !strings.Contains(r.stderr, "consumer.ledger") {
		t.Errorf("without a ledger: %+v", r)
	}
}

// TestRoutesOfKeys: with headers that have a routing key the command tells that to send,
// and has a change begin in the topic before it answers.
func TestRoutesOfKeys(t *testing.T) {
	topic, dir := kafkatest.Topic(t, 2), t.TempDir()
	config, file := filepath.Join(dir, "shop.yaml"), filepath.Join(dir, "ledger.db")
	text := fmt.Sprintf("database: %q\nkafka:\n  brokers: [%q]\n  topic: %s\nconsumer:\n  groupId: keys\n  service: shop\n  headers: signadot\n  ledger: %q\n",
		filepath.Join(dir, "shop.db"), strings.Join(kafkatest.Brokers(t), `", "`), topic, file)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(cli.EnvConfig, config)
	db, err := sqlite.Open(filepath.Join(dir, "shop.db"))
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	var records []*kgo.Record
	for p := range 2 {
		for range 3 + p {
			records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Value: []byte("{}")})
		}
	}
	client := kafkatest.Client(t)
	kafkatest.Produce(t, client, records...)
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	l, err := sqlite.OpenLedger(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	stands := func(want string) {
		t.Helper()
		keys, err := l.Keys(t.Context(), log.LedgerLog(), "shop", nil)
		if err != nil || len(keys) != 1 {
			t.Fatalf("keys %+v, %v", keys, err)
		}
		var got strings.Builder
		for p := range 2 {
			for at := events.Position(1); at < 7; at++ {
				got.WriteString(cmp.Or(string(keys[0].At(p, at)), "."))
			}
		}
		if got.String() != want {
			t.Errorf("the key stands for %s, want %s", got.String(), want)
		}
	}
	if out := ok(t, "routes", "set", "k1", "shop=a,mail=pr-7"); !strings.Contains(out, "no sandbox a is open now") {
		t.Errorf("set: %s", out)
	}
	if out := ok(t, "routes", "show", "k1"); out != "baggage: class=test,sd-routing-key=k1\n" {
		t.Errorf("show: %s", out)
	}
	stands("...aaa....aa")
	kafkatest.Produce(t, client, &kgo.Record{Topic: topic, Partition: 0, Value: []byte("{}")})
	ok(t, "routes", "remove", "k1")
	stands("...a........")
}

// A reader keeps what a process says, and tells where its metrics are.
type reader struct {
	said  bytes.Buffer
	found chan string
}

func (r *reader) String() string { return r.said.String() }

func (r *reader) Write(b []byte) (int, error) {
	n, err := r.said.Write(b)
	if _, at, ok := strings.Cut(r.String(), "metrics on "); ok && r.found != nil {
		if at, _, ok := strings.Cut(at, "/metrics\n"); ok {
			r.found <- at
			r.found = nil
		}
	}
	return n, err
}

// startProgram runs the program's consumer with more of an environment, and returns
// where its metrics are.
func startProgram(t *testing.T, env ...string) (cmd *exec.Cmd, url string) {
	t.Helper()
	cmd = program(t, "run", "--metrics", "127.0.0.1:0")
	cmd.Env = append(cmd.Env, env...)
	found := make(chan string, 1)
	cmd.Stderr = &reader{found: found}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // of one that the test has left behind
	select {
	case url = <-found:
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the process does not say where its metrics are: %s", cmd.Stderr.(*reader).String())
	}
	return cmd, url
}

// stopProgram ends a process as an operator does.
func stopProgram(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v: %s", err, cmd.Stderr.(*reader).String())
	}
}
