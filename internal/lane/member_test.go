package lane_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// TestMemberSince: since when a member is there is the store's to say, and stays so
// over heartbeats and what it has to tell: its own clock may be wrong.
func TestMemberSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		began := time.Now()
		beat := func(clock time.Time, notes string) {
			t.Helper()
			has, kept, err := lane.Keep(t.Context(), r.s, "m", time.Minute, "x", notes)
			r.must(err)
			if !kept {
				r.must(lane.Join(t.Context(), r.s, store.Member{ID: "m", Since: clock, Notes: notes}, time.Minute))
			} else if has != notes {
				t.Errorf("the store has the notes %q, want %q", has, notes)
			}
			r.must(r.s.View(t.Context(), func(tx store.Tx) error {
				members, err := tx.Members()
				if len(members) != 1 || !members[0].Since.Equal(began) || members[0].Notes != notes || !members[0].Until.Equal(time.Now().Add(time.Minute)) {
					t.Errorf("the members are %+v, want one with notes %q since %v, until a minute from %v", members, notes, began, time.Now())
				}
				return err
			}))
		}
		beat(time.Now().Add(48*time.Hour), "a")
		time.Sleep(time.Second)
		beat(time.Now().Add(-48*time.Hour), "a")
		time.Sleep(time.Second)
		beat(time.Time{}, "b")
		time.Sleep(2 * time.Minute) // its lease has ended, and it is back
		beat(time.Now(), "b")
	})
}

// TestJoinShortensNoLease: it may be extended beside, by who knows a later time.
func TestJoinShortensNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.must(lane.Join(t.Context(), r.s, store.Member{ID: "m"}, time.Hour))
		until := time.Now().Add(time.Hour)
		r.must(lane.Join(t.Context(), r.s, store.Member{ID: "m", Notes: "new"}, time.Minute))
		r.must(r.s.View(t.Context(), func(tx store.Tx) error {
			members, err := tx.Members()
			if len(members) != 1 || members[0].Notes != "new" || !members[0].Until.Equal(until) {
				t.Errorf("the members are %+v, want one until %v", members, until)
			}
			return err
		}))
	})
}
