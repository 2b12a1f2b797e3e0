package eventlogtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

func runNames(sub func(string, func(*fixture))) {
	sub("NamesRoundTrip", testNames)
	sub("NamesRefused", testNamesRefused)
	sub("NamesAreCompared", testNamesCompared)
	sub("ClassRoundTrip", testClassRoundTrip)
	sub("ClassRefused", testClassRefused)
	sub("MetadataRoundTrip", testMetadata)
	sub("LargeMetadataRefused", testLargeMetadata)
	sub("DataRoundTrip", testData)
	sub("TimesRoundTrip", testTimes)
	sub("TimesRefused", testTimesRefused)
	sub("CallerKeepsWhatItPassed", testNoAliasing)
}

// odd are names that a log must store as they are.
var odd = []string{
	`O'Neil`, `"quoted"`, "back`tick", `'; DROP TABLE events; --`, `a' OR '1'='1`, `%`, `_`, `a%b_c`, `?1`, `$1`, `:name`, `@p`,
	`../../etc/passwd`, `..`, `C:\temp\x`, `/`, `a/b/c`, `a b`, `a  b`, `{"json":1}`, `[1]`, `<b>&amp;</b>`, `%s%d%!`, `null`, `0`, `-1`, `1e3`, `true`,
	`🛒`, `🇪🇺🦊`, `東京支店`, `متجر`, "e\u0301", "\u00e9", `ß`, `İ`, `𝒜`, "\ufffd", `#fragment?query=1&x`, `a@1`, `1:a/s`, `~`, `|`, `a,b;c`, `\x00`, `\`,
}

func testNames(t *fixture) {
	for i, name := range odd {
		a := eventlog.StreamAppend{Tenant: name, Stream: name, Events: []eventlog.NewEvent{
			{ID: fmt.Sprintf("%s %d", name, i), Type: name, Data: []byte(`{}`)},
			{Type: name, Data: []byte(`{}`)},
		}}
		t.append(a)
		t.append(a) // known again
		r := eventlog.StreamRef{Tenant: name, Stream: name}
		if got := t.versions(r)[0]; got != 2 {
			t.Errorf("name %q: version %d, want 2", name, got)
		}
	}
	long := []struct{ tenant, stream, typ, id string }{
		{strings.Repeat("t", event.MaxTenant), strings.Repeat("s", event.MaxStream), strings.Repeat("T", event.MaxType), strings.Repeat("i", event.MaxID)},
		{strings.Repeat("é", event.MaxTenant/2), strings.Repeat("東", event.MaxStream/3), strings.Repeat("é", event.MaxType/2), strings.Repeat("é", event.MaxID/2)},
	}
	for _, l := range long {
		t.append(eventlog.StreamAppend{Tenant: l.tenant, Stream: l.stream, Events: []eventlog.NewEvent{
			{ID: l.id, Type: l.typ, Data: []byte(`{}`)}, {Type: l.typ, Data: []byte(`{}`)},
		}})
	}
	got := map[string]event.Event{}
	for _, e := range t.all() {
		got[e.ID] = e
	}
	check := func(tenant, stream, typ, id string, version int64) {
		t.Helper()
		e, ok := got[id]
		if !ok {
			t.Errorf("no event with id %.60q", id)
		} else if e.Tenant != tenant || e.Stream != stream || e.Type != typ || e.Version != version {
			t.Errorf("event %.60q came back as %.60q/%.60q@%d %.60q", id, e.Tenant, e.Stream, e.Version, e.Type)
		}
	}
	for i, name := range odd {
		check(name, name, name, fmt.Sprintf("%s %d", name, i), 1)
		check(name, name, name, event.DerivedID(name, name, 2), 2)
		n := 0
		for p := range t.partitions() {
			n += len(t.events(eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Tenants: []string{name}, Types: []string{name}}}))
		}
		if n != 2 {
			t.Errorf("filtered by tenant and type %q the log has %d events, want 2", name, n)
		}
	}
	for _, l := range long {
		check(l.tenant, l.stream, l.typ, l.id, 1)
		check(l.tenant, l.stream, l.typ, event.DerivedID(l.tenant, l.stream, 2), 2)
	}
}

func testNamesRefused(t *fixture) {
	bad := map[string]string{
		"empty": "", "NUL": "a\x00b", "new line": "a\nb", "escape": "\x1b[2J", "delete": "\x7f",
		"right-to-left override": "a\u202eb", "right-to-left mark": "a\u200f", "zero width space": "a\u200bb",
		"byte order mark": "\ufeffa", "variation selector": "a\ufe0f", "not UTF-8": "a\xffb", "10 kB": strings.Repeat("x", 10_000),
	}
	for why, name := range bad {
		t.Run(why, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			for field, a := range map[string]eventlog.StreamAppend{
				"tenant": one(name, "s", "T", 1),
				"stream": one("a", name, "T", 1),
				"type":   one("a", "s", name, 1),
				"id":     withIDs("a", "s", name),
			} {
				if field == "id" && name == "" {
					continue // no id at all
				}
				err := t.refuses(a)
				if nameErr, ok := errors.AsType[*event.NameError](err); !ok || nameErr.Field != field {
					t.Errorf("error = %v, want a NameError of the %s", err, field)
				}
			}
		})
	}
}

// testNamesCompared: names that differ in any byte are different names.
func testNamesCompared(t *fixture) {
	names := []string{"a", "A", "a ", "aa", "á", "a\u0301", "а" /* Cyrillic */}
	for i, name := range names {
		for range i + 1 {
			t.append(one(name, "s", "T", 1))
			t.append(one("t", name, "T", 1))
		}
	}
	for i, name := range names {
		got := t.versions(eventlog.StreamRef{Tenant: name, Stream: "s"}, eventlog.StreamRef{Tenant: "t", Stream: name})
		if got[0] != int64(i+1) || got[1] != int64(i+1) {
			t.Errorf("versions of tenant %q and of stream %q = %v, want %d each", name, name, got, i+1)
		}
	}
}

func testMetadata(t *fixture) {
	many := event.Metadata{}
	for i := range 200 {
		many[fmt.Sprintf("key-%d", i)] = strings.Repeat("v", i)
	}
	oddOnes := event.Metadata{"": "empty key", "empty value": ""}
	for _, n := range odd {
		oddOnes[n] = n
	}
	oddOnes["control"] = "a\x00b\n\t\x7f"
	for _, m := range []event.Metadata{
		nil, {}, {"a": "b"}, {event.SchemaKey: "2"}, {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "tenant=a,x=%20"},
		oddOnes, many,
	} {
		token := t.append(eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{{Type: "T", Metadata: m, Data: []byte(`{}`)}}})
		e := t.last(token)
		if !maps.Equal(e.Metadata, m) {
			t.Errorf("metadata %v came back as %v", m, e.Metadata)
		}
	}
}

// testLargeMetadata: MaxMetadata bytes are stored, one more is refused: metadata
// come with every event, whatever the limits of its reader.
func testLargeMetadata(t *fixture) {
	many := event.Metadata{}
	for i := range eventlog.MaxMetadata / 8 {
		many[fmt.Sprintf("%06d", i)] = "vv"
	}
	for name, most := range map[string]event.Metadata{
		"a long value": {"k": strings.Repeat("v", eventlog.MaxMetadata-1)},
		"a long key":   {strings.Repeat("k", eventlog.MaxMetadata-1): "v"},
		"many":         many,
	} {
		t.Run(name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			fits, large := one("a", "s", "T", 1), one("a", "s", "T", 2)
			fits.Events[0].Metadata = most
			if e := t.last(t.append(fits)); !maps.Equal(e.Metadata, most) {
				t.Errorf("%d keys came back as %d, or changed", len(most), len(e.Metadata))
			}
			more := maps.Clone(most)
			more["x"] = ""
			large.Events[1].Metadata = more
			t.refusesEvent(eventlog.EventError{Stream: eventlog.StreamRef{Tenant: "a", Stream: "s"}, Event: 1}, one("a", "t", "T", 1), large)
		})
	}
}

// last returns the last event of a token's partition.
func (t *fixture) last(token eventlog.Token) event.Event {
	t.Helper()
	events := t.events(eventlog.ReadRequest{Partition: token.Partition, After: token.Position - 1})
	if len(events) != 1 {
		t.Fatalf("behind the last position of an append there are %d events, want 1", len(events))
	}
	return events[0]
}

func testData(t *fixture) {
	random := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(random.Uint32())
	}
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	for _, tt := range []struct {
		name string
		data []byte
		json bool
	}{
		{"object", []byte(`{"a":1}`), true},
		{"spaces and key order stay", []byte("{ \"b\" : 1.50,\n \"a\":[ ] }"), true},
		{"key twice", []byte(`{"a":1,"a":2}`), true},
		{"escapes stay", []byte(`"\u00e9\/é"`), true},
		{"big number", []byte(`123456789012345678901234567890.10`), true},
		{"null", []byte(`null`), true},
		{"1 MB of JSON", fmt.Appendf(nil, `"%s"`, strings.Repeat("x", 1<<20)), true},
		{"empty", []byte{}, false},
		{"nil", nil, false},
		{"all bytes", binary, false},
		{"not UTF-8", []byte{0xff, 0xfe, 0x00}, false},
		{"text", []byte(`hello`), false},
		{"1 MB of noise", big, false},
	} {
		if t.f.JSONOnly && !tt.json {
			continue
		}
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			token := t.append(eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{{Type: "T", Data: tt.data}}})
			if e := t.last(token); !bytes.Equal(e.Data, tt.data) || e.Withheld != 0 {
				t.Errorf("%d bytes %.40q came back as %d bytes %.40q, withheld %d", len(tt.data), tt.data, len(e.Data), e.Data, e.Withheld)
			}
		})
	}
	if len(big) > 0 && !t.f.JSONOnly {
		// Larger than a page by default: it comes all the same.
		huge := bytes.Repeat(big, 5)
		token := t.append(eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{{Type: "T", Data: huge}}})
		if e := t.last(token); !bytes.Equal(e.Data, huge) {
			t.Errorf("5 MB came back as %d bytes", len(e.Data))
		}
	}
}

func testTimes(t *fixture) {
	for _, at := range []time.Time{
		time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC),
		time.Date(2024, 7, 1, 12, 0, 0, 1, time.FixedZone("east", 9*3600)),
		time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2200, 1, 1, 0, 0, 0, 5000, time.UTC),
		time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Unix(0, 0), time.Unix(0, 1000),
		time.Now(),
	} {
		a := one("a", "s", "T", 1)
		a.Events[0].OccurredAt = at
		before := time.Now()
		e := t.last(t.append(a))
		if d := e.OccurredAt.Sub(at).Abs(); d >= t.f.TimePrecision && d != 0 {
			t.Errorf("OccurredAt %v came back as %v, want it to %v", at, e.OccurredAt, t.f.TimePrecision)
		}
		if e.OccurredAt.Location() != time.UTC || e.RecordedAt.Location() != time.UTC {
			t.Errorf("times %v and %v, want both in UTC", e.OccurredAt, e.RecordedAt)
		}
		// The log's clock may be another machine's.
		if d := e.RecordedAt.Sub(before).Abs(); d > time.Minute {
			t.Errorf("RecordedAt = %v, want about %v", e.RecordedAt, before)
		}
	}
	e := t.last(t.append(one("a", "s", "T", 1)))
	if d := time.Since(e.OccurredAt).Abs(); d > time.Minute {
		t.Errorf("OccurredAt by default = %v, want about now", e.OccurredAt)
	}
}

// testTimesRefused: a time that no producer means is refused as it is appended,
// before it can stop the readers.
func testTimesRefused(t *fixture) {
	t.append(one("a", "s", "T", 1))
	for _, at := range []time.Time{
		time.Unix(time.Now().UnixMilli(), 0), time.Unix(1<<62, 0), time.Unix(-1<<62, 0),
		time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("west", -3600)),
		time.Date(292_277_022, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(0, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 0, time.FixedZone("east", 3600)),
		time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-12345, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		bad := one("a", "s", "T", 3)
		bad.Events[1].OccurredAt = at
		t.refusesEvent(eventlog.EventError{Stream: eventlog.StreamRef{Tenant: "a", Stream: "s"}, Event: 1}, one("a", "t", "T", 1), bad)
	}
}

// refusesEvent is refuses with an EventError like want, whatever its Why.
func (t *fixture) refusesEvent(want eventlog.EventError, appends ...eventlog.StreamAppend) {
	t.Helper()
	err := t.refuses(appends...)
	got, ok := errors.AsType[*eventlog.EventError](err)
	if !ok || got.Stream != want.Stream || got.Event != want.Event {
		t.Errorf("error = %v, want an EventError of event %d of %v", err, want.Event, want.Stream)
	}
}

// testNoAliasing: what the caller does with its slices and maps after an append
// does not reach the log.
func testNoAliasing(t *fixture) {
	a := one("a", "s", "T", 1)
	a.Events[0].Data = []byte(`"original"`)
	a.Events[0].Metadata = event.Metadata{"k": "original"}
	token := t.append(a)
	copy(a.Events[0].Data, `"changed!"`)
	a.Events[0].Metadata["k"] = "changed"
	if e := t.last(token); string(e.Data) != `"original"` || e.Metadata["k"] != "original" {
		t.Errorf("event has data %s and metadata %v, want what was passed", e.Data, e.Metadata)
	}
}
