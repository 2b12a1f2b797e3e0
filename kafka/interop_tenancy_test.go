package kafka_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// taken reads a topic of one partition as the baseline, or as a sandbox of the
// service notes, and returns what is its own: tenant, class and data, and why it is
// to be parked.
func taken(t *testing.T, topic, host string) (own []string, events []event.Event) {
	t.Helper()
	f := notesFile(t)
	id, err := f.Consumer.Identify(func(string) string { return host })
	if err != nil {
		t.Fatal(err)
	}
	events, _ = readAll(t, open(t, kafka.Config{Topic: topic, Router: id.Router}), 0, 0)
	for i := range events {
		e := &events[i]
		what := string(e.Data)
		if e.Fault != nil {
			what = "parked"
		}
		own = append(own, fmt.Sprintf("%s/%s/%s %s", e.Tenant, e.Class, e.Stream, what))
	}
	return own, events
}

// TestJavaAgent: what a Java producer that knows nothing of headers has in its baggage
// arrives by the OpenTelemetry Java agent, and says whose a record is.
func TestJavaAgent(t *testing.T) {
	t.Parallel()
	topic := kafkatest.Topic(t, 1)
	lines := []string{
		"fairlead-tenant=acme,fairlead-class=prod\ta\tproduction",
		"fairlead-tenant=acme,fairlead-class=test,fairlead-route=notes=one\ta\ttest for one",
		"other=member,fairlead-tenant=größe \"; ✓,fairlead-class=test,fairlead-route=notes=two\tb\ttest for two",
		"fairlead-tenant=acme,fairlead-class=test,fairlead-route=mail=one\tc\ttest for another service",
		"fairlead-tenant=acme\td\ttenant only",
		"fairlead-tenant=acme,fairlead-class=staging\te\tunknown class",
		"\tf\tno baggage",
	}
	kafkatest.TracedJava(t, "testdata/TracedProducer.java", strings.Join(lines, "\n")+"\n", strings.Join(kafkatest.Brokers(t), ","), topic)
	for host, want := range map[string][]string{
		"":    {"acme/prod/a production", "acme/test/c test for another service", "acme//d tenant only", "acme/staging/e parked", "//f no baggage"},
		"one": {"acme/test/a test for one"},
		"two": {"größe \"; ✓/test/b test for two"},
	} {
		got, events := taken(t, topic, host)
		if !slices.Equal(got, want) {
			t.Errorf("host %q has %q, want %q", host, got, want)
		}
		for _, e := range events {
			if !regexp.MustCompile("^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$").MatchString(e.Metadata["traceparent"]) {
				t.Errorf("host %q, %s: traceparent %q, want the agent's", host, e.Data, e.Metadata["traceparent"])
			}
		}
	}
}

// TestKcat: records and headers by librdkafka's tool, in all that it can do with them.
func TestKcat(t *testing.T) {
	topic, brokers := kafkatest.Topic(t, 1), strings.Join(kafkatest.Brokers(t), ",")
	produce := func(input string, args ...string) {
		t.Helper()
		kafkatest.Kcat(t, input, append([]string{"-P", "-b", brokers, "-t", topic, "-K", "\t"}, args...)...)
	}
	produce("a\tproduction\n", "-H", "fairlead-tenant=acme", "-H", "type=Noted", "-H", "id=n1")
	produce("a\ttest for one\n", "-H", "fairlead-tenant=acme", "-H", "fairlead-class=test", "-H", "fairlead-route=notes=one", "-z", "lz4")
	produce("b\tby baggage\n", "-H", "baggage=x=y,fairlead-tenant=gr%C3%B6%C3%9Fe;p=1,fairlead-class=test,fairlead-route=notes%3Done", "-z", "snappy")
	produce("c\ttwo tenants\n", "-H", "fairlead-tenant=acme", "-H", "baggage=fairlead-tenant=other")
	produce("d\tthe same twice\n", "-H", "fairlead-tenant=acme", "-H", "baggage=fairlead-tenant=acme")
	produce("e\ta header without a value\n", "-H", "tenant=acme", "-H", "fairlead-class", "-z", "gzip")
	produce("f\t\n", "-Z", "-H", "tenant=acme")
	got, events := taken(t, topic, "")
	want := []string{"acme//a production", "//c parked", "acme//d the same twice", "acme//e a header without a value", "acme//f "}
	if !slices.Equal(got, want) {
		t.Fatalf("the baseline has %q, want %q", got, want)
	}
	if e := events[0]; e.Type != "Noted" || e.ID != "n1" {
		t.Errorf("the first has type %q and id %q", e.Type, e.ID)
	}
	if e := events[4]; e.Type != kafka.TombstoneType || e.Data != nil {
		t.Errorf("the last is %+v, want a tombstone", e)
	}
	if got, _ := taken(t, topic, "one"); !slices.Equal(got, []string{"acme/test/a test for one", "größe/test/b by baggage"}) {
		t.Errorf("the sandbox has %q", got)
	}
}

// TestKcatPartitions: told to use murmur2, as Java does, it puts a key where the
// layout of own topics says.
func TestKcatPartitions(t *testing.T) {
	const partitions = 27
	topic := kafkatest.Topic(t, partitions)
	ks := keys()
	kafkatest.Kcat(t, strings.Join(ks, "\tv\n")+"\tv\n", "-P", "-b", strings.Join(kafkatest.Brokers(t), ","), "-t", topic, "-K", "\t",
		"-X", "topic.partitioner=murmur2_random", "-X", "topic.metadata.refresh.interval.ms=1000")
	check(t, layout.Config{Own: "{tenant}.jobs"}, topic, partitions, len(ks))
}
