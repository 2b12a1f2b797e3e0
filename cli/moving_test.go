package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestMoveTenant: a tenant is moved there and back by the command, and its documents have
// what was written in each place, before a rebuild and after. What a producer writes to the
// old place that does not go by the directory is parked with the reason.
func TestMoveTenant(t *testing.T) {
	c, prefix, dir := kafkatest.Client(t), kafkatest.Name(t), t.TempDir()
	admin := kadm.NewClient(c)
	t.Cleanup(func() {
		_, _ = admin.DeleteTopics(context.WithoutCancel(t.Context()), prefix+"-all", prefix+"-directory", prefix+"-acme.jobs")
	})
	path, brokers := filepath.Join(dir, "shop.yaml"), kafkatest.Brokers(t)
	text := fmt.Sprintf(`
database: %s/shop.db
kafka:
  brokers: ["%s"]
  directory: %s-directory
  layout: {own: "%s-{tenant}.jobs", shared: "%s-all"}
`, dir, strings.Join(brokers, `", "`), prefix, prefix, prefix)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(cli.EnvConfig, path)
	app := shop()
	app.Processors = app.Processors[:1] // the other one folds all partitions into one document
	once := func() {
		t.Helper()
		if r := runApp(t, app, nil, "run", "--once"); r.status != cli.OK {
			t.Fatalf("run: status %d: %s%s", r.status, r.stdout, r.stderr)
		}
	}
	for _, x := range []struct {
		says string
		args []string
	}{
		{"own or shared", []string{"acme"}},
		{"own or shared", []string{"acme", "--to", "moon"}},
		{"leave --to out", []string{"acme", "--to", "own", "--status"}},
		{"must be positive", []string{"acme", "--to", "own", "--partitions", "0"}},
	} {
		if r := run(t, nil, append([]string{"tenants", "move"}, x.args...)...); r.status != cli.Misuse || !strings.Contains(r.stderr, x.says) {
			t.Errorf("%q: status %d, %s; want %q", x.args, r.status, r.stderr, x.says)
		}
	}
	if r := run(t, nil, "tenants", "move", "acme", "--status"); r.status != cli.Failed || !strings.Contains(r.stderr, "unknown tenant") {
		t.Errorf("status of nobody: %d, %s", r.status, r.stderr)
	}
	ok(t, "tenants", "add", "acme")
	ok(t, "tenants", "add", "crow")
	ly, err := layout.New(layout.Config{Own: prefix + "-{tenant}.jobs", Shared: prefix + "-all", Dedicated: func(string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	tenants, err := kafka.OpenTenants(t.Context(), kafka.Config{Brokers: brokers, Layout: ly, Directory: prefix + "-directory"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tenants.Close() })
	producer, err := tenants.NewProducer()
	if err != nil {
		t.Fatal(err)
	}
	item := func(n int) *kgo.Record {
		return &kgo.Record{Value: fmt.Appendf(nil, `{"name":"item %d"}`, n), Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("ItemAdded")}}}
	}
	n := 0
	put := func() {
		t.Helper()
		for _, tenant := range []string{"acme", "crow"} {
			for i := range 4 {
				n++
				failed := make(chan error, 1)
				if err := producer.Produce(t.Context(), tenant, fmt.Sprint("c", i%2), item(n), func(_ *kgo.Record, err error) { failed <- err }); err != nil {
					t.Fatal(err)
				}
				if err := <-failed; err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Cleanup(func() { _ = producer.Close(context.WithoutCancel(t.Context())) })
	move := func(to, topic string) {
		t.Helper()
		if out := ok(t, "tenants", "move", "acme", "--to", to, "--partitions", "2"); !strings.Contains(out, "is in topic "+prefix+topic) {
			t.Errorf("moved to %s: %s", to, out)
		}
		if out := ok(t, "tenants", "move", "acme", "--status", "--json"); !strings.Contains(out, prefix+topic) || strings.Contains(out, `"moving":true`) {
			t.Errorf("status after a move to %s: %s", to, out)
		}
	}
	put()
	once()
	move("own", "-acme.jobs")
	put()
	once()
	kafkatest.Produce(t, c, func() *kgo.Record {
		r := item(999)
		r.Topic, r.Key = prefix+"-all", []byte("acme:late")
		return r
	}())
	move("own", "-acme.jobs") // it is there
	put()
	once()
	move("shared", "-all")
	put()
	once()
	want := func(when string) {
		t.Helper()
		acme := ok(t, "documents", "list", "carts", "--tenant", "acme", "--json")
		crow := ok(t, "documents", "list", "carts", "--tenant", "crow", "--json")
		for i := 1; i <= n; i++ {
			out, other := acme, crow
			if (i-1)/4%2 == 1 {
				out, other = crow, acme
			}
			if name := fmt.Sprintf(`"item %d":1`, i); strings.Count(out, name) != 1 || strings.Contains(other, name) {
				t.Errorf("%s: %s is %d times in its tenant's documents: %s", when, name, strings.Count(out, name), out)
			}
		}
		letters := ok(t, "dead-letters", "list", "--tenant", "acme", "--json")
		if strings.Contains(acme, "999") || !strings.Contains(letters, "where its tenant was before a move") {
			t.Errorf("%s: what came too late is not parked with the reason: %s", when, letters)
		}
		if lanes := ok(t, "lanes"); strings.Contains(lanes, "paused") {
			t.Errorf("%s: lanes:\n%s", when, lanes)
		}
	}
	want("at the end")
	ok(t, "rebuild", "start", "carts")
	once()
	want("rebuilt")
}
