package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/config"
	"github.com/fairlead-dev/fairlead/tenancy"
)

func env(name string) (string, bool) {
	v, ok := map[string]string{"PASSWORD": "s3cret", "HOST": "orders-pr-42"}[name]
	return v, ok
}

func parse(t *testing.T, text string) *config.File {
	t.Helper()
	f, err := config.Parse("fairlead.yaml", []byte(text), env)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// topic is needed where there is a consumer.
const topic = "kafka: {brokers: ['localhost:9092'], topic: orders}\n"

func TestParse(t *testing.T) {
	f := parse(t, `
database: postgres://app:${PASSWORD}@localhost/app
memory: 256MiB
lease: 15s
slots: 8
kafka:
  brokers: [localhost:9092]
  topic: orders
  sasl: {mechanism: plain, user: app, password: "${PASSWORD}"}
consumer:
  groupId: orders
  service: orders
  hostLabelEnv: HOST
  enableTenantRouting: true
  headers: doordash
`)
	if k := f.Kafka; k.Topic != "orders" || k.SASL.Password != "s3cret" {
		t.Errorf("%+v", k)
	}
	if f.Database != "postgres://app:s3cret@localhost/app" || f.Memory != 256<<20 || time.Duration(f.Lease) != 15*time.Second || f.Slots != 8 {
		t.Errorf("%+v", f)
	}
	if c := f.Consumer; c.GroupID != "orders" || c.EnableTenantRouting == nil || !*c.EnableTenantRouting || c.Headers.Preset != "doordash" || c.RandomTenantGroupID != nil {
		t.Errorf("%+v", c)
	}
	if f := parse(t, ""); f.Consumer != nil {
		t.Errorf("of nothing: %+v", f)
	}
	if f := parse(t, topic+"consumer: {groupId: g, headers: {tenant: x-tenant, class: x-class}}"); f.Consumer.Headers.Tenant != "x-tenant" {
		t.Errorf("%+v", f.Consumer)
	}
}

// TestBadFiles: each error names the file, the line and the key.
func TestBadFiles(t *testing.T) {
	for _, x := range []struct{ name, text, says string }{
		{"unknown key", "name: a\nleese: 10s\n", `fairlead.yaml:2:1: unknown field "leese"`},
		{"unknown key inside", "consumer:\n  groupId: g\n  allowedTenancies: [prod]\n", `fairlead.yaml:3:3: unknown field "allowedTenancies"`},
		{"unknown header", "consumer:\n  groupId: g\n  headers:\n    tenat: x\n", `fairlead.yaml:4`},
		{"key twice", "name: a\nname: b\n", "fairlead.yaml:2"},
		{"wrong type", "slots: many\n", "fairlead.yaml:1"},
		{"list for a string", "consumer:\n  groupId: [a]\n", "fairlead.yaml:2"},
		{"size", "name: a\nmemory: 64\n", "fairlead.yaml:2"},
		{"negative size", "memory: -3MiB\n", "write it as 64MiB"},
		{"duration", "lease: 10\n", "fairlead.yaml:1"},
		{"short lease", "name: a\nlease: 10ms\n", "fairlead.yaml:2: lease: 10ms: at least a second"},
		{"negative slots", "slots: -1\n", "fairlead.yaml:1: slots: -1: must be positive"},
		{"no variable", "name: a\ndatabase: x${NONE}\n", "fairlead.yaml:2: database: the environment has no NONE"},
		{"no variable in a group", "kafka: {brokers: ['a:1'], topic: t}\nconsumer:\n  groupId: orders-${NONE}\n  service: s\n", "fairlead.yaml:3: consumer.groupId: the environment has no NONE"},
		{"no variable in a list", "kafka: {brokers: ['a:1'], topic: t}\nconsumer:\n  groupId: g\n  testTenants: [a, \"${NONE}\"]\n", "fairlead.yaml:4: consumer.testTenants: the environment has no NONE"},
		{"reset", "consumer:\n  groupId: g\n  autoOffsetReset: newest\n", `fairlead.yaml:3: consumer.autoOffsetReset: "newest"`},
		{"empty list", "consumer:\n  groupId: g\n  allowedConsumerTenancies: []\n", "fairlead.yaml:3: consumer.allowedConsumerTenancies: an empty list"},
		{"preset", "consumer:\n  groupId: g\n  headers: dordash\n", `fairlead.yaml:3: consumer.headers: no preset "dordash": there are doordash, fairlead`},
		{"no broker", "kafka:\n  topic: t\n", "kafka.brokers: name a broker"},
		{"no topic", "name: a\nkafka:\n  brokers: [a:1]\n", "kafka.topic: name the topic"},
		{"topic and topics", "kafka:\n  brokers: [a:1]\n  topic: t\n  topics: [a, b]\n", "fairlead.yaml:3: kafka.topic: of topic, topics and layout one"},
		{"topics and layout", "kafka:\n  brokers: [a:1]\n  topics: [a, b]\n  layout: {shared: s}\n", "kafka.topic: of topic, topics and layout one"},
		{"empty layout", "kafka:\n  brokers: [a:1]\n  layout: {separator: ':'}\n", "fairlead.yaml:3: kafka.layout: neither own nor shared"},
		{"unknown key of the layout", "kafka:\n  brokers: [a:1]\n  layout:\n    owned: x\n", `fairlead.yaml:4:5: unknown field "owned"`},
		{"two separators", "kafka:\n  brokers: [a:1]\n  keySeparator: '/'\n  layout: {shared: s}\n", "fairlead.yaml:3: kafka.keySeparator"},
		{"a directory of one topic", "kafka:\n  brokers: [a:1]\n  topic: t\n  directory: d\n", "fairlead.yaml:4: kafka.directory: \"d\": it is for several topics"},
		{"mechanism", "kafka:\n  brokers: [a:1]\n  topic: t\n  sasl:\n    mechanism: md5\n    user: u\n    password: p\n", "fairlead.yaml:5: kafka.sasl.mechanism: \"md5\""},
		{"no password", "kafka:\n  brokers: [a:1]\n  topic: t\n  sasl: {mechanism: plain, user: u, password: \"${NONE}\"}\n", "fairlead.yaml:4: kafka.sasl.password: the environment has no NONE"},
		{"two groups", "kafka:\n  brokers: [a:1]\n  topic: t\n  group: g\nconsumer:\n  groupId: h\n", "fairlead.yaml:4: kafka.group: \"g\": there is a consumer"},
		{"a member of no group", "kafka:\n  brokers: [a:1]\n  topic: t\n  serverProtocol: true\n", "kafka.group: instanceId and serverProtocol"},
		{"dead letters into the topic", "kafka:\n  brokers: [a:1]\n  topic: t\n  deadLetterTopic: t\n", "fairlead.yaml:4: kafka.deadLetterTopic: \"t\" is the topic that is read"},
		{"a consumer of no topic", "consumer:\n  groupId: g\n", "consumer: only a topic is shared"},
		{"no YAML", "name: [\n", "fairlead.yaml:"},
		{"tab", "name: a\n\tlease: 10s\n", "fairlead.yaml:2"},
		{"two documents", "name: a\n---\nname: b\n", "more than one document"},
		{"a list", "- a\n", "fairlead.yaml:1"},
	} {
		_, err := config.Parse("fairlead.yaml", []byte(x.text), env)
		if err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v\n  want %s", x.name, err, x.says)
		}
	}
	if _, err := config.Load("/does/not/exist.yaml"); err == nil || !strings.Contains(err.Error(), "/does/not/exist.yaml") {
		t.Errorf("no file: %v", err)
	}
}

