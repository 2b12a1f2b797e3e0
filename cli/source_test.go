package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
)

// TestKafkaAsSource: with a source in the file the commands have the topic for their
// log, and the database for the read models.
func TestKafkaAsSource(t *testing.T) {
	client, topic := kafkatest.Client(t), kafkatest.Topic(t, 1)
	for i := range 3 {
		kafkatest.Produce(t, client, &kgo.Record{
			Topic: topic, Key: []byte("c1"), Value: fmt.Appendf(nil, `{"name":"pen %d"}`, i),
			Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}, {Key: "type", Value: []byte("ItemAdded")}},
		})
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "shop.yaml")
	text := fmt.Sprintf("database: %s\nsource:\n  kafka:\n    brokers: [%s]\n    topic: ${SHOP_TOPIC}\n    group: %s\n",
		filepath.Join(dir, "shop.db"), strings.Join(kafkatest.Brokers(t), ", "), topic)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHOP_TOPIC", topic)
	t.Setenv(cli.EnvConfig, file)
	ok(t, "run", "--once")
	if out := ok(t, "documents", "get", "carts", "c1", "--tenant", "acme"); !strings.Contains(out, "pen 2") {
		t.Errorf("the document: %s", out)
	}
	kafkatest.Produce(t, client, &kgo.Record{
		Topic: topic, Key: []byte("c1"), Value: []byte(`{"name":"ink"}`),
		Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}, {Key: "type", Value: []byte("ItemAdded")}},
	})
	if out := ok(t, "status"); !strings.Contains(out, "carts") {
		t.Errorf("status: %s", out)
	} else {
		t.Log(out) // one event behind
	}
	if r := run(t, strings.NewReader(event("acme", "c1", 1, "pen", false)), "import", "-"); r.status == cli.OK || !strings.Contains(r.stderr, "source") {
		t.Errorf("import into a topic: status %d, %s", r.status, r.stderr)
	}
}
