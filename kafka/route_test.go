package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/config"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A noted document lists the events that were applied to it.
type noted struct{ Events []string }

func notes() *fairlead.Projection[noted] {
	return fairlead.NewProjection("notes", fairlead.On("Noted", func(n *noted, e fairlead.Event[string]) error {
		n.Events = append(n.Events, e.Data)
		return nil
	}))
}

// notesFile is the file of the service notes: the same in the baseline and in sandboxes.
func notesFile(t *testing.T) *config.File {
	t.Helper()
	const file = `
kafka:
  brokers: [localhost:9092]
  topic: notes
consumer:
  groupId: notes
  service: notes
  hostLabelEnv: SANDBOX
  enableTenantRouting: true
`
	f, err := config.Parse("notes.yaml", []byte(file), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestBaselineAndSandboxes has one topic and three consumers of it, told apart by
// one file and the variable of the environment that names the sandbox. Records are
// stamped by the hook that a producer has.
func TestBaselineAndSandboxes(t *testing.T) {
	f := notesFile(t)
	topic := kafkatest.Topic(t, 3)
	producer := kafkatest.Client(t, kgo.WithHooks(kafka.Stamp(tenancy.Presets["fairlead"])))
	produce := func(o *tenancy.Origin, partition int, what string, headers ...kgo.RecordHeader) {
		t.Helper()
		ctx := t.Context()
		if o != nil {
			ctx = tenancy.NewContext(ctx, *o)
		}
		r := &kgo.Record{Topic: topic, Partition: int32(partition), Key: []byte(what), Value: fmt.Appendf(nil, "%q", what),
			Headers: append(headers, kgo.RecordHeader{Key: "type", Value: []byte("Noted")}, kgo.RecordHeader{Key: "tenant", Value: []byte("acme")})}
		if err := producer.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	test := func(route map[string]string) *tenancy.Origin {
		return &tenancy.Origin{Tenant: "acme", Class: "test", Route: route}
	}
	header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	for i := range 3 {
		at := func(what string) string { return fmt.Sprintf("%s %d", what, i) }
		produce(nil, i, at("no headers"))
		produce(&tenancy.Origin{Tenant: "acme", Class: "prod"}, i, at("production"))
		produce(&tenancy.Origin{Tenant: "acme", Class: "prod", Route: map[string]string{"notes": "one"}}, i, at("production with a route"))
		produce(test(nil), i, at("test without a route"))
		produce(test(map[string]string{"mail": "one"}), i, at("test for another service"))
		produce(test(map[string]string{"notes": "one", "mail": "two"}), i, at("test for one"))
		produce(test(map[string]string{"notes": "two"}), i, at("test for two"))
		produce(test(map[string]string{"notes": "gone"}), i, at("test for a sandbox that is gone"))
		produce(nil, i, at("production with broken baggage"), header("fairlead-class", "prod"), header("baggage", "nonsense,user=1"))
		produce(nil, i, at("test with broken baggage"), header("fairlead-class", "test"), header("baggage", "nonsense,user=1"))
		produce(nil, i, at("unknown class"), header("fairlead-class", "staging"))
		produce(nil, i, at("route without class"), header("fairlead-route", "notes=one"))
		produce(nil, i, at("two classes"), header("fairlead-class", "test"), header("fairlead-class", "other"))
	}
	each := func(names ...string) (all []string) {
		for i := range 3 {
			for _, n := range names {
				all = append(all, fmt.Sprintf("%s %d", n, i))
			}
		}
		slices.Sort(all)
		return all
	}
	for _, c := range []struct {
		host           string
		applies, parks []string
		unowned        int64 // at least: what is read again is counted again
	}{
		{"", each("no headers", "production", "production with a route", "production with broken baggage", "test without a route", "test for another service"),
			each("unknown class", "route without class", "test with broken baggage", "two classes"), 9},
		{"one", each("test for one"), nil, 0},
		{"two", each("test for two"), nil, 0},
	} {
		t.Run("host "+c.host, func(t *testing.T) {
			id, err := f.Consumer.Identify(func(string) string { return c.host })
			if err != nil {
				t.Fatal(err)
			}
			log := open(t, kafka.Config{Topic: topic, Router: id.Router})
			db, err := sqlite.Open(filepath.Join(t.TempDir(), "notes.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			consume(t, log, db, fairlead.Project(notes()))
			got := map[string]bool{}
			docs, err := db.List(t.Context(), "notes", "acme", "", 1000)
			if err != nil {
				t.Fatal(err)
			}
			for i := range docs {
				got[docs[i].ID] = true
			}
			if applied := slices.Sorted(maps.Keys(got)); !slices.Equal(applied, c.applies) {
				t.Errorf("applied %q\nwant    %q", applied, c.applies)
			}
			letters, err := fairlead.Admin{Log: log, Store: db}.DeadLetters(t.Context(), store.LetterFilter{Build: store.Build{Processor: "notes"}})
			if err != nil {
				t.Fatal(err)
			}
			var parked []string
			for _, l := range letters {
				parked = append(parked, l.Event.Stream)
				if l.Error == "" {
					t.Errorf("%s is parked, and not why", l.Event.Stream)
				}
			}
			slices.Sort(parked)
			if !slices.Equal(parked, c.parks) {
				t.Errorf("parked %q\nwant   %q", parked, c.parks)
			}
			_, counts, _ := log.Routed()
			if n := counts.Unowned(); n < c.unowned || c.unowned == 0 && n > 0 {
				t.Errorf("%d events may be nobody's, want %d", n, c.unowned)
			}
		})
	}
}

// consume runs a processor until it has applied all that is in the log.
func consume(t *testing.T, log eventlog.Log, db *sqlite.DB, p fairlead.Processor) {
	t.Helper()
	c, err := fairlead.New(fairlead.Config{Log: log, Store: db})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := c.Add(ctx, p); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	parts, err := log.Partitions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range parts {
		head, err := log.Head(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitFor(ctx, p.Name(), eventlog.Token{Partition: i, Position: head}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRoutedCountsByRule(t *testing.T) {
	router, _, err := tenancy.NewRouter(tenancy.Rules{Service: "notes"})
	if err != nil {
		t.Fatal(err)
	}
	topic := kafkatest.Topic(t, 1)
	log := open(t, kafka.Config{Topic: topic, Router: router})
	producer := kafkatest.Client(t)
	var records []*kgo.Record
	for range 5 {
		r := record(topic, 0, "acme", "s", "Noted", `"x"`)
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "fairlead-class", Value: []byte("prod")})
		records = append(records, r)
	}
	kafkatest.Produce(t, producer, records...)
	if _, err := log.Read(t.Context(), eventlog.ReadRequest{}); err != nil {
		t.Fatal(err)
	}
	env, counts, ok := log.Routed()
	var lines []string
	counts.Each(func(c tenancy.Class, r tenancy.Rule, a tenancy.Action, n int64) {
		lines = append(lines, fmt.Sprint(env, " ", c, " ", r, " ", a, " ", n))
	})
	if !ok || strings.Join(lines, "; ") != "baseline production production process 5" {
		t.Errorf("%v %q", ok, lines)
	}
}
