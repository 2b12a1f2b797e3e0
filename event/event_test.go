package event_test

import (
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
)

func TestPositionString(t *testing.T) {
	for _, tt := range []struct {
		p    event.Position
		want string
	}{
		{event.Beginning, "0"},
		{42, "42"},
		{-1, "-1"},
		{event.Unbounded - 1, "9223372036854775806"},
		{event.Unbounded, "∞"},
	} {
		if got := tt.p.String(); got != tt.want {
			t.Errorf("Position(%d).String() = %q, want %q", int64(tt.p), got, tt.want)
		}
	}
}

func TestHandledType(t *testing.T) {
	for _, tt := range []struct {
		name     string
		metadata event.Metadata
		want     string
	}{
		{"no metadata", nil, "Paid"},
		{"other metadata", event.Metadata{"a": "b"}, "Paid"},
		{"schema", event.Metadata{event.SchemaKey: "2"}, "Paid@2"},
		{"empty schema", event.Metadata{event.SchemaKey: ""}, "Paid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Event{Type: "Paid", Metadata: tt.metadata}
			if got := e.HandledType(); got != tt.want {
				t.Errorf("HandledType() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSizeGrowsWithContents(t *testing.T) {
	small := event.Event{Tenant: "t", Stream: "s", Type: "T"}
	large := small
	large.Data = make([]byte, 1000)
	large.Metadata = event.Metadata{"key": strings.Repeat("v", 500)}
	if got, want := large.Size()-small.Size(), 1500; got < want {
		t.Errorf("1,000 bytes of data and 503 of metadata add %d bytes, want at least %d", got, want)
	}
}

func TestDerivedID(t *testing.T) {
	for _, tt := range []struct {
		tenant, stream string
		version        int64
		want           string
	}{
		{"acme", "order-1", 1, "4:acme/order-1@1"},
		{"a/b", "c", 1, "3:a/b/c@1"},
		{"a", "b/c", 1, "1:a/b/c@1"},
		{"a", "s@1", 2, "1:a/s@1@2"},
		{"é", "s", 1, "2:é/s@1"},
	} {
		got := event.DerivedID(tt.tenant, tt.stream, tt.version)
		if got != tt.want {
			t.Errorf("DerivedID(%q, %q, %d) = %q, want %q", tt.tenant, tt.stream, tt.version, got, tt.want)
		}
		tenant, stream, version, ok := event.ParseDerivedID(got)
		if !ok || tenant != tt.tenant || stream != tt.stream || version != tt.version {
			t.Errorf("ParseDerivedID(%q) = %q, %q, %d, %t", got, tenant, stream, version, ok)
		}
	}
	long := event.DerivedID(strings.Repeat("t", event.MaxTenant), strings.Repeat("s", event.MaxStream), 1<<62)
	if err := event.CheckID(long); err != nil {
		t.Errorf("the longest derived id is refused: %v", err)
	}
}

func TestParseDerivedIDRefuses(t *testing.T) {
	for _, id := range []string{
		"", ":", "1:", "1:a", "1:a/", "1:a/s", "1:a/s@", "1:a/s@x", "1:a/s@01", "1:a/s@+1", "01:a/s@1", "+1:a/s@1",
		"-1:a/s@1", "2:a/s@1", "0x1:a/s@1", "99999:a/s@1", "1:a/s@9223372036854775808", "uuid-like", " 1:a/s@1", "1:a/s@1 ",
	} {
		if tenant, stream, version, ok := event.ParseDerivedID(id); ok {
			t.Errorf("ParseDerivedID(%q) = %q, %q, %d, want none", id, tenant, stream, version)
		}
	}
}

// FuzzDerivedID shows that two different triples never have one id.
func FuzzDerivedID(f *testing.F) {
	f.Add("a", "b/c", int64(1), "a/b", "c", int64(1))
	f.Add("a", "s@1", int64(2), "a", "s", int64(12))
	f.Add("1:a", "s", int64(1), "1", ":a/s", int64(1))
	f.Add("", "", int64(0), "", "@0", int64(0))
	f.Fuzz(func(t *testing.T, t1, s1 string, v1 int64, t2, s2 string, v2 int64) {
		id1, id2 := event.DerivedID(t1, s1, v1), event.DerivedID(t2, s2, v2)
		if same := t1 == t2 && s1 == s2 && v1 == v2; (id1 == id2) != same {
			t.Errorf("(%q, %q, %d) and (%q, %q, %d) have the ids %q and %q", t1, s1, v1, t2, s2, v2, id1, id2)
		}
		if len(t1) > 9_999 {
			return // longer than any tenant may be
		}
		tenant, stream, version, ok := event.ParseDerivedID(id1)
		if !ok || tenant != t1 || stream != s1 || version != v1 {
			t.Errorf("ParseDerivedID(%q) = %q, %q, %d, %t, want %q, %q, %d", id1, tenant, stream, version, ok, t1, s1, v1)
		}
	})
}

// FuzzParseDerivedID shows that what parses is spelled in one way only.
func FuzzParseDerivedID(f *testing.F) {
	f.Add("1:a/s@1")
	f.Add("01:a/s@1")
	f.Add("3:a/b/s@-1")
	f.Fuzz(func(t *testing.T, id string) {
		tenant, stream, version, ok := event.ParseDerivedID(id)
		if ok && event.DerivedID(tenant, stream, version) != id {
			t.Errorf("ParseDerivedID(%q) = %q, %q, %d, which has another id", id, tenant, stream, version)
		}
	})
}
