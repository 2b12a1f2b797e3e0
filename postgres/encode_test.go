package postgres

import (
	"maps"
	"testing"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/event"
)

func FuzzMetadata(f *testing.F) {
	f.Add("k", "v", "", "")
	f.Add("\x00", `"\`, "\xff", "é")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		m := event.Metadata{k1: v1, k2: v2}
		s := encodeMetadata(m)
		if s == nil || !storable(*s) || !utf8.ValidString(*s) {
			t.Fatalf("metadata %q are encoded as %v, want text that PostgreSQL can hold", m, s)
		}
		got, err := decodeMetadata([]byte(*s))
		if err != nil || !maps.Equal(got, m) {
			t.Errorf("metadata %q came back from %s as %q, %v", m, *s, got, err)
		}
	})
}
