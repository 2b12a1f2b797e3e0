package eventlog

import (
	"context"
	"fmt"
	"time"
)

// A HolderLister is a log whose appends may be parts of longer transactions.
type HolderLister interface {
	// Holders returns the transactions that hold back the head, the oldest
	// first; none where nothing does.
	Holders(ctx context.Context) ([]Holder, error)
}

// A Holder is a transaction that readers of the log wait for: it has written to
// the events table, and what it may still commit has a position below events
// that are there already.
type Holder struct {
	PID         int       // of its session; 0 for a prepared transaction
	Prepared    string    // the name of a prepared transaction
	Application string    // as the session named itself
	User        string    // its role
	State       string    // of the session: "active", "idle in transaction", ...
	Since       time.Time // when it began; zero where the role may not see it (GRANT pg_read_all_stats)
}

func (h Holder) String() string {
	since := ""
	if !h.Since.IsZero() {
		since = ", since " + h.Since.Format(time.RFC3339)
	}
	if h.Prepared != "" {
		return fmt.Sprintf("prepared transaction %q of %s%s: COMMIT PREPARED or ROLLBACK PREPARED", h.Prepared, h.User, since)
	}
	return fmt.Sprintf("pid %d of %s, application %q, %s%s", h.PID, h.User, h.Application, h.State, since)
}
