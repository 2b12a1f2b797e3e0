package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// oddTimes are times that no append takes. They are in files all the same: dead
// letters have them from other logs, events from before they were refused.
var oddTimes = []time.Time{
	time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(58_000, 2, 29, 1, 2, 3, 4, time.UTC),
	time.Date(292_277_022, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<62, 0), time.Unix(-1<<62, 1),
	time.Date(0, 2, 29, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-12345, 12, 31, 0, 0, 0, 5, time.UTC),
}

// TestOddTimesAreReadable: whatever time the log holds, its events are read.
func TestOddTimesAreReadable(t *testing.T) {
	db := openTemp(t)
	for _, at := range oddTimes {
		mustAppend(t, db, one("a", "s", 1))
		sql(t, db.path, fmt.Sprintf("UPDATE fairlead_events SET occurred_at = '%s' WHERE position = (SELECT max(position) FROM fairlead_events)",
			at.UTC().Format(time.RFC3339Nano)))
	}
	events := readAll(t, db, eventlog.Filter{})
	if len(events) != len(oddTimes) {
		t.Fatalf("read %d events, want %d", len(events), len(oddTimes))
	}
	for i, at := range oddTimes {
		if got := events[i].OccurredAt; !got.Equal(at) || got.Location() != time.UTC {
			t.Errorf("time %v came back as %v", at.UTC(), got)
		}
	}
}

// TestTimeByHand: text that no time was ever written as is named with its event.
func TestTimeByHand(t *testing.T) {
	for _, text := range []string{"", "yesterday", "12345", "20260102", "-", "2026-", "99999999999999999999-01-02T03:04:05Z", "10001-02-29T00:00:00Z", "--0001-01-01T00:00:00Z"} {
		if got, err := parseTime(text); !errors.Is(err, ErrCorrupt) {
			t.Errorf("parseTime(%q) = %v, %v, want ErrCorrupt", text, got, err)
		}
	}
	db := openTemp(t)
	mustAppend(t, db, one("a", "s", 1))
	sql(t, db.path, "UPDATE fairlead_events SET occurred_at = 'yesterday'")
	_, err := readFrom(t.Context(), db, eventlog.Filter{})
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "event 1: ") || !strings.Contains(err.Error(), "yesterday") {
		t.Errorf("Read: got %v, want ErrCorrupt with the event and its text", err)
	}
}