func TestIdentify(t *testing.T) {
	for _, x := range []struct {
		name, text, host string
		group, reset     string
		err, warns       string
	}{
		{"baseline", "{groupId: orders, service: orders}", "", "orders", "none", "", ""},
		{"sandbox", "{groupId: orders, service: orders}", "orders-pr-42", "orders-pr-42", "latest", "", ""},
		{"label without the service's name", "{groupId: orders, service: orders}", "pr-42", "orders-pr-42", "latest", "", ""},
		{"label that is the service's name", "{groupId: orders, service: orders}", "orders-", "orders-orders-", "latest", "", ""},
		{"reset by hand", "{groupId: orders, service: orders, autoOffsetReset: earliest}", "pr-42", "orders-pr-42", "earliest", "", ""},
		{"own group", "{groupId: mine, service: orders, randomTenantGroupId: false}", "pr-42", "mine", "latest", "", "takes partitions from the baseline"},
		{"static lists", "{groupId: orders, service: orders, allowedConsumerTenancies: [prod]}", "", "orders", "none", "", "without enableTenantRouting"},
		{"no group", "{service: orders}", "", "", "", "groupId is not set", ""},
		{"suffix of nothing", "{groupId: orders, service: orders, randomTenantGroupId: true}", "", "", "", "no host label to append", ""},
		{"no service", "{groupId: orders}", "", "", "", "set service", ""},
		{"K9: both classes and no routing", "{groupId: g, service: s, allowedConsumerTenancies: [prod, test], enableTenantRouting: false}", "", "", "", "forbids it", ""},
		{"K10: only the other class", "{groupId: g, service: s, allowedConsumerTenancies: [test]}", "", "", "", "would not take its own events", ""},
		{"K11", "{groupId: g, service: s, allowedConsumerTenancies: [prod], enableTenantRouting: true}", "pr-1", "", "", "would not take its own events", ""},
		{"K12", "{groupId: g, service: s, allowedConsumerTenancies: [prod], enableTenantRouting: false}", "pr-1", "", "", "would not take its own events", ""},
		{"a shadow that was not asked for", "{groupId: g, service: s, enableTenantRouting: false}", "pr-1", "", "", "Set shadow: true", ""},
		{"a shadow", "{groupId: g, service: s, enableTenantRouting: false, shadow: true}", "pr-1", "g-pr-1", "latest", "", ""},
		{"no such class", "{groupId: g, service: s, allowedConsumerTenancies: [prod, tset]}", "", "", "", `"tset", which is no class`, ""},
		{"classes of their own", "{groupId: g, service: s, allowedConsumerTenancies: [live, doortest], productionClass: live, testClasses: [doortest]}", "", "g", "none", "", ""},
	} {
		id, err := parse(t, topic+"consumer: "+x.text).Consumer.Identify(func(name string) string {
			if name == "FAIRLEAD_HOST_LABEL" {
				return x.host
			}
			return ""
		})
		switch {
		case x.err != "":
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Errorf("%s: %v, want %s", x.name, err, x.err)
			}
		case err != nil:
			t.Errorf("%s: %v", x.name, err)
		case id.Group != x.group || id.Reset != x.reset || id.Host != x.host:
			t.Errorf("%s: %+v", x.name, id)
		case (x.warns == "") != (len(id.Warnings) == 0) || !strings.Contains(strings.Join(id.Warnings, "\n"), x.warns):
			t.Errorf("%s: warnings %q", x.name, id.Warnings)
		}
	}
}

