package registry_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/registry"
	"github.com/fairlead-dev/fairlead/kafka/registry/avro"
	"github.com/fairlead-dev/fairlead/kafka/registry/internal/shop"
	"github.com/fairlead-dev/fairlead/kafka/registry/protobuf"
)

// What handlers take. The reader's schema is that of the newest version.
type (
	orderPlaced struct {
		Order    string `avro:"order" json:"order"`
		Amount   int64  `avro:"amount" json:"amount"`
		Currency string `avro:"currency" json:"currency"`
		Lines    []line `avro:"lines" json:"lines"`
	}
	line struct {
		SKU      string `avro:"sku" json:"sku"`
		Quantity int    `avro:"quantity" json:"quantity"`
	}
	orderPaid struct {
		Order string `avro:"order" json:"order"`
		Paid  struct {
			Cents    int64  `avro:"cents" json:"cents"`
			Currency string `avro:"currency" json:"currency"`
		} `avro:"paid" json:"paid"`
	}
	orderNoted struct {
		Order string `json:"order"`
		Note  string `json:"note"`
	}
)

// foreign is testdata/foreign.json, which foreign.py has made with Confluent's own
// serializers and a registry.
type foreign struct {
	Schemas []struct {
		ID         int
		Subject    string
		Version    int
		Type       sr.SchemaType
		Schema     string
		References []sr.SchemaReference
	}
	Records []struct {
		Name, Value string
		Want        json.RawMessage
	}
}

