package importer

import (
	"bytes"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

func parseDay(s string) (time.Time, error) { return time.Parse(time.DateOnly, s) }

// FuzzParse shows that what parses is written as a line that parses to the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(line("a", "s", 1, "")))
	f.Add([]byte(line("a", "s", 1, `,"class":"test"`)))
	f.Add([]byte(line("a", "s", 1, `,"class":"\u2028"`)))
	f.Add([]byte(line("a", "s", 1, `,"id":"x","metadata":{"k":"\u2028"}`)))
	f.Add([]byte(`{"tenant":"a","stream":"s","version":1,"type":"T","occurred_at":"2026-01-02T03:04:05+01:00","data_base64":"AAE="}`))
	f.Add([]byte(`{"tenant":"a","stream":"s","version":1,"type":"T","occurred_at":"2026-01-02T03:04:05Z","data":[ 1e400,"\ud800" ]}`))
	f.Add([]byte(`{"tenant":"a","stream":"s","version":1,"type":"T","occurred_at":"9999-12-31T23:59:59-01:00","data":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r record
		if r.parse(text) != nil {
			return
		}
		e := event.Event{ID: r.ID, Tenant: r.Tenant, Stream: r.Stream, Version: r.Version, Type: r.Type, Class: r.Class,
			OccurredAt: r.OccurredAt, Metadata: r.Metadata, Data: r.Data}
		out, err := appendLine(nil, &e)
		if err != nil {
			t.Fatalf("%q parses, but cannot be written: %v", text, err)
		}
		if bytes.IndexByte(out, '\n') != len(out)-1 {
			t.Fatalf("more than one line: %q", out)
		}
		var back record
		if err := back.parse(out[:len(out)-1]); err != nil {
			t.Fatalf("%q was written as %q, which does not parse: %v", text, out, err)
		}
		again, err := appendLine(nil, &event.Event{ID: back.ID, Tenant: back.Tenant, Stream: back.Stream, Version: back.Version,
			Type: back.Type, Class: back.Class, OccurredAt: back.OccurredAt, Metadata: back.Metadata, Data: back.Data})
		if err != nil || !bytes.Equal(out, again) {
			t.Errorf("written as %q, then as %q, %v", out, again, err)
		}
	})
}
