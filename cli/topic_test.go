package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestTopic runs the program's processors on a topic, by its file alone: as a
// baseline, and as a sandbox.
func TestTopic(t *testing.T) {
	name := kafkatest.Topic(t, 1)
	c := kafkatest.Client(t)
	var records []*kgo.Record
	for i := range 30 {
		class, what := "prod", "pen"
		if i%3 == 0 {
			class, what = "test", "ink"
		}
		records = append(records, &kgo.Record{Topic: name, Key: fmt.Appendf(nil, "acme:c%d", i%6), Value: fmt.Appendf(nil, `{"name":%q}`, what), Headers: []kgo.RecordHeader{
			{Key: "type", Value: []byte("ItemAdded")}, {Key: "fairlead-class", Value: []byte(class)}, {Key: "fairlead-route", Value: []byte("shop=pr-1")},
		}})
	}
	kafkatest.Produce(t, c, records...)
	dir := t.TempDir()
	file := func(reset string) string {
		path := filepath.Join(dir, "shop-"+reset+".yaml")
		text := fmt.Sprintf(`
database: %s/${SHOP_DB}
kafka:
  brokers: ["%s"]
  topic: %s
  keySeparator: ":"
consumer:
  groupId: %s
  service: shop
  hostLabelEnv: SHOP_SANDBOX
  autoOffsetReset: %s
`, dir, strings.Join(kafkatest.Brokers(t), `", "`), name, kafkatest.Name(t), reset)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("SHOP_DB", "baseline.db")
	if r := run(t, nil, "run", "--once", "--config", file("none")); r.status != cli.Failed || !strings.Contains(r.stderr, "autoOffsetReset to earliest or latest") {
		t.Errorf("without a checkpoint: status %d: %s", r.status, r.stderr)
	}
	ok(t, "run", "--once", "--config", file("earliest"))
	if out := ok(t, "documents", "list", "carts", "--tenant", "acme", "--config", file("none")); strings.Contains(out, "ink") || !strings.Contains(out, "pen") {
		t.Errorf("the baseline has\n%s", out)
	}
	ok(t, "run", "--once", "--config", file("none")) // now there is one
	status := object(t, "status", "--config", file("none"))
	if heads, _ := status["heads"].([]any); len(heads) != 1 || heads[0] != 30.0 {
		t.Errorf("status has the heads %v", status["heads"])
	}
	t.Setenv("SHOP_DB", "sandbox.db")
	t.Setenv("SHOP_SANDBOX", "pr-1")
	ok(t, "run", "--once", "--config", file("earliest"))
	if out := ok(t, "documents", "list", "carts", "--tenant", "acme", "--config", file("none")); !strings.Contains(out, "ink") || strings.Contains(out, "pen") {
		t.Errorf("the sandbox has\n%s", out)
	}
	t.Setenv("SHOP_DB", "baseline.db") // its checkpoints are no sandbox's
	if r := run(t, nil, "run", "--once", "--config", file("earliest")); r.status != cli.Failed || !strings.Contains(r.stderr, "a sandbox needs a database of its own") {
		t.Errorf("a sandbox on the baseline's database: status %d: %s", r.status, r.stderr)
	}
	for _, command := range []string{"import", "export"} {
		args := []string{command, "--config", file("none")}
		if command == "import" {
			args = append(args, "-")
		}
		if r := run(t, nil, args...); r.status != cli.Failed || !strings.Contains(r.stderr, "the log is the topic "+name) {
			t.Errorf("%s: status %d: %s", command, r.status, r.stderr)
		}
	}
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("database: x.db\nkafka:\n  brokers: ['127.0.0.1:1']\n  topic: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, nil, "run", "--once", "--config", bad); r.status != cli.Failed || !strings.Contains(r.stderr, "kafka") {
		t.Errorf("no broker: status %d: %s", r.status, r.stderr)
	}
}