func readForeign(t testing.TB) (f foreign) {
	t.Helper()
	data, err := os.ReadFile("testdata/foreign.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *foreign) value(t testing.TB, name string) []byte {
	t.Helper()
	for _, r := range f.Records {
		if r.Name == name {
			b, err := hex.DecodeString(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("no record %q", name)
	return nil
}

// newestPlaced is the schema by which orders are read.
func (f *foreign) newestPlaced() string { return f.Schemas[1].Schema }

// seed gives a fake registry the schemas, under their ids.
func (f *foreign) seed(fake *srfake.Registry) {
	seen := map[int]bool{}
	for _, s := range f.Schemas {
		if !seen[s.ID] {
			fake.SeedSchema(s.Subject, s.Version, s.ID, sr.Schema{Schema: s.Schema, Type: s.Type, References: s.References})
		}
		seen[s.ID] = true
	}
}

func newRegistry(t testing.TB, f *foreign, urls ...string) *registry.Registry {
	t.Helper()
	a, err := avro.New(avro.Reads[orderPlaced](f.newestPlaced()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(registry.Config{URLs: urls, Formats: []registry.Format{a, protobuf.New()}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func faked(t testing.TB) (*foreign, *srfake.Registry, *registry.Registry) {
	t.Helper()
	f, fake := readForeign(t), srfake.New()
	t.Cleanup(fake.Close)
	f.seed(fake)
	return &f, fake, newRegistry(t, &f, fake.URL())
}

func record(value []byte, headers ...kgo.RecordHeader) *kgo.Record {
	return &kgo.Record{Topic: "orders", Key: []byte("o-1"), Value: value, Headers: append(headers, kgo.RecordHeader{Key: "tenant", Value: []byte("acme")})}
}

// What foreign programs wrote comes as the types of handlers, and an event's type is
// the name of its message.
func TestForeignRecords(t *testing.T) {
	f, _, fake := faked(t)
	registries := map[string]*registry.Registry{"fake": fake}
	renumbered := map[uint32]uint32{}
	if url := os.Getenv("FAIRLEAD_REGISTRY"); url != "" { // a real one: scripts/registry.sh
		registries[url] = newRegistry(t, f, url)
		client, err := sr.NewClient(sr.URLs(url))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range f.Schemas {
			got, err := client.CreateSchema(t.Context(), s.Subject, sr.Schema{Schema: s.Schema, Type: s.Type, References: s.References})
			if err != nil {
				t.Fatal(err)
			}
			renumbered[uint32(s.ID)] = uint32(got.ID)
		}
	}
	want := map[string]struct {
		typ  string
		into any
	}{
		"avro-v1":         {"shop.OrderPlaced", new(orderPlaced)},
		"avro-v2":         {"shop.OrderPlaced", new(*orderPlaced)},
		"avro-reference":  {"shop.OrderPaid", new(orderPaid)},
		"json":            {"shop.OrderNoted", new(orderNoted)},
		"protobuf-first":  {"shop.v1.OrderPlaced", new(*shop.OrderPlaced)},
		"protobuf-second": {"shop.v1.OrderPaid", new(*shop.OrderPaid)},
		"protobuf-nested": {"shop.v1.Parcel.Moved", new(*shop.Parcel_Moved)},
	}
	if len(f.Records) != len(want) {
		t.Fatalf("%d records, want %d", len(f.Records), len(want))
	}
	for where, r := range registries {
		decode := r.Decoder(kafka.Mapping{})
		for _, rec := range f.Records {
			value, w := f.value(t, rec.Name), want[rec.Name]
			if where != "fake" {
				binary.BigEndian.PutUint32(value[1:], renumbered[binary.BigEndian.Uint32(value[1:])])
			}
			e, err := decode(record(value))
			if err != nil || e.Type != w.typ || e.Tenant != "acme" {
				t.Errorf("%s, %s: event %+v, %v, want the type %s", where, rec.Name, e, err, w.typ)
				continue
			}
			if err := r.Decode(e.Data, w.into); err != nil {
				t.Errorf("%s, %s: %v", where, rec.Name, err)
				continue
			}
			var got []byte
			if m, ok := reflect.ValueOf(w.into).Elem().Interface().(proto.Message); ok {
				got, err = protojson.Marshal(m)
			} else {
				got, err = json.Marshal(w.into)
			}
			if err != nil || !equalJSON(t, got, rec.Want) {
				t.Errorf("%s, %s: got %s, %v, want %s", where, rec.Name, got, err, rec.Want)
			}
		}
	}
}

func equalJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

// A schema may be registered as source, as Java's serializers do.
func TestProtobufSource(t *testing.T) {
	f, fake, r := faked(t)
	source, err := os.ReadFile("internal/shop/shop.proto")
	if err != nil {
		t.Fatal(err)
	}
	fake.SeedSchema("source", 1, 70, sr.Schema{Schema: string(source), Type: sr.TypeProtobuf})
	value := f.value(t, "protobuf-nested")
	value[4] = 70
	e, err := r.Decoder(kafka.Mapping{})(record(value))
	var moved *shop.Parcel_Moved
	if err == nil {
		err = r.Decode(e.Data, &moved)
	}
	if err != nil || e.Type != "shop.v1.Parcel.Moved" || moved.GetTo() != "Zürich" {
		t.Errorf("%s, %v, %v", e.Type, moved, err)
	}
}

// A type without a reader's schema is read as it was written.
func TestAvroWithoutReader(t *testing.T) {
	f, _, r := faked(t)
	type cents struct {
		Cents int     `avro:"cents"`
		Note  *string `avro:"note"`
		Other string  `avro:"other"`
	}
	var got cents
	if err := r.Decode(f.value(t, "avro-v1"), &got); err != nil || got.Cents != 1250 || got.Note == nil || *got.Note != "grüße" || got.Other != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := avro.New(avro.Reads[cents](`{"type":"recor"}`)); err == nil {
		t.Error("a reader's schema that is none was taken")
	}
	if _, err := avro.New(avro.Reads[cents](f.newestPlaced()), avro.Reads[*cents](f.newestPlaced())); err == nil {
		t.Error("two schemas of one type were taken")
	}
}

// What is in no wire format stays as it was, and so do states.
func TestPlainValuesAndStates(t *testing.T) {
	_, fake, r := faked(t)
	fake.Intercept(func(http.ResponseWriter, *http.Request) bool { t.Error("the registry was asked"); return false })
	e, err := r.Decoder(kafka.Mapping{})(record([]byte(`{"order":"o"}`)))
	var got orderNoted
	if err != nil || e.Type != "orders" || r.Decode(e.Data, &got) != nil || got.Order != "o" {
		t.Errorf("%+v, %v, %+v", e, err, got)
	}
	if e, err := r.Decoder(kafka.Mapping{})(record(nil)); err != nil || e.Type != kafka.TombstoneType {
		t.Errorf("a tombstone: %+v, %v", e, err)
	}
	state, err := r.Encode(&orderNoted{"o", "n"})
	if err != nil || string(state) != `{"order":"o","note":"n"}` {
		t.Errorf("a state is %s, %v", state, err)
	}
}

// The type that a producer or the mapping says goes before the schema's name.
func TestTypeOfProducerCounts(t *testing.T) {
	f, _, r := faked(t)
	if e, err := r.Decoder(kafka.Mapping{})(record(f.value(t, "avro-v1"), kgo.RecordHeader{Key: "type", Value: []byte("orders")})); err != nil || e.Type != "orders" {
		t.Errorf("%s, %v", e.Type, err)
	}
	if e, err := r.Decoder(kafka.Mapping{Type: "Placed"})(record(f.value(t, "avro-v1"))); err != nil || e.Type != "Placed" {
		t.Errorf("%s, %v", e.Type, err)
	}
}

// What is no message of its schema is poison: waiting would not heal it.
func TestMalformed(t *testing.T) {
	f, fake, r := faked(t)
	fake.SeedSchema("number", 1, 80, sr.Schema{Schema: `"long"`, Type: sr.TypeAvro})
	fake.SeedSchema("garbage", 1, 81, sr.Schema{Schema: `message {`, Type: sr.TypeProtobuf})
	fake.SeedSchema("empty", 1, 82, sr.Schema{Schema: `AAAA`, Type: sr.TypeProtobuf})
	v1, second := f.value(t, "avro-v1"), f.value(t, "protobuf-second")
	patched := func(b []byte, at int, with ...byte) []byte {
		out := append([]byte(nil), b...)
		copy(out[at:], with)
		return out
	}
	for _, c := range []struct {
		name  string
		value []byte
		into  any
		want  string
	}{
		{"too short for an id", []byte{0, 0, 0}, new(orderPlaced), "3 bytes"},
		{"avro cut short", v1[:len(v1)-2], new(orderPlaced), "schema 1"},
		{"avro with more behind", append(append([]byte(nil), v1...), 7), new(orderPlaced), "1 bytes follow"},
		{"avro of another kind", []byte{0, 0, 0, 0, 80, 2}, new(orderPlaced), "cannot be read as"},
		{"avro with a length that nobody sent", patched(v1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f), new(orderPlaced), "schema 1"},
		{"protobuf of another type", second, new(*shop.OrderPlaced), "is a shop.v1.OrderPaid, and its handler takes shop.v1.OrderPlaced"},
		{"protobuf into a struct", second, new(orderPlaced), "protoc-gen-go"},
		{"protobuf cut short", second[:len(second)-1], new(*shop.OrderPaid), "shop.v1.OrderPaid"},
		{"no message of that index", patched(second, 5, 2, 10), new(*shop.OrderPaid), "no message with the index"},
		{"a negative index", patched(second, 5, 2, 1), new(*shop.OrderPaid), "no message with the index"},
		{"an index of a billion parts", patched(second, 5, 0xff, 0xff, 0xff, 0xff, 0x0f), new(*shop.OrderPaid), "index of the message"},
		{"a schema that is none", []byte{0, 0, 0, 0, 81, 0}, new(*shop.OrderPaid), "schema 81 is none"},
		{"a descriptor that is none", []byte{0, 0, 0, 0, 82, 0}, new(*shop.OrderPaid), "schema 82 is none"},
		{"json cut short", f.value(t, "json")[:9], new(orderNoted), "schema 5"},
	} {
		_, err := r.Decoder(kafka.Mapping{})(record(c.value))
		if err == nil {
			err = r.Decode(c.value, c.into)
		}
		if err == nil || errors.Is(err, kafka.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error for good with %q", c.name, err, c.want)
		}
	}
	if _, err := r.Decoder(kafka.Mapping{})(record([]byte("\x02x"), kgo.RecordHeader{Key: "__value_schema_id"})); err == nil || !strings.Contains(err.Error(), "__value_schema_id") {
		t.Errorf("an id in a header: %v", err)
	}
}

// While the registry is away, or does not know an id, time may heal it. Each schema is
// asked for once, and while it fails not for each record.
func TestUnavailable(t *testing.T) {
	f, fake, r := faked(t)
	var away atomic.Bool
	var asked atomic.Int64
	fake.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		asked.Add(1)
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return away.Load()
	})
	decode := r.Decoder(kafka.Mapping{})
	fails := func(value []byte, want string) {
		t.Helper()
		for range 100 {
			if _, err := decode(record(value)); !errors.Is(err, kafka.ErrUnavailable) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fake.URL()) {
				t.Fatalf("%v, want that it is not available, with %q", err, want)
			}
		}
	}
	heals := func(value []byte) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
			_, err := decode(record(value))
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	away.Store(true)
	fails(f.value(t, "avro-v1"), "schema 1")
	if n := asked.Load(); n > 50 {
		t.Errorf("asked %d times for 100 records", n)
	}
	away.Store(false)
	heals(f.value(t, "avro-v1"))
	asked.Store(0)
	for range 100 {
		heals(f.value(t, "avro-v1"))
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times for what is known", n)
	}
	unknown := append([]byte{0, 0, 0, 0, 90}, f.value(t, "avro-v1")[5:]...)
	fails(unknown, "schema 90")
	fake.SeedSchema("late", 1, 90, sr.Schema{Schema: f.Schemas[0].Schema})
	heals(unknown)
	// What nobody reads is a fault of the program, and no record's.
	bare, err := registry.New(registry.Config{URLs: []string{fake.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Decoder(kafka.Mapping{})(record(f.value(t, "avro-v1"))); !errors.Is(err, kafka.ErrUnavailable) || !strings.Contains(err.Error(), "give registry.Config the format") {
		t.Errorf("without a format: %v", err)
	}
	fake.Close()
	fails(append([]byte{0, 0, 0, 0, 91}, unknown[5:]...), "schema 91")
}

// Whatever a registry answers instead of a schema, or does not answer, time may heal it:
// no record becomes a dead letter for it, and nobody waits longer than the time-out.
func TestOddAnswers(t *testing.T) {
	f, fake, _ := faked(t)
	a, err := avro.New()
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(registry.Config{URLs: []string{fake.URL()}, Formats: []registry.Format{a, protobuf.New()}, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	defer close(ended)
	var answer atomic.Pointer[func(http.ResponseWriter)]
	fake.Intercept(func(w http.ResponseWriter, asked *http.Request) bool {
		do := answer.Load()
		switch {
		case do != nil:
			(*do)(w)
		case strings.Contains(asked.URL.Path, "/subjects/gone/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			return false
		}
		return true
	})
	says := func(status int, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(status); _, _ = w.Write([]byte(text)) }
	}
	for i, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		want   string
	}{
		{"an error of its own", says(http.StatusInternalServerError, `{"error_code":50001,"message":"Error in the backend data store"}`), "Error in the backend"},
		{"no right", says(http.StatusUnauthorized, ``), "status 401"},
		{"a proxy's page", says(http.StatusBadGateway, `<html>`), "status 502"},
		{"a page in place of JSON", says(http.StatusOK, `<html>`), "registry at"},
		{"nothing", says(http.StatusOK, ``), "registry at"},
		{"a schema of no text", says(http.StatusOK, `{"schema":7}`), "registry at"},
		{"a kind that nobody knows", says(http.StatusOK, `{"schema":"x","schemaType":"XML"}`), "registry at"},
		{"no answer", func(http.ResponseWriter) { <-ended }, "deadline"},
	} {
		answer.Store(&c.answer)
		value := append([]byte{0, 0, 0, 1, byte(i)}, f.value(t, "avro-v1")[5:]...)
		began := time.Now()
		_, err := r.Decoder(kafka.Mapping{})(record(value))
		if !errors.Is(err, kafka.ErrUnavailable) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), fake.URL()) {
			t.Errorf("%s: %v, want that it is not available, with %q", c.name, err, c.want)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: it took %v", c.name, took)
		}
	}
	answer.Store(nil)
	fake.SeedSchema("gone", 1, 94, sr.Schema{Schema: `{}`, Type: sr.TypeJSON})
	fake.SeedSchema("refers", 1, 95, sr.Schema{Schema: `{}`, Type: sr.TypeJSON, References: []sr.SchemaReference{{Name: "n", Subject: "gone", Version: 1}}})
	if _, err := r.Decoder(kafka.Mapping{})(record([]byte{0, 0, 0, 0, 95, '{', '}'})); !errors.Is(err, kafka.ErrUnavailable) || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("a reference that it has not: %v", err)
	}
	// And what it has given already needs no registry.
	if _, err := r.Decoder(kafka.Mapping{})(record(f.value(t, "avro-v1"))); err != nil {
		t.Fatal(err)
	}
	broken := says(http.StatusInternalServerError, "")
	answer.Store(&broken)
	if _, err := r.Decoder(kafka.Mapping{})(record(f.value(t, "avro-v1"))); err != nil {
		t.Errorf("a schema that is known: %v", err)
	}
}

// With GiveUp an id that nobody gave ends as a dead letter; a registry that is away
// does not.
func TestGiveUp(t *testing.T) {
	f, fake, _ := faked(t)
	r, err := registry.New(registry.Config{URLs: []string{fake.URL()}, GiveUp: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	unknown := append([]byte{0, 0, 0, 0, 90}, f.value(t, "avro-v1")[5:]...)
	_, err = r.Decoder(kafka.Mapping{})(record(unknown))
	if !errors.Is(err, kafka.ErrUnavailable) {
		t.Errorf("at first: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); errors.Is(err, kafka.ErrUnavailable); <-time.After(20 * time.Millisecond) {
		if _, err = r.Decoder(kafka.Mapping{})(record(unknown)); time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "schema 90") {
		t.Errorf("at last: %v", err)
	}
	fake.Close()
	if _, err := r.Decoder(kafka.Mapping{})(record(f.value(t, "avro-v1"))); !errors.Is(err, kafka.ErrUnavailable) {
		t.Errorf("away: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	known, _, r := faked(f)
	for _, rec := range known.Records {
		f.Add(known.value(f, rec.Name))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(value) > 4 && (value[1] != 0 || value[2] != 0 || value[3] != 0 || value[4] > 6) {
			return
		}
		decode := r.Decoder(kafka.Mapping{})
		if _, err := decode(record(value)); err != nil {
			return
		}
		for _, into := range []any{new(orderPlaced), new(orderPaid), new(orderNoted), new(*shop.OrderPlaced), new(*shop.OrderPaid), new(*shop.Parcel_Moved)} {
			_ = r.Decode(value, into) // an error or none, but no panic
		}
	})
}
