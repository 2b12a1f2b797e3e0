package registry_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"google.golang.org/protobuf/proto"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/registry/internal/shop"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// account is a read model of orders in three formats.
type account struct {
	Placed, Paid int64
	Seen         []string
}

func accounts() *fairlead.Projection[account] {
	return fairlead.NewProjection("accounts",
		fairlead.On("shop.OrderPlaced", func(a *account, e fairlead.Event[orderPlaced]) error {
			a.Placed, a.Seen = a.Placed+e.Data.Amount, append(a.Seen, e.Data.Order)
			return nil
		}),
		fairlead.On("shop.v1.OrderPaid", func(a *account, e fairlead.Event[*shop.OrderPaid]) error {
			a.Paid, a.Seen = a.Paid+e.Data.GetCents(), append(a.Seen, e.Data.GetOrder())
			return nil
		}),
		fairlead.On("shop.OrderNoted", func(a *account, e fairlead.Event[orderNoted]) error {
			a.Seen = append(a.Seen, e.Data.Note)
			return nil
		}))
}

// TestLanes has a topic on the real broker. Lanes whose registry is away, or does not
// know a schema yet, wait, and they only, and nothing of theirs is a dead letter; a
// malformed record is one, says what and where, and holds its key only.
func TestLanes(t *testing.T) {
	f, fake, r := faked(t)
	var away atomic.Bool
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return away.Load()
	})
	client := kafkatest.Client(t)
	topic := kafkatest.Topic(t, 2)
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "models.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Decode: r.Decoder(kafka.Mapping{})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	consumer, err := fairlead.New(fairlead.Config{Log: log, Store: db})
	if err != nil {
		t.Fatal(err)
	}
	p := accounts().WithCodec(r)
	if err := consumer.Add(t.Context(), fairlead.Project(p)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	}()

	ends := map[int32]event.Position{}
	write := func(partition int32, stream string, value []byte) {
		t.Helper()
		for _, r := range kafkatest.Produce(t, client, &kgo.Record{
			Topic: topic, Partition: partition, Key: []byte(stream), Value: value, Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}},
		}) {
			ends[partition] = event.Position(r.Offset + 1)
		}
	}
	wait := func(partition int32) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := consumer.WaitFor(ctx, "accounts", eventlog.Token{Partition: int(partition), Position: ends[partition], Tenants: []string{"acme"}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(stream string, w account) {
		t.Helper()
		got, err := fairlead.Get(t.Context(), db, p, "acme", stream)
		if err != nil || fmt.Sprint(got.State) != fmt.Sprint(w) {
			t.Errorf("%s = %+v, %v, want %+v", stream, got.State, err, w)
		}
	}
	letters := func() []string {
		t.Helper()
		var out []string
		ls, err := fairlead.Admin{Store: db, Log: log}.DeadLetters(t.Context(), fairlead.LetterFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range ls {
			out = append(out, fmt.Sprintf("%s/%s@%d %s %s: %s", l.Tenant, l.Event.Stream, l.Event.Position, l.State, l.Reason, l.Error))
		}
		return out
	}
	paid, err := proto.Marshal(&shop.OrderPaid{Order: "paid", Cents: 300})
	if err != nil {
		t.Fatal(err)
	}
	late := func(value []byte, id uint32) []byte {
		out := append([]byte(nil), value...)
		binary.BigEndian.PutUint32(out[1:], id)
		return out
	}
	v1, v2 := f.value(t, "avro-v1"), f.value(t, "avro-v2")

	// All formats, and two versions of one schema under one handler.
	write(0, "a", v1)
	write(0, "a", v2)
	write(0, "a", append(append([]byte(nil), f.value(t, "protobuf-second")[:7]...), paid...))
	write(0, "a", f.value(t, "json"))
	wait(0)
	want("a", account{1250 + 9007199254740993, 300, []string{"o-1", "o-2", "paid", "<ü>"}})

	// An id that is not registered yet holds its lane, and nobody else's.
	write(0, "b", v1)
	write(0, "b", late(v1, 90))
	write(0, "b", v2)
	write(1, "c", v1)
	wait(1)
	want("c", account{1250, 0, []string{"o-1"}})
	waits := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; <-time.After(20 * time.Millisecond) {
			stats, err := consumer.Stats("accounts")
			if err != nil {
				t.Fatal(err)
			}
			if s := fmt.Sprint(stats.Errors); strings.Contains(s, what) && strings.Contains(s, "acme") && strings.Contains(s, "waits before position") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no lane says that it waits for %q: %v", what, stats.Errors)
			}
		}
	}
	waits("schema 90")
	want("b", account{1250, 0, []string{"o-1"}})
	away.Store(true) // and the registry fails as well
	fake.SeedSchema("late", 1, 90, sr.Schema{Schema: f.Schemas[0].Schema})
	write(1, "c", v1) // known schemas need no registry
	wait(1)
	waits("Service Unavailable")
	if ls := letters(); len(ls) != 0 {
		t.Errorf("dead letters %q, want none", ls)
	}
	away.Store(false)
	wait(0)
	want("b", account{2*1250 + 9007199254740993, 0, []string{"o-1", "o-1", "o-2"}})

	// What is malformed holds its key.
	write(0, "b", v1[:len(v1)-3])
	write(0, "b", v1)
	write(0, "a", []byte{0, 1})
	write(0, "d", v1)
	wait(0)
	want("d", account{1250, 0, []string{"o-1"}})
	ls := letters()
	if len(ls) != 3 || !strings.Contains(ls[0], "acme/b@8 poison decode") || !strings.Contains(ls[0], "schema 1") ||
		!strings.Contains(ls[1], "acme/b@9 waiting") || !strings.Contains(ls[2], "acme/a@10 poison decode") || !strings.Contains(ls[2], "2 bytes") {
		t.Errorf("dead letters\n%s", strings.Join(ls, "\n"))
	}
}
