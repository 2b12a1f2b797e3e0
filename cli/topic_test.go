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

// TestDeadLetterTopic has the file say where dead letters go.
func TestDeadLetterTopic(t *testing.T) {
	name, letters := kafkatest.Topic(t, 1), kafkatest.Topic(t, 2)
	headers := []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}, {Key: "type", Value: []byte("ItemAdded")}, {Key: "trace", Value: []byte("t-1")}}
	kafkatest.Produce(t, kafkatest.Client(t),
		&kgo.Record{Topic: name, Key: []byte("c1"), Value: []byte(`{"name":"pen"}`), Headers: headers},
		&kgo.Record{Topic: name, Key: []byte("c2"), Value: []byte(`{"name":`), Headers: headers})
	path := filepath.Join(t.TempDir(), "shop.yaml")
	text := fmt.Sprintf("database: %s.db\nkafka:\n  brokers: [%q]\n  topic: %s\n  deadLetterTopic: %s\n", path, strings.Join(kafkatest.Brokers(t), `", "`), name, letters)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, "run", "--once", "--config", path)
	c := kafkatest.Client(t, kgo.ConsumeTopics(letters), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	said := map[string]string{}
	for said["fairlead-dead-letter-processor"] != "carts" { // totals has one of it, too
		got := c.PollRecords(t.Context(), 1).Records()
		if len(got) != 1 || string(got[0].Key) != "c2" || string(got[0].Value) != `{"name":` {
			t.Fatalf("published %+v", got)
		}
		clear(said)
		for _, h := range got[0].Headers {
			said[h.Key] = string(h.Value)
		}
	}
	for k, want := range map[string]string{
		"trace": "t-1", "type": "ItemAdded", "fairlead-dead-letter-topic": name, "fairlead-dead-letter-partition": "0", "fairlead-dead-letter-offset": "1",
		"fairlead-dead-letter-reason": "decode", "fairlead-dead-letter-processor": "carts", "fairlead-dead-letter-tenant": "acme",
	} {
		if said[k] != want {
			t.Errorf("header %s = %q, want %q", k, said[k], want)
		}
	}
	// It is a processor like others, by its own positions.
	if out := ok(t, "status", "--config", path); !strings.Contains(out, "dead-letters-to-topic") {
		t.Errorf("status has no forwarder of dead letters:\n%s", out)
	}
}
