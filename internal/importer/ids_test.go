package importer_test

import (
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/importer"
)

const goodLine = `{"tenant":"acme","stream":"s1","version":1,"type":"T","occurred_at":"2026-01-31T12:00:00Z","id":"a","data":1}` + "\n"

// TestIDAgainInItsStream: an event whose id is in its stream already, under
// an earlier version, is a bad line: it is named, and collected, and the others
// are imported.
func TestIDAgainInItsStream(t *testing.T) {
	log := memlog.New()
	first := importer.Importer{Log: log}
	if err := first.Import(t.Context(), "one", strings.NewReader(goodLine)); err != nil {
		t.Fatal(err)
	}
	again := `{"tenant":"acme","stream":"s1","version":2,"type":"T","occurred_at":"2026-01-31T12:00:00Z","id":"a","data":2}
{"tenant":"acme","stream":"s2","version":1,"type":"T","occurred_at":"2026-01-31T12:00:00Z","id":"b","data":3}
`
	var bad []importer.Fault
	im := importer.Importer{Log: log, Bad: func(f importer.Fault) error { bad = append(bad, f); return nil }}
	err := im.Import(t.Context(), "two", strings.NewReader(again))
	if err != nil || len(bad) != 1 || bad[0].Line != 1 || im.Counts.Appended != 1 {
		t.Errorf("error %v, bad lines %v, %d imported; want line 1 as a bad one and the other imported", err, bad, im.Counts.Appended)
	}
}

// TestIDTwiceInABlock: of two lines with one id the second is the bad one.
func TestIDTwiceInABlock(t *testing.T) {
	var bad []importer.Fault
	im := importer.Importer{Log: memlog.New(), Bad: func(f importer.Fault) error { bad = append(bad, f); return nil }}
	err := im.Import(t.Context(), "two", strings.NewReader(goodLine+
		`{"tenant":"acme","stream":"s1","version":2,"type":"T","occurred_at":"2026-01-31T12:00:00Z","id":"a","data":2}`+"\n"))
	if err != nil || len(bad) != 1 || bad[0].Line != 2 || im.Counts.Appended != 1 {
		t.Errorf("error %v, bad lines %v, %d imported; want the first line imported, and line 2 to be the bad one", err, bad, im.Counts.Appended)
	}
}
