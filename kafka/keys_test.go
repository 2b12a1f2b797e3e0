package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/ops"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRoutingKeys has a baseline and two sandboxes, and a producer of records that carry
// one routing key and nothing else, while the route of that name is made, changed and
// removed over HTTP. Each record has one owner, the one that the route had named where it
// stands in the log; what is produced after an answer goes by what was answered. A process
// that reads all of it anew comes to the same.
func TestRoutingKeys(t *testing.T) {
	t.Parallel()
	const parts, key = 3, "3kx9q"
	names := tenancy.Presets["signadot"]
	topic, database := kafkatest.Topic(t, parts), pgtest.Database(t)
	base := startRoutingBy(t, names, database, topic, "", "", fairlead.Project(notes()))
	boxes := map[string]*routing{"": base}
	for _, host := range []string{"pr-1", "pr-2"} {
		boxes[host] = startRoutingBy(t, names, database, topic, host, "", fairlead.Project(notes()))
	}
	m := &ops.Metrics{
		Admin:  fairlead.Admin{Log: base.log, Store: base.db},
		Routes: &ops.Routes{Ledger: base.l, Log: base.log.LedgerLog(), Service: "notes", Names: &names, Class: "test", Bind: base.log.Bind},
	}
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	ask := func(method, body, want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/routes/"+key, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK || !strings.Contains(string(said), want) {
			t.Fatalf("%s %s: %d %s", method, body, r.StatusCode, said)
		}
	}

	l := newRoutedLoad(t, topic, parts)
	client := kafkatest.Client(t, kgo.WithHooks(kafka.Stamp(names)))
	tests := tenancy.NewContext(t.Context(), tenancy.Origin{Tenant: "acme", Class: "test", Route: map[string]string{"": key}})
	var mu sync.Mutex
	sent, acked := 0, 0 // rounds, each of a record in each partition
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			case <-time.After(2 * time.Millisecond):
			}
			mu.Lock()
			sent++
			n := sent
			mu.Unlock()
			var records []*kgo.Record
			for p := range parts {
				l.next[fmt.Sprintf("k/%d", p)] = n
				records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Key: fmt.Appendf(nil, "k/%d", p), Value: fmt.Appendf(nil, "%q", fmt.Sprint(n)),
					Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Noted")}, {Key: "tenant", Value: []byte("acme")}}})
			}
			if err := client.ProduceSync(tests, records...).FirstErr(); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			acked = n
			mu.Unlock()
		}
	}()
	stop := sync.OnceFunc(func() { close(ended); <-done })
	defer stop()
	at := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return sent, acked
	}
	// A phase are the rounds that began after the answer to one request, and were in the
	// log before the next.
	type phase struct {
		host     string
		from, to int
	}
	var phases []phase
	change := func(host string, f func()) {
		t.Helper()
		f()
		from, _ := at()
		to := 0
		eventually(t, 30*time.Second, "records are produced", func() bool { _, to = at(); return to >= from+20 })
		phases = append(phases, phase{host, from, to})
	}
	change("", func() {}) // nobody has heard of the key
	change("pr-1", func() { ask("PUT", `{"notes":"pr-1","mail":"pr-7"}`, "sd-routing-key="+key) })
	change("pr-2", func() { ask("PUT", `{"notes":"pr-2","mail":"pr-7"}`, `"notes":"pr-2"`) })
	change("", func() { ask("PUT", `{"mail":"pr-7"}`, `"mail":"pr-7"`) })
	change("pr-1", func() { ask("PUT", `{"notes":"pr-1"}`, `"notes":"pr-1"`) })
	change("", func() { ask("DELETE", "", "removed") })
	stop()

	eventually(t, 30*time.Second, "each record has one owner", func() bool {
		return len(l.missing(base.db, boxes["pr-1"].db, boxes["pr-2"].db)) == 0 && routed(t, base.db) == 0
	})
	owner := map[string]string{} // of stream and number
	for host, box := range boxes {
		for stream, events := range applied(t, box.db) {
			for _, n := range events {
				owner[stream+" "+n] = host
			}
		}
	}
	for _, ph := range phases {
		for n := ph.from + 1; n <= ph.to; n++ {
			for p := range parts {
				if got := owner[fmt.Sprintf("k/%d %d", p, n)]; got != ph.host {
					t.Fatalf("round %d, partition %d: it is %q's, and the route was %q's from round %d to %d", n, p, got, ph.host, ph.from, ph.to)
				}
			}
		}
	}

	// Who has seen nothing of it reads all of it.
	led, err := postgres.OpenLedger(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = led.Close() }()
	fresh := open(t, kafka.Config{Topic: topic, Router: routerBy(t, names, ""), Ledger: led})
	for p := range parts {
		var events []event.Event
		for after := event.Beginning; ; {
			page, err := fresh.Read(t.Context(), eventlog.ReadRequest{Partition: p, After: after})
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, page.Events...)
			if after = page.Next; page.Next >= page.Head {
				break
			}
		}
		for i, e := range events {
			host := ""
			if r, ok := errors.AsType[*event.Reserved](e.Fault); ok {
				host = r.Host
			}
			if want := owner[fmt.Sprintf("k/%d %d", p, i+1)]; host != want {
				t.Fatalf("record %d of partition %d is %q's when it is read again, and was %q's", i+1, p, host, want)
			}
		}
		if len(events) != l.next[fmt.Sprintf("k/%d", p)] {
			t.Errorf("partition %d has %d events, want %d", p, len(events), l.next[fmt.Sprintf("k/%d", p)])
		}
	}
	t.Logf("%d rounds: %+v", sent, phases)

	// The ledger has learnt all that there is to learn, and says so.
	if keys, err := led.Keys(t.Context(), fresh.LedgerLog(), "notes", nil); err != nil || len(keys) != 1 || keys[0].Host != "" || keys[0].Pending(0) || len(keys[0].Bindings[0]) != 5 {
		t.Errorf("keys %+v, %v", keys, err)
	}
	// It forgets that when it is in the topic no more.
	keeper := fairlead.RouteKeeper{Store: base.db, Ledger: base.l, Log: base.log.LedgerLog(), Service: "notes", Start: base.log.Start, Bind: base.log.Bind}
	known := func() []ledger.Key {
		t.Helper()
		if _, err := keeper.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		keys, err := led.Keys(t.Context(), fresh.LedgerLog(), "notes", nil)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	if keys := known(); len(keys) != 1 || len(keys[0].Bindings[0]) != 5 {
		t.Errorf("keys %+v, and all is in the topic", keys)
	}
	admin := kadm.NewClient(client)
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "it is forgotten", func() bool { return len(known()) == 0 })
}

