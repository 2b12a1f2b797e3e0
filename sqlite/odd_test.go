package sqlite_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// TestOddTimeOfOneTenant: an event of the year 57,000 (milliseconds taken for
// seconds) is its producer's fault, and does not stop the other tenants.
func TestOddTimeOfOneTenant(t *testing.T) {
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	if err != nil {
		t.Fatal(err)
	}
	type nothing struct{}
	p := fairlead.NewProjection("p", fairlead.On("T", func(*nothing, fairlead.Event[nothing]) error { return nil }))
	if err := c.Add(t.Context(), fairlead.Project(p)); err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(run) }()
	defer func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()

	odd := eventlog.NewEvent{Type: "T", Data: []byte("{}"), OccurredAt: time.Unix(time.Now().UnixMilli(), 0)}
	_, err = db.Append(t.Context(), eventlog.StreamAppend{Tenant: "odd", Stream: "s", Events: []eventlog.NewEvent{odd}})
	if _, ok := errors.AsType[*eventlog.EventError](err); !ok {
		t.Errorf("Append of the odd event: got %v, want an EventError", err)
	}
	token, err := db.Append(t.Context(), eventlog.StreamAppend{Tenant: "good", Stream: "s", Events: []eventlog.NewEvent{{Type: "T", Data: []byte("{}")}}})
	if err != nil {
		t.Fatal(err)
	}
	wait, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitFor(wait, "p", token); err != nil {
		st, _ := c.Stats("p")
		t.Errorf("the event of tenant good: %v; errors of the lanes %v", err, st.Errors)
	}
}
