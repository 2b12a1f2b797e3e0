package cli

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestWaitForRebuildThatIsOver: a small rebuild may be over before its row is read.
func TestWaitForRebuildThatIsOver(t *testing.T) {
	s := memstore.New()
	row, err := lane.Setup(t.Context(), s, store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 1}, func(int) event.Position { return event.Beginning })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	p := &program{Env: &Env{Stdout: io.Discard, Stderr: io.Discard}}
	if err := p.waitForRebuild(ctx, fairlead.Admin{Store: s, Log: memlog.New()}, row, true); err != nil {
		t.Errorf("it is waited for: %v", err)
	}
}