// A key is looked up by service.
func TestRoutingKeysNeedAService(t *testing.T) {
	r, _, err := tenancy.NewRouter(tenancy.Rules{Names: tenancy.Presets["signadot"]})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := kafka.Open(t.Context(), kafka.Config{Brokers: kafkatest.Brokers(t), Topic: "t", Router: r, Ledger: &postgres.Ledger{}}); err == nil || !strings.Contains(err.Error(), "by service") {
		_ = l.Close()
		t.Errorf("opened, %v", err)
	}
}

// Without the ledger nothing is decided about a record with a routing key, and others are.
func TestRoutingKeyWithoutLedger(t *testing.T) {
	t.Parallel()
	topic, database := kafkatest.Topic(t, 1), pgtest.Database(t)
	led, err := postgres.OpenLedger(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	names := tenancy.Presets["signadot"]
	log := open(t, kafka.Config{Topic: topic, Router: routerBy(t, names, ""), Ledger: led})
	client := kafkatest.Client(t, kgo.WithHooks(kafka.Stamp(names)))
	produce := func(o tenancy.Origin) {
		t.Helper()
		r := &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(`"x"`), Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Noted")}, {Key: "tenant", Value: []byte("acme")}}}
		if err := client.ProduceSync(tenancy.NewContext(context.WithoutCancel(t.Context()), o), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	_ = led.Close()
	produce(tenancy.Origin{Tenant: "acme", Class: "prod"})
	page, err := log.Read(t.Context(), eventlog.ReadRequest{})
	if err != nil || len(page.Events) != 1 {
		t.Fatalf("production: %+v, %v", page, err)
	}
	produce(tenancy.Origin{Tenant: "acme", Class: "test", Route: map[string]string{"": "k1"}})
	if page, err := log.Read(t.Context(), eventlog.ReadRequest{After: page.Next}); err == nil || !strings.Contains(err.Error(), "routing keys") {
		t.Errorf("a record with a key: %+v, %v", page, err)
	}
}
