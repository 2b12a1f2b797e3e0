package kafka_test

import (
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/twmb/franz-go/pkg/kadm"
)

// TestForgottenSandbox: the ledger keeps a sandbox that is gone for as long as the topic
// has an event that it has processed, and no longer. Nothing is lost or doubled by that.
func TestForgottenSandbox(t *testing.T) {
	t.Parallel()
	const parts = 2
	topic, database := kafkatest.Topic(t, parts), pgtest.Database(t)
	l := newRoutedLoad(t, topic, parts)
	base := startRouting(t, database, topic, "", "", fairlead.Project(notes()))
	box := startRouting(t, database, topic, "pr-1", "", fairlead.Project(notes()))
	l.write("pr-1", 5)
	l.write("", 5)
	eventually(t, 30*time.Second, "both have all", func() bool { return len(l.missing(base.db, box.db)) == 0 && routed(t, base.db) == 0 })
	keeper := fairlead.RouteKeeper{Store: base.db, Ledger: base.l, Log: base.log.LedgerLog(), Service: "notes", Start: base.log.Start}
	rows := func() int {
		t.Helper()
		if _, err := keeper.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := base.l.Sandboxes(t.Context(), keeper.Log, keeper.Service, nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := rows(); n != 1 {
		t.Errorf("%d registrations, want that of the sandbox that runs", n)
	}
	has := applied(t, box.db)
	eventually(t, 30*time.Second, "the sandbox has passed over what is the baseline's", func() bool { // or retention passes it
		var lanes []store.Lane
		if err := box.db.View(t.Context(), func(tx store.Tx) (err error) { lanes, err = tx.Lanes("notes"); return err }); err != nil {
			t.Fatal(err)
		}
		for i := range lanes {
			head, err := box.log.Head(t.Context(), lanes[i].Partition)
			if err != nil {
				t.Fatal(err)
			}
			if lanes[i].Position < head {
				return false
			}
		}
		return true
	})
	box.stop()
	if n := rows(); n != 1 {
		t.Errorf("%d registrations, want 1: what the sandbox has is in the topic", n)
	}
	admin := kadm.NewClient(kafkatest.Client(t))
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "it is forgotten", func() bool { return rows() == 0 })
	l.write("pr-1", 5)
	l.write("", 5)
	defer func() {
		if t.Failed() {
			letters, err := fairlead.Admin{Store: base.db}.DeadLetters(t.Context(), store.LetterFilter{})
			t.Logf("next %v, base %v, box %v, letters %+v, %v", l.next, applied(t, base.db), has, letters, err)
		}
	}()
	eventually(t, 30*time.Second, "the baseline has what came then", func() bool {
		for stream, n := range l.next {
			if len(applied(t, base.db)[stream])+len(has[stream]) != n {
				return false
			}
		}
		return routed(t, base.db) == 0
	})
	box = startRouting(t, database, topic, "pr-1", "", fairlead.Project(notes()))
	l.write("pr-1", 5)
	eventually(t, 30*time.Second, "the sandbox has what came since it registered again", func() bool { return len(l.missing(base.db, box.db)) == 0 })
}
