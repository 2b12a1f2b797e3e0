package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

func openDB(t *testing.T, url string, o postgres.Options) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// start runs a consumer until ctx ends or stop is called, which waits for it.
func start(ctx context.Context, t *testing.T, c *fairlead.Consumer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the consumer ended: %v", err)
		}
	}
}

// caughtUp waits until all lanes have come to a position, those too that come to be
// meanwhile.
func caughtUp(ctx context.Context, t *testing.T, db *postgres.DB, head event.Position) {
	t.Helper()
	for behind := true; behind; {
		behind = false
		err := db.View(ctx, func(tx store.Tx) error {
			lanes, err := tx.Lanes("")
			for _, l := range lanes {
				behind = behind || l.Position < head
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the lanes do not catch up")
		}
	}
}