// TestConfiguredRouter takes one file to a decision, by the names of a preset.
func TestConfiguredRouter(t *testing.T) {
	type header struct {
		Key   string
		Value []byte
	}
	c := parse(t, topic+"consumer: {groupId: g, service: orders, headers: doordash, testClasses: [doortest], hostLabelEnv: HOST}").Consumer
	sandbox, err := c.Identify(func(name string) string { v, _ := env(name); return v })
	if err != nil {
		t.Fatal(err)
	}
	baseline, err := c.Identify(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	routed := []header{{"tenant", []byte("doortest")}, {"route", []byte("orders=orders-pr-42")}}
	if v := tenancy.Route(sandbox.Router, routed); v.Action != tenancy.Process {
		t.Errorf("the sandbox: %v by %v", v.Action, v.Rule)
	}
	if v := tenancy.Route(baseline.Router, routed); v.Action == tenancy.Process {
		t.Errorf("the baseline: %v by %v", v.Action, v.Rule)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("consumer:\n  groupId: g\n  headers: {tenant: x}\nlease: 10s\nmemory: 1MiB\n")
	f.Add("database: ${A}\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse("f.yaml", []byte(text), env)
		if err == nil && c.Consumer != nil {
			_, _ = c.Consumer.Identify(func(string) string { return "x" })
		}
		if err != nil && !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("the error does not name the file: %v", err)
		}
	})
}
