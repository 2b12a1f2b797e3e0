package cli_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestTenantsOnKafka: tenants are added to a mixed layout, worked, removed and added
// again, by the file and the commands alone.
func TestTenantsOnKafka(t *testing.T) {
	c, prefix, dir := kafkatest.Client(t), kafkatest.Name(t), t.TempDir()
	admin := kadm.NewClient(c)
	t.Cleanup(func() {
		for _, topic := range []string{"all", "directory", "bolt.jobs"} {
			_, _ = admin.DeleteTopic(context.WithoutCancel(t.Context()), prefix+"-"+topic)
		}
	})
	path := filepath.Join(dir, "shop.yaml")
	text := fmt.Sprintf(`
database: %s/shop.db
kafka:
  brokers: ["%s"]
  directory: %s-directory
  layout: {own: "%s-{tenant}.jobs", shared: "%s-all"}
`, dir, strings.Join(kafkatest.Brokers(t), `", "`), prefix, prefix, prefix)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(cli.EnvConfig, path)
	app := shop()
	app.Processors = app.Processors[:1] // the other one folds all partitions into one document
	run := func(args ...string) {
		t.Helper()
		if r := runApp(t, app, nil, args...); r.status != cli.OK {
			t.Fatalf("%q: status %d: %s%s", args, r.status, r.stdout, r.stderr)
		}
	}
	refused := func(status int, says string, args ...string) {
		t.Helper()
		if r := runApp(t, app, nil, args...); r.status != status || !strings.Contains(r.stderr, says) {
			t.Errorf("%.100q: status %d: %s, want %d, %q", args, r.status, r.stderr, status, says)
		}
	}
	for tenant, says := range map[string]string{
		"a:b": "Kafka takes", "a/b": "Kafka takes", "": "tenant", "a b": "Kafka takes", "a\x00b": "tenant", strings.Repeat("x", 250): "tenant",
		"'; drop table carts; --": "Kafka takes",
	} {
		refused(cli.Failed, says, "tenants", "add", "--", tenant)
	}
	refused(cli.Misuse, "needs kafka.layout", "tenants", "add", "acme", "--config", "/dev/null")
	for range 2 { // the second time nothing changes
		ok(t, "tenants", "add", "acme", "--partitions", "2")
		ok(t, "tenants", "add", "bolt", "--own", "--partitions", "3")
		ok(t, "tenants", "add", "crow")
	}
	refused(cli.Failed, "is in ", "tenants", "add", "acme", "--own")
	topics, err := admin.ListTopics(t.Context(), prefix+"-all", prefix+"-bolt.jobs")
	if err != nil || len(topics[prefix+"-all"].Partitions) != 2 || len(topics[prefix+"-bolt.jobs"].Partitions) != 3 {
		t.Fatalf("topics %+v, %v", topics, err)
	}
	put := func(topic string, partition int, key, item string) {
		t.Helper()
		kafkatest.Produce(t, c, &kgo.Record{Topic: prefix + "-" + topic, Partition: int32(partition), Key: []byte(key), Value: fmt.Appendf(nil, `{"name":%q}`, item),
			Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("ItemAdded")}}})
	}
	for i := range 6 {
		put("all", 0, fmt.Sprint("acme:c", i%3), "pen")
		put("all", 0, fmt.Sprint("crow:c", i%3), "ink")
		put("bolt.jobs", i%3, fmt.Sprint("c", i%3), "cap")
	}
	documents := func(tenant string) int {
		t.Helper()
		return strings.Count(ok(t, "documents", "list", "carts", "--tenant", tenant, "--json"), `"id":`)
	}
	want := func(when string, acme, bolt, crow int) {
		t.Helper()
		if a, b, c := documents("acme"), documents("bolt"), documents("crow"); a != acme || b != bolt || c != crow {
			t.Errorf("%s: acme, bolt and crow have %d, %d and %d documents, want %d, %d and %d", when, a, b, c, acme, bolt, crow)
		}
	}
	run("run", "--once")
	want("at first", 3, 3, 3)
	if out := ok(t, "tenants", "remove", "acme", "--yes"); !strings.Contains(out, "3 documents, 3 tombstones") {
		t.Errorf("remove acme: %s", out)
	}
	if out := ok(t, "tenants", "remove", "bolt", "--yes"); !strings.Contains(out, "3 documents") || !strings.Contains(out, "bolt.jobs") {
		t.Errorf("remove bolt: %s", out)
	}
	want("removed", 0, 0, 3)
	run("run", "--once")
	want("after another run", 0, 0, 3)
	ok(t, "rebuild", "start", "carts") // it reads the log from its beginning
	running, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- cli.Run(running, app, []string{"run"}, &cli.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	}()
	for strings.Contains(ok(t, "status", "--json"), `"rebuild"`) { // until it is switched to
		select {
		case <-time.After(100 * time.Millisecond):
		case status := <-done:
			t.Fatalf("run has ended with status %d before the rebuild", status)
		}
	}
	stop()
	<-done
	want("after a rebuild", 0, 0, 3)
	ok(t, "tenants", "remove", "acme", "--yes") // nothing is left to do
	refused(cli.Failed, "unknown tenant", "tenants", "remove", "nobody", "--yes")
	refused(cli.Misuse, "--yes", "tenants", "remove", "crow")
	ok(t, "tenants", "add", "acme")
	ok(t, "tenants", "add", "bolt", "--own")
	c = kafkatest.Client(t) // the first one remembers the old topic
	put("all", 0, "acme:new", "pen")
	put("bolt.jobs", 0, "new", "cap")
	run("run", "--once")
	want("added again", 1, 1, 3)
	lanes := ok(t, "lanes")
	if strings.Contains(lanes, "paused") {
		t.Errorf("lanes:\n%s", lanes)
	}
}
